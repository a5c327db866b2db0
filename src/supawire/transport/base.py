"""What moves bytes, behind two small protocols: a transport opens connections, a connection carries frames.

A transport is free of Phoenix: it knows text and binary frames and how a socket ends. Write one of your own, pass it
as `transport=`, and put its name into the parameters of the contract test (tests/transport/test_contract.py).

Who owns what: `open` and `run` are coroutines of one task that the client owns. A connection starts no task that
outlives `run`, and when `run` has returned or was cancelled, the socket is gone.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from supawire.options import Endpoint, Secret

if TYPE_CHECKING:
    import ssl

MAX_FRAME: Final = 16_000_000
"""Bytes of the longest frame that is taken; the server allows broadcasts of 3,000 KB, and rows may be larger (R36)."""


class OpenRequest(Struct, frozen=True):
    """How to reach the server. `endpoint.reveal()` is the URL with the key in it: use it at once, never keep it."""

    endpoint: Endpoint
    headers: Mapping[str, str] = {}
    ssl: "ssl.SSLContext | None" = None
    proxy: Secret | None = None
    max_frame: int = MAX_FRAME

    def __repr__(self) -> str:
        return f"OpenRequest({self.endpoint!r})"


class Closed(Struct, frozen=True):
    """How a connection ended.

    code: the close code, None when none came. text: what else is known. written: how many of our frames were handed to
    the network, the first ones in order; None when that cannot be told.
    """

    code: int | None = None
    text: str = ""
    written: int | None = None


class Sink(Protocol):
    """Who takes the frames of a connection."""

    max_batch: int
    """How many frames may come before the event loop gets its turn, at least 1; it may change at any time."""

    def frame(self, data: bytes, binary: bool, /) -> None:
        """Take one frame. It does not raise."""
        ...

    def batch_done(self) -> None:
        """No more frames are there for now, or `burst` have come. Called before the connection waits or yields."""
        ...


class Connection(Protocol):
    """An open socket.

    It may have an attribute `clock_offset`: by how many seconds the server's clock is ahead of this machine's, or a
    little less, as the Date header of its answer says; None when that is not known. Without it no `Gap` says that all
    stored messages were replayed.
    """

    @property
    def written(self) -> int:
        """How many frames were handed to the network, of those given to `write`, in order."""
        ...

    def write(self, data: bytes, binary: bool, /) -> None:
        """Send one frame: at once, or after those that still wait. It never waits and never raises."""
        ...

    async def flush(self, count: int, /) -> bool:
        """Wait until `count` frames are written; False when the connection ends before."""
        ...

    async def run(self, sink: Sink, /) -> Closed:
        """Read until the end, and say what it was; cancelled, it aborts. Called once."""
        ...

    def pause_reading(self) -> None:
        """Give no more frames to the sink, after at most the one that is just being given; twice is once."""
        ...

    def resume_reading(self) -> None:
        """Give frames again; twice is once."""
        ...

    async def close(self, code: int = 1000) -> None:
        """Say goodbye, wait a bounded time for the answer, and end; `run` returns then."""
        ...

    def abort(self) -> None:
        """End at once; `run` returns soon."""
        ...


class Transport(Protocol):
    """Opens connections."""

    async def open(self, request: OpenRequest, /) -> Connection:
        """Open a socket; no time limit of its own. Cancelled, it leaves nothing behind.

        Raises: ConnectError: with `status`, `body` and `retry_after` when the server refused the upgrade.
            InvalidArgumentError: the request cannot be served on this machine, as with a missing extra.
        """
        ...
