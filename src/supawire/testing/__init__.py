"""Tools for tests of your own: events, a server without a network, virtual time, HTTP without a network.

`insert`, `update`, `delete`, `broadcast`, `presence` and the other functions create events as a client receives them.

There is one fake for each purpose. `VirtualServer` is a server without a network; with `VirtualTimeLoop`, hours pass at
once. `RecordingTransport` records every frame, alone or around another transport. `MemoryTransport` gives the test the
other end of each connection, and `FakeHttp` gives the HTTP responses that you set. `MemoryJobs` is a source of jobs for
a worker. `VirtualClock`, `World` and
`LinkedClient` drive the protocol without asyncio. The fixtures for pytest are in `plugin`.
"""

from typing import TYPE_CHECKING, Final

from supawire._lazy import lazy_names

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
    from supawire.testing.jobs import MemoryJob, MemoryJobs
    from supawire.testing.linked import LinkedClient, World
    from supawire.testing.recorded_frames import RecordedFrame, Recording
    from supawire.testing.recording import RecordingTransport
    from supawire.testing.virtual import VirtualClock, VirtualServer, VirtualTimeLoop
    from supawire.transport.memory import FakeHttp, MemoryTransport

__all__ = [
    "FakeHttp",
    "LinkedClient",
    "MemoryJob",
    "MemoryJobs",
    "MemoryTransport",
    "RecordedFrame",
    "Recording",
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
    "FakeHttp": "transport.memory",
    "LinkedClient": "testing.linked",
    "MemoryJob": "testing.jobs",
    "MemoryJobs": "testing.jobs",
    "MemoryTransport": "transport.memory",
    "RecordedFrame": "testing.recorded_frames",
    "Recording": "testing.recorded_frames",
    "RecordingTransport": "testing.recording",
    "VirtualClock": "testing.virtual",
    "VirtualServer": "testing.virtual",
    "VirtualTimeLoop": "testing.virtual",
    "World": "testing.linked",
    "broadcast": "testing.events",
    "delete": "testing.events",
    "insert": "testing.events",
    "presence": "testing.events",
    "presence_join": "testing.events",
    "presence_leave": "testing.events",
    "presence_sync": "testing.events",
    "presence_update": "testing.events",
    "resynced": "testing.events",
    "row_deleted": "testing.events",
    "row_inserted": "testing.events",
    "row_updated": "testing.events",
    "update": "testing.events",
}

if not TYPE_CHECKING:  # hidden from type checkers, which would otherwise accept every misspelt name
    __getattr__ = lazy_names(__name__, _HOMES, base="supawire")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
