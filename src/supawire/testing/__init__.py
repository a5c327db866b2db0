"""What tests of your own may use: a server without a network, time that jumps, an HTTP client without a network.

`VirtualServer` and `VirtualTimeLoop` make hours pass at once; `RecordingTransport` keeps every frame, alone or around
another transport; `FakeHttp` answers as it is told; `VirtualClock`, `World` and `LinkedClient` are for who drives the
protocol itself, without asyncio. The fixtures for pytest are in `plugin`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from supawire.testing.clock import VirtualClock
    from supawire.testing.http import FakeHttp
    from supawire.testing.linked import LinkedClient, World
    from supawire.testing.loop import VirtualTimeLoop
    from supawire.testing.recorded import RecordedFrame
    from supawire.testing.recording import RecordingTransport
    from supawire.testing.virtual import VirtualServer

__all__ = [
    "FakeHttp",
    "LinkedClient",
    "RecordedFrame",
    "RecordingTransport",
    "VirtualClock",
    "VirtualServer",
    "VirtualTimeLoop",
    "World",
]

_HOMES: Final = {
    "FakeHttp": "http",
    "LinkedClient": "linked",
    "RecordedFrame": "recorded",
    "RecordingTransport": "recording",
    "VirtualClock": "clock",
    "VirtualServer": "virtual",
    "VirtualTimeLoop": "loop",
    "World": "linked",
}


if not TYPE_CHECKING:  # a checker that saw this would take every misspelt name for a public one

    def __getattr__(name: str) -> Any:
        """Found when first used: pytest imports this package in every run."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{home}"), name)
