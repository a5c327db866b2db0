"""Validation of upgrade requests in the server's order, and the responses to refused ones.

See docs/protocol.md, Refused handshakes.
"""

import re
from collections.abc import Mapping
from typing import Final

from supawire.server.connections import Connections
from supawire.server.effects import Accepted, Refusal, Request
from supawire.server.faults import FaultRules
from supawire.server.hub_options import HubOptions
from supawire.server.limits import Meter
from supawire.server.outbox import Outbox
from supawire.server.tokens import TokenRefused, check
from supawire.server.wire import encode

JSON: Final = "application/json; charset=utf-8"
VERSION: Final = re.compile(r"([12])\.0\.\d+")


def tenant(host: str) -> str:
    """Return the first label of Host, which names the project."""
    return host.partition(":")[0].partition(".")[0]


class HandshakeValidator:
    """Validates upgrade requests. `joins` counts the joins of all connections."""

    def __init__(
        self, options: HubOptions, rules: FaultRules, outbox: Outbox, connections: Connections, joins: Meter
    ) -> None:
        self._options = options
        self._rules = rules
        self._outbox = outbox
        self._connections = connections
        self._joins = joins

    def check(self, request: Request) -> Accepted | Refusal:
        """Return the response to an upgrade request; a refusal includes the delay of the response."""
        if (status := self._rules.refusal(self._outbox.now)) is not None:
            return Refusal(status, b"Service Unavailable", "text/plain; charset=utf-8", in_front=True)
        if (status := self._rules.upgrade_status) is not None and not request.longpoll:
            return Refusal(status, b"WebSockets are blocked", "text/plain; charset=utf-8", in_front=True)
        version = VERSION.fullmatch(request.query.get("vsn", "1.0.0"))
        if version is None:
            return Refusal(403)
        problem = self._problem(request)
        if problem is None:
            return Accepted(v2=version[1] == "2")
        status, error = problem
        return Refusal(status, encode({"error": error}), JSON, self._options.timings.handshake_error)

    def _problem(self, request: Request) -> tuple[int, str] | None:
        if tenant(request.host) not in self._options.tenants:
            return 404, "Tenant not found"
        key = key_of(request)
        if key is None:
            return 401, "API key is missing"
        claims = check(key, self._options.secret, self._outbox.now)
        if isinstance(claims, TokenRefused):
            return claims.status, claims.error
        if self._connections.at_capacity:
            return 429, "Too many connected users"
        if self._joins.tripped(self._outbox.now.mono):
            return 429, "Too many joins per second"
        return None


def key_of(request: Request) -> str | None:
    """Return the token of the connection; the header takes precedence over the query."""
    return request.headers.get("x-api-key") or request.query.get("apikey")


def x_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the `x-` headers, which policies can read."""
    return {name: value for name, value in headers.items() if name.startswith("x-")}
