"""Translation of API keys that are not JWTs, as by the gateway in front of Realtime.

See docs/protocol.md, API keys. Keys of the forms `sb_publishable_…` and `sb_secret_…` are accepted only on the
gateway's paths under `/realtime/v1`: the gateway replaces them by a JWT with the role `anon` or `service_role`. They
are not accepted on the server's own paths or as the token of a channel, as on the real server.
"""

import hmac
from base64 import urlsafe_b64encode
from dataclasses import replace
from typing import Final

from supawire.events import Instant
from supawire.server.effects import Request, RestRequest
from supawire.server.tokens import sign

GATEWAY: Final = "/realtime/v1"
PUBLISHABLE_PREFIX: Final = "sb_publishable_"
SECRET_PREFIX: Final = "sb_secret_"  # noqa: S105  prefix of a key
KEY_LIFETIME: Final = 10 * 365 * 24 * 3600
"""Lifetime of the JWT for a key in seconds, the same as of the other keys of the local server."""


def publishable_key(secret: str) -> str:
    """Return the key for the role `anon`; the same secret always gives the same key."""
    return PUBLISHABLE_PREFIX + _derive(secret, PUBLISHABLE_PREFIX)


def secret_key(secret: str) -> str:
    """Return the key for the role `service_role`."""
    return SECRET_PREFIX + _derive(secret, SECRET_PREFIX)


def _derive(secret: str, kind: str) -> str:
    text = urlsafe_b64encode(hmac.digest(secret.encode(), kind.encode(), "sha256")).decode()
    return f"{text[:22]}_{text[22:30]}"


class Gateway:
    """Replaces API keys in requests on the gateway's paths."""

    def __init__(self, secret: str) -> None:
        self._secret: Final = secret
        self._roles: Final = {publishable_key(secret): "anon", secret_key(secret): "service_role"}

    def socket(self, request: Request, now: Instant) -> Request:
        """Return an upgrade request with a JWT in place of the key in its query."""
        token = self._token_for(request.query.get("apikey", ""), now)
        if token is None:
            return request
        query, headers = {**request.query, "apikey": token}, {**request.headers, "x-api-key": token}
        return replace(request, query=query, headers=headers)

    def rest(self, request: RestRequest, now: Instant) -> RestRequest:
        """Return an HTTP request with a JWT in `Authorization`, unless that header already has a user's token."""
        key, given = request.headers.get("apikey", ""), request.headers.get("authorization", "")
        token = self._token_for(key, now)
        if token is None or given not in ("", f"Bearer {key}"):
            return request
        return replace(request, headers={**request.headers, "authorization": f"Bearer {token}"})

    def _token_for(self, key: str, now: Instant) -> str | None:
        for known, role in self._roles.items():
            if hmac.compare_digest(key.encode(errors="replace"), known.encode()):
                return sign({"role": role, "exp": int(now.wall) + KEY_LIFETIME}, self._secret)
        return None
