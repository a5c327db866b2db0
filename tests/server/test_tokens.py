"""Tokens and the server's words about bad ones (protocol §1.3, §3.6, §7.1, §9.2)."""

import base64
import json
from typing import Any

import pytest

from supawire.server.tokens import Claims, Refused, check, sign
from supawire.types import Instant
from tests.server.world import SECRET, START

NOW = Instant(5.0, START + 0.75)


def token(secret: str = SECRET, **claims: Any) -> str:
    return sign({"role": "authenticated", "exp": int(START) + 60, **claims}, secret)


def unsigned(header: dict[str, Any], signature: str = "") -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part({'role': 'service_role', 'exp': int(START) + 60})}.{signature}"


def test_a_good_token_gives_its_claims() -> None:
    """Role, expiry and everything else it says are there."""
    claims = check(token(sub="7"), SECRET, NOW)
    assert isinstance(claims, Claims)
    assert (claims.role, claims.exp, claims.values["sub"]) == ("authenticated", START + 60, "7")


def test_blanks_and_percent_signs_are_taken_out() -> None:
    """A token is percent-decoded and stripped before it is checked (protocol §1.2)."""
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
def test_a_bad_token_is_refused_in_the_servers_words(
    given: str, status: int, error: str, reason: str, message: str
) -> None:
    """Each flaw has its status and its text at the handshake, at a join and in a system message."""
    refused = check(given, SECRET, NOW)
    assert isinstance(refused, Refused)
    assert (refused.status, refused.error, refused.reason, refused.message) == (status, error, reason, message)


def test_an_unsigned_token_is_refused_whatever_it_says() -> None:
    """`alg: none` is never taken, with or without a signature."""
    for signature in ("", "AAAA"):
        for name in ("none", "None", "NONE"):
            assert isinstance(check(unsigned({"alg": name}, signature), SECRET, NOW), Refused)


def test_the_time_is_the_callers() -> None:
    """Expiry is judged by the time passed in, to the second."""
    short = token(exp=int(START) + 1)
    assert isinstance(check(short, SECRET, Instant(0.0, START + 0.999)), Claims)
    assert isinstance(check(short, SECRET, Instant(0.0, START + 1.0)), Refused)
