"""What an API key or a token is, from its text; nothing is verified."""

import base64
import binascii
from typing import Any, Final, cast

import msgspec

MAX_TOKEN: Final = 65_536
"""Maximum characters of a token that is decoded."""

_decode: Final = msgspec.json.Decoder().decode


def kind_of_key(text: str) -> str:
    """Return the kind of key in some words, such as "publishable key" or "legacy anon key (JWT)"."""
    if text.startswith("sb_publishable_"):
        return "publishable key"
    if text.startswith("sb_secret_"):
        return "secret key"
    parts = decode_jwt(text)
    if parts is None:
        return "unknown kind of key"
    claims = parts[1]
    role = claims.get("role")
    if role in ("anon", "service_role") and "sub" not in claims:
        return f"legacy {'anon' if role == 'anon' else 'service_role'} key (JWT)"
    return "token of a user (JWT)" if "sub" in claims else "token (JWT)"


def decode_jwt(text: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return header and claims of a JWT, or None if the text is not one. The signature is not verified."""
    parts = text.split(".") if len(text) <= MAX_TOKEN else []
    if len(parts) != 3:
        return None
    decoded = [_object(part) for part in parts[:2]]
    if decoded[0] is None or decoded[1] is None:
        return None
    return decoded[0], decoded[1]


def _object(part: str) -> dict[str, Any] | None:
    try:
        value = _decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
