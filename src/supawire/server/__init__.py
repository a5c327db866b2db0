"""A Realtime-compatible server for tests and development, with the extra `supawire[server]`.

`LocalServer` runs it in a thread, `serve` on a running event loop. `Hub` is the server without sockets and clocks, for
simulations.
"""

from typing import TYPE_CHECKING, Final

from supawire._lazy import lazy_names, needs_extra

if TYPE_CHECKING:
    from supawire.server.authorization import Policy
    from supawire.server.hub import Hub
    from supawire.server.hub_options import HubOptions, Timings
    from supawire.server.limits import ServerLimits
    from supawire.server.local import LocalServer, serve
    from supawire.server.recorder import ReceivedFrame

__all__ = ["Hub", "HubOptions", "LocalServer", "Policy", "ReceivedFrame", "ServerLimits", "Timings", "serve"]

_HOMES: Final = {
    "Hub": "hub",
    "HubOptions": "hub_options",
    "LocalServer": "local",
    "Policy": "authorization",
    "ReceivedFrame": "recorder",
    "ServerLimits": "limits",
    "Timings": "hub_options",
    "serve": "local",
}

if not TYPE_CHECKING:  # hidden from type checkers, which would otherwise accept every misspelt name
    __getattr__ = lazy_names(__name__, _HOMES, needs_extra("server", "jwt"))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
