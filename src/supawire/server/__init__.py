"""A Realtime-compatible server in the box, for tests and development; it comes with the extra `supawire[server]`.

`LocalServer` is the whole of it for most people. `serve` runs one inside an event loop of yours; `Hub` is the server
without sockets and clocks, for simulations.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from supawire.server.authorization import Policy
    from supawire.server.context import HubOptions, Timings
    from supawire.server.hub import Hub
    from supawire.server.limits import ServerLimits
    from supawire.server.local import LocalServer, serve
    from supawire.server.recorder import ReceivedFrame

__all__ = ["Hub", "HubOptions", "LocalServer", "Policy", "ReceivedFrame", "ServerLimits", "Timings", "serve"]

_HOMES: Final = {
    "Hub": "hub",
    "HubOptions": "context",
    "LocalServer": "local",
    "Policy": "authorization",
    "ReceivedFrame": "recorder",
    "ServerLimits": "limits",
    "Timings": "context",
    "serve": "local",
}


def __getattr__(name: str) -> Any:
    """Found when first used, so that nobody pays for what they do not use. Raises: ImportError that names the extra."""
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
