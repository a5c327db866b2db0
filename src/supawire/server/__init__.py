"""A Realtime-compatible server for tests and development, with the extra `supawire[server]`.

`LocalServer` runs it in a thread, `serve` on a running event loop. `Hub` is the server without sockets and clocks, for
simulations.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

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


def __getattr__(name: str) -> Any:
    """Import a public name on first use. Raises: ImportError that names the extra when it is not installed."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name != "jwt":
            raise
        raise ImportError(f"{name} needs the extra `server`: pip install 'supawire[server]'", name="jwt") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
