"""Tokens of the local server: HS256 with one secret, validated as the real server does.

See docs/protocol.md, JWT rules. The three parts are decoded and type-checked here, because tokens are untrusted input
and PyJWT raises undocumented exceptions for some of them. PyJWT verifies the signature in constant time; `exp` is
compared with the time the caller passes.
"""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeGuard
from urllib.parse import unquote

import jwt
from jwt.algorithms import requires_cryptography

from supawire.events import Instant
from supawire.server.elixir_inspect import elixir_inspect
from supawire.server.wire import DECODE_ERRORS, decode, is_object

ALGORITHMS: Final = ("HS256", "HS384", "HS512")
MAX_TOKEN: Final = 65_536
"""Maximum characters of a token; the duration of a check is proportional to them."""
MAX_SECONDS: Final = 2.0**53
"""Largest absolute value of `exp` and `iat`; up to here a float represents every integer."""
RESERVED: Final = frozenset({"none", "public", "current_role", "current_user", "session_user"})
"""Role names that PostgreSQL reserves; with `none` the session would keep the server's own rights."""
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]*")
_BLANKS: Final = re.compile(r"\s")
_UNCHECKED: Final[Any] = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
# Typed here, because PyJWT's signatures name types of `cryptography`, which may not be installed.
_decode: Final[Callable[..., dict[str, Any]]] = jwt.decode
_encode: Final[Callable[..., str]] = jwt.encode


class TokenError(Enum):
    """The errors of a token with their texts at the handshake (status, error), at a join and in a `system` frame."""

    EXPIRED = (
        401,
        "Token has expired",
        "InvalidJWTToken: Token has expired {seconds} seconds ago",
        "Token has expired {seconds} seconds ago",
    )
    NO_CLAIMS = (
        401,
        "Fields `role` and `exp` are required in JWT",
        "InvalidJWTToken: Fields `role` and `exp` are required in JWT",
        "Fields `role` and `exp` are required in JWT",
    )
    MALFORMED = (
        401,
        "The token provided is not a valid JWT",
        "MalformedJWT: The token provided is not a valid JWT",
        "The token provided is not a valid JWT",
    )
    SIGNATURE = (
        401,
        "Failed to validate JWT signature",
        "JwtSignatureError: Failed to validate JWT signature",
        ":signature_error",
    )
    SIGNER = (
        401,
        "Failed to generate JWT signer, check your JWT secret or JWKS configuration",
        "JwtSignerError: Failed to generate JWT signer, check your JWT secret or JWKS configuration",
        ":error_generating_signer",
    )
    KEY_ID = (
        401,
        "Failed to generate JWT signer for key ID (kid) {kid}, check your JWT secret or JWKS configuration",
        (
            "JwtSignerError: Failed to generate JWT signer for key ID (kid) {kid}, "
            "check your JWT secret or JWKS configuration"
        ),
        "Failed to generate JWT signer for key ID (kid) {kid}, check your JWT secret or JWKS configuration",
    )
    UNEXPECTED = (500, "Error connecting to Realtime", "Unknown Error on Channel", "Unknown Error on Channel")
    HEADER = (500, "Error connecting to Realtime", "Unknown Error on Channel", ":expected_header_map")
    CLAIMS = (500, "Error connecting to Realtime", "Unknown Error on Channel", ":expected_claims_map")
    NOT_JSON = (
        500,
        "Error connecting to Realtime",
        "UnknownErrorOnChannel: Erlang error: {found}",
        "UnknownErrorOnChannel: Erlang error: {found}",
    )
    ROLE = (
        401,
        "The token provided is not a valid JWT: PostgreSQL reserves the name of its role",
        "MalformedJWT: The token provided is not a valid JWT: PostgreSQL reserves the name of its role",
        "The token provided is not a valid JWT: PostgreSQL reserves the name of its role",
    )
    """Not an error of the real server, where such a token would have the rights of the server's own role."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a valid token."""

    values: Mapping[str, Any]
    role: str
    exp: float

    def expired(self, now: Instant) -> "TokenRefused | None":
        """Return the error of this token if it has expired, else None."""
        late = int(now.wall) - self.exp
        return TokenRefused(TokenError.EXPIRED, seconds=int(late)) if late >= 0 else None


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """The reason why a token is invalid."""

    kind: TokenError
    seconds: int = 0
    kid: str = ""
    found: str = ""
    """The text of the real server's JSON parser."""

    @property
    def status(self) -> int:
        """The HTTP status of a refused handshake."""
        return self.kind.value[0]

    @property
    def error(self) -> str:
        """The `error` of a refused handshake."""
        return self._text(1)

    @property
    def reason(self) -> str:
        """The `reason` of a refused join."""
        return self._text(2)

    @property
    def message(self) -> str:
        """The `message` of the `system` frame that ends a channel."""
        return self._text(3)

    def _text(self, column: int) -> str:
        return str(self.kind.value[column]).format(seconds=self.seconds, kid=self.kid, found=self.found)


def check(token: str, secret: str, now: Instant) -> Claims | TokenRefused:
    """Return the claims of a token, or why it is refused. The checks are in the real server's order."""
    if len(token) > MAX_TOKEN:
        return TokenRefused(TokenError.MALFORMED)
    token = clean(token)
    parts = token.split(".")
    if len(parts) != 3:
        return TokenRefused(TokenError.MALFORMED)
    values = _part(parts[1], TokenError.MALFORMED, TokenError.CLAIMS)
    header = _part(parts[0], TokenError.HEADER, TokenError.HEADER)
    if isinstance(values, TokenRefused):
        return values
    if isinstance(header, TokenRefused):
        return header
    if (refused := _check_signature(token, parts[2], header, secret)) is not None:
        return refused
    return _check_claims(values, now)


def _part(text: str, not_base64: TokenError, not_object: TokenError) -> dict[str, Any] | TokenRefused:
    """Return the decoded JSON object of one part of a token, or the error."""
    if _SEGMENT.fullmatch(text) is None or len(text) % 4 == 1:
        return TokenRefused(not_base64)
    raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    try:
        value = decode(raw)
    except DECODE_ERRORS:
        return TokenRefused(TokenError.NOT_JSON, found=_json_error(raw))
    return value if is_object(value) else TokenRefused(not_object)


def _json_error(raw: bytes) -> str:
    """Return the real server's JSON error: the unexpected byte, or the unexpected end."""
    text = raw.decode("latin-1")
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        place = error.pos
    except (RecursionError, ValueError):
        place = 0
    else:
        place = next((at for at, byte in enumerate(raw) if byte > 127), len(raw))
    if place >= len(raw) or text.startswith('"', place):  # an unterminated string is reported at its start
        return ":unexpected_end"
    return f"{{:invalid_byte, {raw[place]}}}"


def _check_signature(token: str, signature: str, header: dict[str, Any], secret: str) -> TokenRefused | None:
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        asymmetric = isinstance(algorithm, str) and algorithm in requires_cryptography
        named = asymmetric and isinstance(kid, str) and kid
        return TokenRefused(TokenError.KEY_ID, kid=elixir_inspect(kid)) if named else TokenRefused(TokenError.SIGNER)
    if _SEGMENT.fullmatch(signature) is None:
        return TokenRefused(TokenError.SIGNATURE)
    try:
        _decode(token, secret, algorithms=list(ALGORITHMS), options=_UNCHECKED)
    except jwt.InvalidSignatureError:
        return TokenRefused(TokenError.SIGNATURE)
    except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):  # only PyJWT rejects these parts
        return TokenRefused(TokenError.MALFORMED)
    return None


def _check_claims(values: dict[str, Any], now: Instant) -> Claims | TokenRefused:
    role, exp, seconds = values.get("role"), values.get("exp"), int(now.wall)
    if not _is_number(values.get("iat", 0)) or ("exp" in values and not _is_number(exp)):
        return TokenRefused(TokenError.UNEXPECTED)
    if _is_number(exp) and seconds >= exp:
        return (
            TokenRefused(TokenError.EXPIRED, seconds=seconds - exp)
            if isinstance(exp, int)
            else TokenRefused(TokenError.UNEXPECTED)
        )
    if not isinstance(role, str) or not _is_number(exp):
        return TokenRefused(TokenError.NO_CLAIMS)
    if role in RESERVED or role.startswith("pg_") or "\0" in role:
        return TokenRefused(TokenError.ROLE)
    return Claims(values, role, exp)


def _is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a claim is a number that can be compared with a time."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_SECONDS


def clean(token: str) -> str:
    """Return a token as the server reads it: percent-decoded, without blanks."""
    return _BLANKS.sub("", unquote(token))


def sign(claims: Mapping[str, Any], secret: str) -> str:
    """Return a signed token with these claims."""
    return _encode(dict(claims), secret, algorithm="HS256")
