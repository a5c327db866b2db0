"""Read keys and tokens: which kind they are, and the claims of those that are JWTs. Signatures are not verified."""

import binascii
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeGuard

import msgspec
from msgspec import Struct

Kind = Literal["jwt", "publishable", "secret", "damaged", "unknown"]

_SB_KEY: Final = re.compile(r"sb_(?:publishable|secret)_[\w-]{22}_[\w-]{8}", re.ASCII)
_PROJECT: Final = re.compile(r"https://([a-z0-9]{1,40})\.supabase\.co(?:/|\Z)")
_MAX_TOKEN: Final = 65_536
MAX_SECONDS: Final = 2.0**53
"""Times at or above this are not times; up to here a float represents every integer."""
_SIGNATURE_LENGTHS: Final = {"HS256": 43, "HS384": 64, "HS512": 86}
"""Characters of a signature; a shorter one was cut."""


class Credential(Struct, frozen=True):
    """A key or a token without its text.

    kind: `publishable` and `secret` are the keys that begin with `sb_`; `damaged` begins like a JWT and is not one;
    `unknown` is any other text. claims: those of a JWT. cut: the end of the text is missing.
    """

    kind: Kind
    claims: Mapping[str, Any] = {}
    algorithm: str = ""
    cut: bool = False

    @property
    def role(self) -> str | None:
        """The role in the database; None if the text has none."""
        if self.kind in ("publishable", "secret"):
            return "anon" if self.kind == "publishable" else "service_role"
        role = self.claims.get("role")
        return role if isinstance(role, str) and role else None

    @property
    def exp(self) -> float | None:
        """When it expires, in Unix seconds; None if unknown."""
        exp = self.claims.get("exp")
        return float(exp) if is_number(exp) else None

    @property
    def project(self) -> str | None:
        """The reference of the hosted project that issued it; None if it names none."""
        ref, issuer = self.claims.get("ref"), self.claims.get("iss")
        if isinstance(ref, str) and ref:
            return ref
        found = _PROJECT.match(issuer[:200]) if isinstance(issuer, str) else None
        return found[1] if found else None


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a claim is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_SECONDS


def read_credential(text: str) -> Credential:
    """Return what a key or token is."""
    text = text.strip()
    for prefix, kind in (("sb_publishable_", "publishable"), ("sb_secret_", "secret")):
        if text.startswith(prefix):
            return Credential("publishable" if kind == "publishable" else "secret", cut=not _SB_KEY.fullmatch(text))
    parts = text.split(".")
    if not text.startswith("eyJ") and (len(parts) != 3 or not all(parts)):
        return Credential("unknown")
    if len(parts) != 3 or len(text) > _MAX_TOKEN:
        return Credential("damaged", cut=len(parts) < 3)
    header, claims = (_object(part) for part in parts[:2])
    if header is None or claims is None:
        return Credential("damaged" if text.startswith("eyJ") else "unknown")
    algorithm = header.get("alg")
    algorithm = algorithm if isinstance(algorithm, str) else ""
    cut = len(parts[2]) < _SIGNATURE_LENGTHS.get(algorithm, 1)
    return Credential("jwt", claims, algorithm, cut)


def _object(part: str) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(urlsafe_b64decode(part + "=" * (-len(part) % 4)), type=dict[str, Any])
    except (ValueError, binascii.Error, msgspec.MsgspecError, RecursionError):
        return None
