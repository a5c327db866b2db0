"""Tools for tests of your own: events, a server without a network, virtual time, HTTP without a network.

`insert`, `update`, `delete`, `broadcast`, `presence` and the other functions create events as a client receives them.

With `VirtualServer` and `VirtualTimeLoop`, hours pass at once; `RecordingTransport` records every frame, alone or
around another transport; `FakeHttp` gives the answers that you set; `VirtualClock`, `World` and `LinkedClient` drive
the protocol without asyncio. The fixtures for pytest are in `plugin`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from supawire.testing.events import (
        broadcast,
        delete,
        insert,
        presence,
        presence_join,
        presence_leave,
        presence_sync,
        presence_update,
        resynced,
        row_deleted,
        row_inserted,
        row_updated,
        update,
    )
    from supawire.testing.http import FakeHttp
    from supawire.testing.linked import LinkedClient, World
    from supawire.testing.recording import RecordedFrame, RecordingTransport
    from supawire.testing.virtual import VirtualClock, VirtualServer, VirtualTimeLoop

__all__ = [
    "FakeHttp",
    "LinkedClient",
    "RecordedFrame",
    "RecordingTransport",
    "VirtualClock",
    "VirtualServer",
    "VirtualTimeLoop",
    "World",
    "broadcast",
    "delete",
    "insert",
    "presence",
    "presence_join",
    "presence_leave",
    "presence_sync",
    "presence_update",
    "resynced",
    "row_deleted",
    "row_inserted",
    "row_updated",
    "update",
]

_HOMES: Final = {
    "FakeHttp": "http",
    "LinkedClient": "linked",
    "RecordedFrame": "recording",
    "RecordingTransport": "recording",
    "VirtualClock": "virtual",
    "VirtualServer": "virtual",
    "VirtualTimeLoop": "virtual",
    "World": "linked",
    "broadcast": "events",
    "delete": "events",
    "insert": "events",
    "presence": "events",
    "presence_join": "events",
    "presence_leave": "events",
    "presence_sync": "events",
    "presence_update": "events",
    "resynced": "events",
    "row_deleted": "events",
    "row_inserted": "events",
    "row_updated": "events",
    "update": "events",
}

if not TYPE_CHECKING:  # hidden from type checkers, which would otherwise accept every misspelt name

    def __getattr__(name: str) -> Any:
        """Import names on first use: pytest imports this package in every run."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
