"""Validation of tokens, and the real server's errors for invalid ones."""

import base64
import hmac
import json
from typing import Any

import pytest

from supawire.events import Instant
from supawire.server.tokens import MAX_TOKEN, Claims, TokenError, TokenRefused, check, sign
from tests.server.world import SECRET, START, unsigned

NOW = Instant(5.0, START + 0.75)


def token(secret: str = SECRET, **claims: Any) -> str:
    return sign({"role": "authenticated", "exp": int(START) + 60, **claims}, secret)


def test_a_valid_token_gives_its_claims() -> None:
    """These are the role, the expiry and all others."""
    claims = check(token(sub="7"), SECRET, NOW)
    assert isinstance(claims, Claims)
    assert (claims.role, claims.exp, claims.values["sub"]) == ("authenticated", START + 60, "7")


def test_a_token_is_percent_decoded_and_stripped() -> None:
    """This happens before it is checked."""
    assert isinstance(check(" " + token().replace(".", "%2E") + "\n", SECRET, NOW), Claims)


MISSING = "Fields `role` and `exp` are required in JWT"
NO_JWT = "The token provided is not a valid JWT"
SIGNER = "Failed to generate JWT signer, check your JWT secret or JWKS configuration"


@pytest.mark.parametrize(
    ("given", "status", "error", "reason", "message"),
    [
        ("garbage", 401, NO_JWT, f"MalformedJWT: {NO_JWT}", NO_JWT),
        ("", 401, NO_JWT, f"MalformedJWT: {NO_JWT}", NO_JWT),
        ("sb_publishable_x", 401, NO_JWT, f"MalformedJWT: {NO_JWT}", NO_JWT),
        (
            token(exp=int(START) - 3),
            401,
            "Token has expired",
            "InvalidJWTToken: Token has expired 3 seconds ago",
            "Token has expired 3 seconds ago",
        ),
        (
            token(exp=int(START)),
            401,
            "Token has expired",
            "InvalidJWTToken: Token has expired 0 seconds ago",
            "Token has expired 0 seconds ago",
        ),
        (sign({"role": "anon"}, SECRET), 401, MISSING, f"InvalidJWTToken: {MISSING}", MISSING),
        (sign({"exp": int(START) + 60}, SECRET), 401, MISSING, f"InvalidJWTToken: {MISSING}", MISSING),
        (
            token("another-secret-that-is-long-enough-for-hs256"),
            401,
            "Failed to validate JWT signature",
            "JwtSignatureError: Failed to validate JWT signature",
            ":signature_error",
        ),
        (unsigned({"alg": "none"}), 401, SIGNER, f"JwtSignerError: {SIGNER}", ":error_generating_signer"),
        (unsigned({"alg": "RS256"}, "AAAA"), 401, SIGNER, f"JwtSignerError: {SIGNER}", ":error_generating_signer"),
        (
            unsigned({"alg": "RS256", "kid": "K1"}, "AAAA"),
            401,
            SIGNER.replace("signer,", 'signer for key ID (kid) "K1",'),
            "JwtSignerError: " + SIGNER.replace("signer,", 'signer for key ID (kid) "K1",'),
            SIGNER.replace("signer,", 'signer for key ID (kid) "K1",'),
        ),
        (token(iat="now"), 500, "Error connecting to Realtime", "Unknown Error on Channel", "Unknown Error on Channel"),
        (
            token(exp=START - 0.5),
            500,
            "Error connecting to Realtime",
            "Unknown Error on Channel",
            "Unknown Error on Channel",
        ),
    ],
)
def test_an_invalid_token_has_the_real_servers_error(
    given: str, status: int, error: str, reason: str, message: str
) -> None:
    """Each error has its status and its texts for the handshake, a join and a system message."""
    refused = check(given, SECRET, NOW)
    assert isinstance(refused, TokenRefused)
    assert (refused.status, refused.error, refused.reason, refused.message) == (status, error, reason, message)


def signed(header: bytes, claims: bytes, secret: str = SECRET) -> str:
    """Return a token with these parts and a valid signature."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    text = f"{part(header)}.{part(claims)}"
    return f"{text}.{part(hmac.digest(secret.encode(), text.encode(), 'sha256'))}"


HS256 = b'{"alg":"HS256","typ":"JWT"}'
GOOD = b'{"role":"anon","exp":4000000000}'
CONNECTING = "Error connecting to Realtime"
UNKNOWN = "Unknown Error on Channel"


@pytest.mark.parametrize(
    ("given", "status", "error", "reason"),
    [
        (f'"{token()}"', 500, CONNECTING, UNKNOWN),
        (token()[1:], 500, CONNECTING, "UnknownErrorOnChannel: Erlang error: {:invalid_byte, "),
        (signed(b'{"alg":', GOOD), 500, CONNECTING, "UnknownErrorOnChannel: Erlang error: :unexpected_end"),
        (signed(b"[]", GOOD), 500, CONNECTING, UNKNOWN),
        (signed(HS256, b"[]"), 500, CONNECTING, UNKNOWN),
        (signed(HS256, b"{x}"), 500, CONNECTING, "UnknownErrorOnChannel: Erlang error: {:invalid_byte, 120}"),
        ("not.a.jwt", 401, NO_JWT, f"MalformedJWT: {NO_JWT}"),
    ],
)
def test_a_malformed_token_is_refused_as_by_the_real_server(given: str, status: int, error: str, reason: str) -> None:
    """A handshake with a damaged header gets 500, and a join the error of the server's parser."""
    refused = check(given, SECRET, NOW)
    assert isinstance(refused, TokenRefused)
    assert (refused.status, refused.error) == (status, error)
    assert refused.reason.startswith(reason)


@pytest.mark.parametrize("name", ["alg", "kid", "typ", "b64", "crit"])
@pytest.mark.parametrize("value", [None, [], {}, [[]], 5, 1e300, True, "", "x", "HS256", "RS256", "\0"])
def test_no_header_makes_the_check_raise(name: str, value: Any) -> None:
    """All values of all header fields are accepted or refused."""
    header = json.dumps({"alg": "HS256", name: value}).encode()
    assert isinstance(check(signed(header, GOOD), SECRET, NOW), Claims | TokenRefused)


@pytest.mark.parametrize("name", ["role", "exp", "iat", "sub", "aud", "nbf"])
@pytest.mark.parametrize(
    "value", ["null", "[]", "{}", "true", '""', '"\\u0000"', "1e308", "1e999", "-1", "9" * 400, "9" * 5000]
)
def test_no_claim_makes_the_check_raise(name: str, value: str) -> None:
    """All values of all claims are accepted or refused, and an accepted expiry can be compared with a clock."""
    claims = b'{"role":"anon","exp":4000000000,"%b":%b}' % (name.encode(), value.encode())
    found = check(signed(HS256, claims), SECRET, NOW)
    assert isinstance(found, Claims | TokenRefused)
    if isinstance(found, Claims):
        assert found.expired(NOW) is None and float(found.exp) - NOW.wall > 0


@pytest.mark.parametrize("exp", ["9" * 400, "1e300", "-" + "9" * 400])
def test_an_exp_of_many_digits_is_refused(exp: str) -> None:
    """A number that large cannot be compared with the clock."""
    claims = b'{"role":"anon","exp":%b}' % exp.encode()
    assert check(signed(HS256, claims), SECRET, NOW) == TokenRefused(TokenError.UNEXPECTED)


@pytest.mark.parametrize(
    "role", ["none", "public", "current_user", "session_user", "current_role", "pg_monitor", "a\0"]
)
def test_a_reserved_role_is_refused(role: str) -> None:
    """With `none` PostgreSQL resets the role, and the token would have the rights of the server itself."""
    refused = check(token(role=role), SECRET, NOW)
    assert isinstance(refused, TokenRefused) and refused.kind is TokenError.ROLE and refused.status == 401


@pytest.mark.parametrize("piece", [".", "%41", " ", "a", "é"])
def test_a_huge_token_is_refused_by_its_length(piece: str) -> None:
    """A token of a megabyte is not decoded."""
    assert check(piece * 1_000_000, SECRET, NOW) == TokenRefused(TokenError.MALFORMED)
    assert check(token(more="x" * MAX_TOKEN), SECRET, NOW) == TokenRefused(TokenError.MALFORMED)


def test_a_token_with_large_claims_is_accepted() -> None:
    """Providers put roles and groups of tens of kilobytes into claims."""
    assert isinstance(check(token(groups=["a-group-of-users"] * 2000), SECRET, NOW), Claims)


def test_an_unsigned_token_is_refused() -> None:
    """`alg: none` is never accepted, with or without a signature."""
    for signature in ("", "AAAA"):
        for name in ("none", "None", "NONE"):
            assert isinstance(check(unsigned({"alg": name}, signature), SECRET, NOW), TokenRefused)


def test_expiry_is_compared_with_the_given_time() -> None:
    """The comparison is exact to the second."""
    short = token(exp=int(START) + 1)
    assert isinstance(check(short, SECRET, Instant(0.0, START + 0.999)), Claims)
    assert isinstance(check(short, SECRET, Instant(0.0, START + 1.0)), TokenRefused)
