"""Tokens of the local server: HS256 with one secret, checked as the real server checks them (protocol §1.3, §7.1).

PyJWT verifies the signature, in constant time; `exp` is compared here, with the time the caller passes.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeGuard
from urllib.parse import unquote

import jwt
from jwt.algorithms import requires_cryptography

from supawire.types import Instant

ALGORITHMS: Final = ("HS256", "HS384", "HS512")
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
# Typed here: half of PyJWT's signatures name types of `cryptography`, which is not installed.
_decode: Final[Callable[..., dict[str, Any]]] = jwt.decode  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
_encode: Final[Callable[..., str]] = jwt.encode  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class Flaw(Enum):
    """What is wrong with a token: the texts at the handshake (status, error), at a join, and in a system message."""

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
        'Failed to generate JWT signer for key ID (kid) "{kid}", check your JWT secret or JWKS configuration',
        (
            'JwtSignerError: Failed to generate JWT signer for key ID (kid) "{kid}", '
            "check your JWT secret or JWKS configuration"
        ),
        'Failed to generate JWT signer for key ID (kid) "{kid}", check your JWT secret or JWKS configuration',
    )
    ODD = (500, "Error connecting to Realtime", "Unknown Error on Channel", "Unknown Error on Channel")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says."""

    values: Mapping[str, Any]
    role: str
    exp: float

    def expired(self, now: Instant) -> "Refused | None":
        """The refusal of this token once its time has come."""
        late = int(now.wall) - self.exp
        return Refused(Flaw.EXPIRED, seconds=int(late)) if late >= 0 else None


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a token is not good enough."""

    flaw: Flaw
    seconds: int = 0
    kid: str = ""

    @property
    def status(self) -> int:
        """HTTP status at the handshake."""
        return self.flaw.value[0]

    @property
    def error(self) -> str:
        """The `error` of a refused handshake (protocol §1.3)."""
        return self._text(1)

    @property
    def reason(self) -> str:
        """The `reason` of a refused join (protocol §9.2)."""
        return self._text(2)

    @property
    def message(self) -> str:
        """The `message` of the system frame that ends a channel (protocol §3.6)."""
        return self._text(3)

    def _text(self, column: int) -> str:
        return str(self.flaw.value[column]).format(seconds=self.seconds, kid=self.kid)


def check(token: str, secret: str, now: Instant) -> Claims | Refused:
    """The claims of a token, or why it is refused."""
    token = clean(token)
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        return Refused(Flaw.MALFORMED)
    if header.get("alg") not in ALGORITHMS:
        kid = header.get("kid")
        asymmetric = header.get("alg") in requires_cryptography
        return Refused(Flaw.KEY_ID, kid=str(kid)) if asymmetric and kid else Refused(Flaw.SIGNER)
    try:
        values = _decode(token, secret, algorithms=list(ALGORITHMS), options=_UNCHECKED)
    except jwt.InvalidSignatureError:
        return Refused(Flaw.SIGNATURE)
    except jwt.InvalidTokenError:
        return Refused(Flaw.MALFORMED)
    return _check_claims(values, now)


def _check_claims(values: dict[str, Any], now: Instant) -> Claims | Refused:
    role, exp, seconds = values.get("role"), values.get("exp"), int(now.wall)
    if not _is_number(values.get("iat", 0)) or ("exp" in values and not _is_number(exp)):
        return Refused(Flaw.ODD)
    if _is_number(exp) and seconds >= exp:
        return Refused(Flaw.EXPIRED, seconds=seconds - exp) if isinstance(exp, int) else Refused(Flaw.ODD)
    if not isinstance(role, str) or not _is_number(exp):
        return Refused(Flaw.NO_CLAIMS)
    return Claims(values, role, exp)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def clean(token: str) -> str:
    """A token as the server reads it: percent-decoded, without blanks (protocol §1.2)."""
    return _BLANKS.sub("", unquote(token))


def sign(claims: Mapping[str, Any], secret: str) -> str:
    """A token for these claims."""
    return _encode(dict(claims), secret, algorithm="HS256")
