"""Live streams of the sync client: each call runs the method of the async object on the I/O thread."""

from collections.abc import Iterable, Iterator
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

from supawire._validation import misused
from supawire.aio.live_streams import (
    AsyncStreamReader,
    AsyncStreams,
    AsyncStreamWriter,
    PartDecoder,
    StreamKind,
    StreamResult,
    StreamStatus,
)
from supawire.sync.portal import Portal

M = TypeVar("M")


class StreamWriter:
    """A stream that is being sent; made by `channel.stream()`. `with` begins and ends it."""

    def __init__(self, portal: Portal, writer: AsyncStreamWriter) -> None:
        self._portal = portal
        self._async = writer

    @property
    def id(self) -> str:
        """The id of the stream; readers find it by this."""
        return self._async.id

    @property
    def status(self) -> StreamStatus:
        """`"running"`, or how the stream has ended: complete, cancelled, failed."""
        return self._async.status

    @property
    def cancelled(self) -> bool:
        """Whether a reader has cancelled the stream; then the next `write` raises `StreamError`."""
        return self._async.cancelled

    def __repr__(self) -> str:
        return f"<StreamWriter {self.id!r} {self.status}>"

    def write(self, data: Any) -> None:
        """Append text, bytes, or a JSON value; waits while more than 256 KiB are unsent.

        The first write decides what the stream contains, unless `kind` was given. Raises: StreamError: a reader has
        cancelled the stream. InvalidArgumentError: a value of another kind. StateError: the stream has ended. Other
        errors: the channel was left or closed, or the server refuses the messages.
        """
        self._portal.call(self._async.write, data)

    def finish(self, status: Any = "complete", reason: str | None = None) -> StreamResult:
        """End the stream, and wait until the server has confirmed all of it; a second call only waits.

        Args: status: "complete", "cancelled" or "failed", with a `reason` for readers.
        Raises: OperationTimeout: it was not confirmed in time; it is still sent, while the channel is subscribed.
        """
        return self._portal.call(self._async.finish, status, reason)

    def result(self) -> StreamResult:
        """Return what was sent. Raises: StateError: the stream has not ended."""
        return self._portal.run(self._async.result)

    @overload
    def steered(self, model: None = None) -> list[Any]: ...
    @overload
    def steered(self, model: type[M]) -> list[M]: ...
    def steered(self, model: type[Any] | None = None) -> list[Any]:
        """Return what readers have sent with `steer` since the last call, oldest first.

        Of more than 1000 values, or 1 MiB, only the newest are kept.

        Args: model: a class as for `broadcast`; values that do not fit it are logged and left out.
        """
        return self._portal.run(lambda: self._async.steered(cast("type[Any]", model)))

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = misused("this stream is for code that blocks", "Write `with`.")

    def __enter__(self) -> Self:
        self._portal.call(self._async.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return not self._portal.inherited and self._portal.call(self._async.__aexit__, kind, error, None)


def send_all(portal: Portal, writer: AsyncStreamWriter, source: Iterable[Any]) -> StreamResult:
    """Send every part of a source, iterated on the caller's thread, and return the result."""
    out = StreamWriter(portal, writer)
    pieces = (source,) if isinstance(source, str | bytes | bytearray | memoryview) else source
    with out:
        for piece in pieces:
            out.write(piece)
    return out.result()


class StreamReader:
    """One stream as it is received; an item of `channel.streams()`. `for` yields its parts as they arrive.

    Parts are text, `bytes`, or JSON values, by what the producer writes. Each iteration begins with the first part.
    After the last one the iteration ends, or raises `StreamError` unless the producer has completed the stream.
    """

    def __init__(self, portal: Portal, reader: AsyncStreamReader) -> None:
        self._portal = portal
        self._async = reader

    @property
    def id(self) -> str:
        """The id of the stream."""
        return self._async.id

    @property
    def info(self) -> dict[str, Any] | None:
        """What the producer has said of the stream; None before the first segment."""
        return self._async.info

    @property
    def kind(self) -> StreamKind:
        """What the stream contains: "text", "bytes" or "json"."""
        return self._async.kind

    @property
    def status(self) -> StreamStatus:
        """`"running"`, or how the stream has ended, see `StreamError.status`."""
        return self._async.status

    @property
    def length(self) -> int:
        """The number of bytes received so far."""
        return self._async.length

    def __repr__(self) -> str:
        return f"<StreamReader {self.id!r} {self.status}, {self.length} bytes>"

    def __iter__(self) -> Iterator[Any]:
        decoder = PartDecoder()
        for number in count():
            part = self.part(number)
            if part is None:
                return
            yield from decoder.decode(self._async.kind, part)

    def part(self, number: int) -> bytes | None:
        """Wait for a part by its number, from 0, and return its bytes; None after the end. Raises: StreamError."""
        return self._portal.call(self._async.part, number)

    def read(self) -> Any:
        """Wait for the end, and return everything: text, `bytes`, or the list of JSON values. Raises: StreamError."""
        return self._portal.call(self._async.read)

    def text(self) -> str:
        """Wait for the end, and return the whole text. Raises: StreamError; StateError: it is not a text."""
        return self._portal.call(self._async.text)

    def received(self) -> Any:
        """Return what has been received so far: text, `bytes`, or the list of JSON values; also after an error."""
        return self._portal.run(self._async.received)

    def cancel(self) -> None:
        """Ask the producer to stop. If it agrees, the stream ends with the status "cancelled"."""
        self._portal.run(self._async.cancel)

    def steer(self, data: Any) -> None:
        """Send a JSON value to the producer, who finds it in `StreamWriter.steered()`."""
        self._portal.run(self._async.steer, data)


class Streams:
    """The streams of a channel, made by `channel.streams()`. `for` yields one `StreamReader` for each."""

    def __init__(self, portal: Portal, streams: AsyncStreams) -> None:
        self._portal = portal
        self._async = streams

    def close(self) -> None:
        """Stop receiving; the iterations over unfinished streams raise `StreamError`."""
        self._portal.run(self._async.close)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamReader:
        reader = self._portal.call(_next, self._async)
        if reader is None:
            raise StopIteration
        return StreamReader(self._portal, reader)

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = misused("streams are received in blocking code here", "Write `with`.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._portal.inherited:
            self.close()


async def _next(streams: AsyncStreams) -> AsyncStreamReader | None:
    return await anext(streams, None)
