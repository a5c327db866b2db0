"""Live streams of the async client: the asyncio shell around `core.live_streams`.

`AsyncStreamWriter` sends one stream, and `AsyncStreams` receives those of a channel, each as an `AsyncStreamReader`.
"""

import asyncio
import secrets
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar, cast, overload
from uuid import uuid4

import msgspec

from supawire._validation import misused
from supawire._values.models import check_model
from supawire.aio.driver import Driver
from supawire.aio.stream import AsyncStream
from supawire.core.channel import CoreChannel
from supawire.core.live_streams import (
    REQUEST_EVENT,
    SEGMENT_EVENT,
    Segment,
    StreamKind,
    StreamReceiver,
    StreamRequest,
    StreamSender,
    StreamStatus,
    check_stream_id,
    read_request,
    read_segment,
)
from supawire.core.outbox import OutgoingBroadcast
from supawire.errors import (
    ClosedError,
    InvalidArgumentError,
    OperationTimeout,
    RealtimeError,
    RowError,
    SlowConsumerError,
    StateError,
    StreamError,
    again,
)
from supawire.events import Broadcast, ChannelState, sent_payload
from supawire.options import (
    Timeout,
    check_bool,
    check_choice,
    check_count,
    check_json,
    check_number,
    check_timeout,
)
from supawire.selectors import broadcast, status

SAVE_INTERVAL: Final = 1.0
"""Seconds from one save of a growing stream to the next."""
WRITE_BUFFER: Final = 256 * 1024
"""Bytes that may wait to be sent; `write` waits while there are more."""
ENVELOPE: Final = 2048
"""Bytes of a segment besides its data and `info`."""
WORST_ESCAPE: Final = 6
"""Bytes of JSON for one byte of text, at most."""
MAX_INFO: Final = 8192
CANCEL_TIMEOUT: Final = 2.0
"""Seconds that a cancelled producer waits until its end is confirmed."""
MAX_KNOWN: Final = 1000
"""Streams of one reader that are remembered, the newest."""
MAX_STEERS: Final = 1000
"""Values of readers that are kept until `steered`, the newest."""
STEER_BYTES: Final = 1_048_576
"""Bytes of these values together; the newest is kept also if it is longer."""

M = TypeVar("M")
Source = AsyncIterable[Any] | Iterable[Any]


@dataclass(frozen=True, slots=True)
class StreamResult:
    """A stream that was sent.

    length: bytes. sha256: their digest, in hexadecimal. messages: the number of broadcasts that it took.
    """

    id: str
    status: str
    length: int
    sha256: str
    messages: int


@dataclass(frozen=True, slots=True)
class StoredStream:
    """A stream as a store keeps it. data: all bytes so far; text is UTF-8, and each JSON value is a line.

    status: "running", or how the producer has ended it: complete, cancelled, failed.
    """

    id: str
    kind: StreamKind
    data: bytes
    info: dict[str, Any] | None = None
    status: str = "running"
    reason: str | None = None


class StreamStore(Protocol):
    """Keeps streams for readers who come when the producer is gone."""

    async def save(self, stream: StoredStream) -> None:
        """Store a stream, replacing an earlier state of it."""
        ...

    async def load(self, id: str) -> StoredStream | None:
        """Return a stream, or None if it is not stored."""
        ...


class AsyncStreamWriter:
    """A stream that is being sent; made by `channel.stream()`. `async with` begins and ends it."""

    def __init__(
        self,
        driver: Driver,
        core: CoreChannel,
        *,
        id: str | None,
        kind: StreamKind | None,
        info: dict[str, Any] | None,
        rate: float,
        history: int,
        keep: float,
        controls: bool,
        store: StreamStore | None,
        timeout: Timeout,
    ) -> None:
        driver.begin_call()
        self._driver = driver
        self._core = core
        self._keeps = driver.registry.client()
        self._id: Final = uuid4().hex if id is None else check_stream_id(id)
        self._kind: StreamKind | None = kind and check_choice("kind", kind, ("text", "bytes", "json"))
        self._info = _check_info(info)
        self._interval = 1 / check_number("rate", rate, above=0, unit="messages a second")
        self._history = check_count("history", history, why="it is in bytes")
        self._keep = check_number("keep", keep, minimum=0, unit="seconds")
        self._controls = check_bool("controls", controls)
        self._timeout = check_timeout(timeout, 3 * driver.options.timeout)
        self._store = _check_store(store)
        self._saved: StoredStream | None = None
        self._sender: StreamSender | None = None
        self._error: RealtimeError | None = None
        """Why the stream cannot be sent."""
        self._cancelled: StreamError | None = None
        """What `write` raises after a reader has cancelled the stream."""
        self._refused = False
        """Whether it was raised, so that data is missing."""
        self._steers: deque[tuple[Any, int]] = deque()
        """Values of readers with their bytes."""
        self._steer_bytes = 0
        self._saving = asyncio.Lock()
        self._started = False
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._ended = False
        self._joined = True

    # --- state

    @property
    def id(self) -> str:
        """The id of the stream; readers find it by this."""
        return self._id

    @property
    def status(self) -> StreamStatus:
        """`"running"`, or how the stream has ended: complete, cancelled, failed."""
        sender = self._sender
        return "running" if sender is None or sender.end is None else sender.end.status

    def __repr__(self) -> str:
        return f"<AsyncStreamWriter {self._id!r} on {self._core.name!r} {self.status}>"

    # --- writing

    async def write(self, data: Any) -> None:
        """Append text, bytes, or a JSON value; waits while more than 256 KiB are unsent.

        The first write decides what the stream contains, unless `kind` was given. Raises: StreamError: a reader has
        cancelled the stream. InvalidArgumentError: a value of another kind. StateError: the stream has ended. Other
        errors: the channel was left or closed, or the server refuses the messages.
        """
        self._check()
        kind = self._kind or _kind_of(data)
        encoded = _encode(kind, data)
        sender = self._open(kind)
        sender.write(encoded)
        self._wake.set()
        while sender.unsent > WRITE_BUFFER:
            await self._wait()
            self._check()

    async def finish(self, status: Any = "complete", reason: str | None = None) -> StreamResult:
        """End the stream, and wait until the server has confirmed all of it; a second call only waits.

        Args: status: "complete", "cancelled" or "failed", with a `reason` for readers.
        Raises: OperationTimeout: it was not confirmed in time; it is still sent, while the channel is subscribed.
        """
        check_choice("status", status, ("complete", "cancelled", "failed"))
        if reason is not None and not isinstance(reason, str):
            raise InvalidArgumentError(f"reason must be text or None, not {reason!r}")
        if reason is not None:
            _encode_text(reason, "reason")
        self._check_started()
        if self._error is not None:
            raise again(self._error)
        sender = self._open(self._kind or "text")
        sender.finish(status, reason)
        self._wake.set()
        await self._wait_until_confirmed(sender, self._timeout)
        await self._save()
        return self.result()

    @overload
    def steered(self, model: None = None) -> list[Any]: ...
    @overload
    def steered(self, model: type[M]) -> list[M]: ...
    def steered(self, model: type[Any] | None = None) -> list[Any]:
        """Return what readers have sent with `steer` since the last call, oldest first.

        Of more than 1000 values, or 1 MiB, only the newest are kept.

        Args: model: a class as for `broadcast`; values that do not fit it are logged and left out.
        """
        checked = check_model(model)
        values = [value for value, _ in self._steers]
        self._steers.clear()
        self._steer_bytes = 0
        if checked is None:
            return values
        made: list[Any] = []
        for value in values:
            try:
                made.append(checked.read(check_json(value)))
            except RowError as error:
                self._driver.reports.log("stream").warning("a reader has steered with a wrong value: %s", error)
        return made

    @property
    def cancelled(self) -> bool:
        """Whether a reader has cancelled the stream; then the next `write` raises `StreamError`."""
        return self._cancelled is not None

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return await self._exit(error)

    if not TYPE_CHECKING:
        __enter__ = __exit__ = misused("this stream is for async code", "Write `async with`.")

    async def _exit(self, error: BaseException | None) -> bool:
        """End the stream as its block ended. Return whether the error was only that a reader has cancelled it."""
        if self._error is not None and error is None:
            raise again(self._error)
        if self._error is not None or self.status != "running":
            return error is not None and error is self._cancelled
        if error is None and not self._refused:
            await self.finish()
            return False
        error = error or self._cancelled  # the block has caught it
        by_reader = error is self._cancelled
        cancelled = by_reader or isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit)
        reason = self._cancelled.reason if by_reader and self._cancelled is not None else type(error).__name__
        sender = self._open(self._kind or "text")
        sender.finish("cancelled" if cancelled else "failed", reason)
        self._wake.set()
        try:
            await self._wait_until_confirmed(sender, CANCEL_TIMEOUT)
        except RealtimeError as failure:
            self._driver.reports.log("stream").warning("the end of stream %s was not confirmed: %s", self._id, failure)
        else:
            await self._try_save()
        return by_reader

    def result(self) -> StreamResult:
        """Return what was sent. Raises: StateError: the stream has not ended."""
        sender = self._sender
        if sender is None or sender.end is None:
            raise StateError("the stream has not ended", topic=self._core.name)
        end = sender.end
        return StreamResult(self._id, end.status, end.length, end.sha256, sender.messages)

    # --- sending

    def _start(self) -> None:
        """Begin to send, and to listen for readers."""
        if not self._core.wanted:
            raise StateError("the channel is not subscribed", topic=self._core.name)
        if self._started:
            raise StateError("a stream can be sent once; make another one with channel.stream()", topic=self._core.name)
        self._started = True
        driver = self._driver
        selectors = (broadcast(REQUEST_EVENT), status())
        self._registration = driver.registry.add(
            self._core.topic, selectors, self._on_event, None, driver.now(), self._wake.set
        )
        driver.drains.append(self._drain)
        driver.pump()
        if driver.tasks.spawn(self._run(), f"stream-{self._id}") is None:
            self._fail(ClosedError("the client was closed"))
        if self._store is not None:
            driver.tasks.spawn(self._save_often(), f"save-{self._id}")

    def _open(self, kind: StreamKind) -> StreamSender:
        """Return the sender, made when the kind is known."""
        if self._sender is None:
            self._kind = kind
            limits = self._driver.options.limits
            sizes = [size for size in (limits.payload_bytes, limits.frame_bytes) if size is not None]
            room = min([3_000_000, *sizes]) - ENVELOPE - MAX_INFO
            self._sender = StreamSender(
                self._id, secrets.token_hex(4), kind, self._info, segment_bytes=max(16, room // WORST_ESCAPE),
                interval=self._interval, history=self._history,
            )  # fmt: skip
        return self._sender

    async def _run(self) -> None:
        """Send segments as they are due, until the stream was kept long enough after its end."""
        driver = self._driver
        forget_at: float | None = None
        try:
            while not self._ended:
                self._wake.clear()
                now = driver.clock.time()
                sender = self._sender
                if not self._check_channel():
                    return
                self._watch_join(sender)
                if sender is not None:
                    await self._send_due(sender)
                    if sender.done and forget_at is None:
                        forget_at = now + self._keep
                if forget_at is not None and now >= forget_at:
                    return
                await self._sleep(None if sender is None else sender.next_at(), forget_at)
        finally:
            self._registration.cancel()
            driver.drains.remove(self._drain)
            self._fail(ClosedError("the client was closed"))

    async def _save_often(self) -> None:
        """Store what has changed, once a second; errors go to `on_error`, and the next save tries again."""
        while not self._ended:
            await asyncio.sleep(SAVE_INTERVAL)
            await self._try_save()
            if self._saved is not None and self._saved.status != "running":
                return

    async def _try_save(self) -> None:
        """Store the stream; an error goes to `on_error`."""
        try:
            await self._save()
        except Exception as error:  # noqa: BLE001  of the user's store
            self._driver.reports.error(error, "stream")

    async def _save(self) -> None:
        """Store the stream as it is, unless this state is stored already, or its beginning was dropped."""
        async with self._saving:  # one after the other, so that the last save has the newest state
            sender = self._sender
            if self._store is None or sender is None or (data := sender.data) is None:
                return
            end = sender.end
            status, reason = ("running", None) if end is None else (end.status, end.reason)
            stream = StoredStream(self._id, sender.kind, data, self._info, status, reason)
            if stream != self._saved:
                await self._store.save(stream)
                self._saved = stream

    async def _sleep(self, due: float | None, forget_at: float | None) -> None:
        joined = self._core.state is ChannelState.JOINED
        times = [at for at in (due if joined else None, forget_at) if at is not None]
        delay = None if not times else max(0.0, min(times) - self._driver.clock.time())
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            return

    def _watch_join(self, sender: StreamSender | None) -> None:
        """After a rejoin send a segment, even an empty one, so that readers notice what they have missed."""
        joined = self._core.state is ChannelState.JOINED
        if joined and not self._joined and sender is not None:
            sender.request(sender.confirmed)
        self._joined = joined

    def _check_channel(self) -> bool:
        """Return whether the channel can still send; otherwise record the reason."""
        core = self._core
        if core.state is ChannelState.FAILED and core.error is not None:
            self._fail(again(core.error))
        elif not core.wanted or core.state is ChannelState.CLOSED:
            self._fail(self._driver.error or ClosedError("the channel was left or closed", topic=core.name))
        return self._error is None

    async def _send_due(self, sender: StreamSender) -> None:
        driver, core = self._driver, self._core
        while core.state is ChannelState.JOINED and (segment := sender.take(driver.clock.time())) is not None:
            payload = msgspec.json.encode(segment)
            message = OutgoingBroadcast(
                SEGMENT_EVENT, payload, ack=core.options.ack, timeout=driver.options.timeout, ignore_queue_time=True
            )
            try:
                ticket = driver.session.broadcast(core.topic, message, driver.now())
                if ticket is not None:
                    driver.promise(ticket).add_done_callback(partial(self._on_outcome, sender, segment))
                    continue
                frame = driver.hand_over()
                if frame is not None:
                    await driver.written(*frame, message.timeout)
                sender.acknowledge(segment)
            except RealtimeError as error:
                self._on_failed(sender, segment, error)
            self._changed.set()

    def _on_outcome(self, sender: StreamSender, segment: Segment, outcome: "asyncio.Future[Any]") -> None:
        error = None if outcome.cancelled() else outcome.exception()
        if error is None:
            sender.acknowledge(segment)
        else:
            self._on_failed(sender, segment, error)
        self._changed.set()
        self._wake.set()

    def _on_failed(self, sender: StreamSender, segment: Segment, error: BaseException) -> None:
        sender.fail(segment, self._driver.clock.time())
        if isinstance(error, RealtimeError) and not error.retryable and not isinstance(error, StateError):
            self._fail(error)

    def _fail(self, error: RealtimeError) -> None:
        """Record why the stream cannot be sent; has no effect after it was sent completely."""
        if self._error is None and not (self._sender is not None and self._sender.done):
            self._error = error
        self._ended = True
        self._changed.set()
        self._wake.set()

    async def _drain(self) -> None:
        """End a running stream, because the client is draining, and wait until the end is confirmed."""
        if self._sender is None:
            return
        self._sender.finish("cancelled", "the producer is shutting down")
        self._wake.set()
        while not self._sender.done and self._error is None:
            await self._wait()
        await self._try_save()

    # --- waiting

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _wait_until_confirmed(self, sender: StreamSender, timeout: float | None) -> None:
        bound = asyncio.timeout(timeout)
        try:
            async with bound:
                while not sender.done:
                    if self._error is not None:
                        raise again(self._error)
                    await self._wait()
        except TimeoutError:
            if not bound.expired():
                raise
            raise OperationTimeout("the end of the stream was not confirmed in time", topic=self._core.name) from None

    def _check_started(self) -> None:
        if not self._started:
            hint = "Use it in `async with channel.stream() as out:`, or `with` in the sync client."
            raise StateError("the stream has not begun", topic=self._core.name, hint=hint)

    def _check(self) -> None:
        self._check_started()
        if self._error is not None:
            raise again(self._error)
        if self._cancelled is not None:
            self._refused = True
            raise self._cancelled
        if self.status != "running":
            raise StateError("the stream has ended", topic=self._core.name)

    # --- readers

    def _on_event(self, event: object) -> None:
        """Handle a reader's request, or wake the task after a change of the channel's state."""
        if isinstance(event, Broadcast):
            message = cast("Broadcast[Any]", event)
            request = read_request(_payload(message))
            if request is None or request.id not in (None, self._id):
                return
            self._on_request(request, len(sent_payload(message)[0]))
        self._wake.set()

    def _on_request(self, request: StreamRequest, size: int) -> None:
        if request.want == "data":
            if self._sender is not None or self._kind is not None:
                self._open(self._kind or "text").request(request.at)
        elif self._controls and self.status == "running":
            if request.want == "cancel":
                if self._cancelled is not None:  # `write` may have raised it already
                    return
                reason = "cancelled by a reader"
                self._cancelled = StreamError(reason, status="cancelled", reason=reason, topic=self._core.name)
                self._changed.set()
            else:
                self._steers.append((request.data, size))
                self._steer_bytes += size
                while len(self._steers) > MAX_STEERS or (self._steer_bytes > STEER_BYTES and len(self._steers) > 1):
                    self._steer_bytes -= self._steers.popleft()[1]


def _payload(message: Broadcast[Any]) -> object:
    """Return the payload of a broadcast; None for one that cannot be decoded, which anyone may send."""
    try:
        return message.payload
    except RowError:
        return None


async def send_all(writer: AsyncStreamWriter, source: Source) -> StreamResult:
    """Send every part of a source, and return the result; also after a reader has cancelled the stream."""
    async with writer, aclosing(_pieces(source)) as pieces:
        async for piece in pieces:
            await writer.write(piece)
    return writer.result()


async def _pieces(source: Source) -> AsyncGenerator[Any]:
    """Iterate a source, plain or async. An async generator is closed at the end, also if the stream is cancelled."""
    if isinstance(source, AsyncIterable):
        try:
            async for piece in source:
                yield piece
        finally:
            close: Callable[[], Awaitable[None]] | None = getattr(source, "aclose", None)
            if close is not None:
                await close()
    elif isinstance(source, str | bytes | bytearray | memoryview):
        yield source
    else:
        for piece in source:
            yield piece
            await asyncio.sleep(0)


def _kind_of(data: object) -> StreamKind:
    return "text" if isinstance(data, str) else "bytes" if isinstance(data, bytes | bytearray | memoryview) else "json"


def _encode(kind: StreamKind, data: Any) -> bytes:
    if kind == "json":
        return check_json(data) + b"\n"
    if kind == "text" and isinstance(data, str):
        return _encode_text(data, "the text")
    if kind == "bytes" and isinstance(data, bytes | bytearray | memoryview):
        return bytes(cast("bytes", data))
    raise InvalidArgumentError(f"the stream contains {kind}, and cannot take {type(data).__name__}")


def _encode_text(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{name} cannot be encoded as UTF-8: {error}") from error


def _check_store(store: object) -> StreamStore | None:
    if store is not None and not all(callable(getattr(store, name, None)) for name in ("save", "load")):
        raise InvalidArgumentError(f"store must have the methods `save` and `load` of StreamStore, not {store!r}")
    return cast("StreamStore | None", store)


def _check_info(info: object) -> dict[str, Any] | None:
    if info is None:
        return None
    encoded = check_json(info)
    if not encoded.startswith(b"{") or len(encoded) > MAX_INFO:
        raise InvalidArgumentError(f"info must be a JSON object of at most {MAX_INFO} bytes, not {info!r}")
    return cast("dict[str, Any]", msgspec.json.decode(encoded))


class PartDecoder:
    """Decodes the parts of one stream, in order."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        """The pieces of a JSON value that goes on in the next part."""

    def decode(self, kind: StreamKind, part: bytes) -> list[Any]:
        """Return the text, the bytes, or the complete JSON values of a part."""
        if kind != "json":
            return [part if kind == "bytes" else part.decode()]
        *lines, rest = part.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._line, lines[0]])
            self._line.clear()
        self._line.append(rest)
        return [msgspec.json.decode(line) for line in lines]


class AsyncStreamReader:
    """One stream as it is received; an item of `channel.streams()`. `async for` yields its parts as they arrive.

    Parts are text, `bytes`, or JSON values, by what the producer writes. Each iteration begins with the first part.
    After the last one the iteration ends, or raises `StreamError` unless the producer has completed the stream.
    """

    def __init__(
        self, receiver: StreamReceiver, changed: asyncio.Event, send: Callable[[StreamRequest], None], topic: str,
        owner: object,
    ) -> None:  # fmt: skip
        self._receiver = receiver
        self._changed = changed
        self._send = send
        self._topic = topic
        self._keeps = owner  # it ends when nothing refers to it any more

    @property
    def id(self) -> str:
        """The id of the stream."""
        return self._receiver.id

    @property
    def info(self) -> dict[str, Any] | None:
        """What the producer has said of the stream; None before the first segment."""
        return self._receiver.info

    @property
    def kind(self) -> StreamKind:
        """What the stream contains: "text", "bytes" or "json"."""
        return self._receiver.kind

    @property
    def status(self) -> StreamStatus:
        """`"running"`, or how the stream has ended, see `StreamError.status`."""
        return self._receiver.status

    @property
    def length(self) -> int:
        """The number of bytes received so far."""
        return self._receiver.length

    def __repr__(self) -> str:
        return f"<AsyncStreamReader {self.id!r} of {self._topic!r} {self.status}, {self.length} bytes>"

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._parts()

    async def _parts(self) -> AsyncIterator[Any]:
        decoder = PartDecoder()
        for number in count():
            part = await self.part(number)
            if part is None:
                return
            for value in decoder.decode(self.kind, part):
                yield value

    async def part(self, number: int) -> bytes | None:
        """Wait for a part by its number, from 0, and return its bytes; None after the end. Raises: StreamError."""
        receiver = self._receiver
        while number >= len(receiver.parts):
            if receiver.status != "running":
                self._raise_unless_complete()
                return None
            self._changed.clear()
            await self._changed.wait()
        return receiver.parts[number]

    async def read(self) -> Any:
        """Wait for the end, and return everything: text, `bytes`, or the list of JSON values. Raises: StreamError."""
        async for _ in self:
            pass
        return self.received()

    async def text(self) -> str:
        """Wait for the end, and return the whole text. Raises: StreamError; StateError: it is not a text."""
        whole = await self.read()
        if not isinstance(whole, str):
            raise StateError(f"the stream contains {self.kind}, not text; use read()", topic=self._topic)
        return whole

    def received(self) -> Any:
        """Return what has been received so far: text, `bytes`, or the list of JSON values; also after an error."""
        whole = b"".join(self._receiver.parts)
        values = PartDecoder().decode(self.kind, whole)
        return values if self.kind == "json" else values[0]

    def cancel(self) -> None:
        """Ask the producer to stop. If it agrees, the stream ends with the status "cancelled"."""
        self._control(StreamRequest("cancel", self.id))

    def steer(self, data: Any) -> None:
        """Send a JSON value to the producer, who finds it in `AsyncStreamWriter.steered()`."""
        self._control(StreamRequest("steer", self.id, data=msgspec.Raw(check_json(data))))

    def _control(self, request: StreamRequest) -> None:
        if self.status == "running":
            self._send(request)

    def _raise_unless_complete(self) -> None:
        receiver = self._receiver
        if receiver.status not in ("running", "complete"):
            reason = receiver.reason or "no reason was given"
            raise StreamError(
                f"the stream {self.id!r} has ended: {receiver.status}, {reason}",
                status=receiver.status, reason=receiver.reason, topic=self._topic,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Known:
    """A stream that is received: its state, and the event that wakes iterations over it."""

    receiver: StreamReceiver
    changed: asyncio.Event


class _Receiving:
    """Receives the streams of a channel in a task; the part of `AsyncStreams` that the task refers to."""

    def __init__(
        self, driver: Driver, core: CoreChannel, events: AsyncStream[Any], id: str | None, *, most: int, idle: float,
        start_timeout: float | None, store: StreamStore | None,
    ) -> None:  # fmt: skip
        self._driver = driver
        self._start_timeout = start_timeout
        self._store = store
        self._core = core
        self._events = events
        self._id = id
        self._most = most
        self._idle = idle
        self._known: dict[str, _Known] = {}
        """The streams that have not ended, by id, the oldest first."""
        self._past: dict[tuple[str, str | None], None] = {}
        """Id and run of the streams that have ended, the newest; their segments are ignored."""
        self._loading: set[str] = set()
        """The ids of the streams that the store is being asked for."""
        self.waiting: Final[deque[_Known]] = deque(maxlen=MAX_KNOWN)
        """The streams that the user has not got yet."""
        self.topic: Final = core.name
        self.changed: Final = asyncio.Event()
        self.error: BaseException | None = None
        self.closed = False
        self._announced = False

    async def run(self) -> None:
        """Handle events until the channel is left, the client ends, or `close`."""
        if self._id is not None:
            self._add(self._id)
        try:
            while not self.closed:
                await self._step()
        except ClosedError:
            pass  # the iteration is over
        except RealtimeError as error:
            self.error = error
        finally:
            self._finish()

    async def _step(self) -> None:
        if self._core.state is ChannelState.JOINED and not self._announced:
            self._announced = True
            self._on_joined()
        now = self._driver.clock.time()
        for known in list(self._known.values()):
            self._tick(known, now)
        deadlines = [at for known in self._known.values() if (at := known.receiver.deadline) is not None]
        delay = max(0.0, min(deadlines) - now) if deadlines and self._announced else None
        try:
            event = await self._events.get(timeout=delay)
        except OperationTimeout:
            return
        except SlowConsumerError:  # segments were dropped, also of streams that are not known yet; ask for them
            self._on_joined()
            return
        if isinstance(event, Broadcast):
            self._on_segment(read_segment(_payload(cast("Broadcast[Any]", event))))
        elif self._core.state is not ChannelState.JOINED:
            self._announced = False

    def _on_joined(self) -> None:
        """Ask for what is running, and for what was missed while the channel was not joined."""
        if self._id is None:
            self.send(StreamRequest("data"))
        self._ask_all()

    def _ask_all(self) -> None:
        now = self._driver.clock.time()
        for known in self._known.values():
            known.receiver.ask(now)

    def _on_segment(self, segment: Segment | None) -> None:
        if segment is None or self._id not in (None, segment.id):
            return
        if (segment.id, segment.run) in self._past or (segment.id, None) in self._past:
            return
        now = self._driver.clock.time()
        known = self._known.get(segment.id)
        if known is not None and known.receiver.run not in (None, segment.run):  # another stream with the same id
            self._interrupt(known, "another stream with the same id has begun")
            known = None
        if known is None:
            known = self._add(segment.id)
        known.receiver.receive(segment, now)
        known.changed.set()
        self._tick(known, now)
        self._forget_ended(known)

    def _tick(self, known: _Known, now: float) -> None:
        if not self._announced:
            return
        request = known.receiver.tick(now)
        if request is not None:
            self.send(request)
            if self._store is not None and known.receiver.unanswered > 1 and known.receiver.id not in self._loading:
                self._loading.add(known.receiver.id)
                self._driver.tasks.spawn(self._restore(self._store, known), f"load-{known.receiver.id}")
        else:
            self._forget_ended(known)

    def _forget_ended(self, known: _Known) -> None:
        """If a stream has ended, wake its readers, and keep only its id and run."""
        receiver = known.receiver
        if receiver.status == "running":
            return
        known.changed.set()
        if self._known.get(receiver.id) is known:
            del self._known[receiver.id]
            self._past[receiver.id, receiver.run] = None
            if len(self._past) > MAX_KNOWN:
                del self._past[next(iter(self._past))]

    async def _restore(self, store: StreamStore, known: _Known) -> None:
        """Complete a stream whose producer does not answer from the store."""
        receiver = known.receiver
        try:
            stored = await store.load(receiver.id)
            if stored is not None:
                if not isinstance(stored.data, bytes):
                    raise InvalidArgumentError(
                        f"the data of a stored stream must be bytes, not {type(stored.data).__name__}"
                    )
                receiver.restore(stored.data, stored.kind, stored.info, stored.status, stored.reason)
        except Exception as error:  # noqa: BLE001  of the user's store
            self._driver.reports.error(error, "stream")
            return
        finally:
            self._loading.discard(receiver.id)
        known.changed.set()
        self._forget_ended(known)

    def _add(self, id: str) -> _Known:
        receiver = StreamReceiver(
            id, self._driver.clock.time(), most=self._most, idle=self._idle, start_timeout=self._start_timeout
        )
        changed = asyncio.Event()
        known = self._known[id] = _Known(receiver, changed)
        if len(self._known) > MAX_KNOWN:
            self._interrupt(next(iter(self._known.values())), "too many streams are read at once")
        self.waiting.append(known)
        self.changed.set()
        return known

    def _interrupt(self, known: _Known, reason: str) -> None:
        known.receiver.interrupt(reason)
        self._forget_ended(known)

    def send(self, request: StreamRequest) -> None:
        """Send a request to producers; it is repeated by its deadline if it is lost."""
        if self._core.state is not ChannelState.JOINED:
            return
        message = OutgoingBroadcast(REQUEST_EVENT, msgspec.json.encode(request), True, False, 5.0, True)
        try:
            ticket = self._driver.session.broadcast(self._core.topic, message, self._driver.now())
        except RealtimeError as error:
            self._driver.reports.log("stream").warning("a request to the producer of a stream failed: %s", error)
            return
        if ticket is not None:
            self._driver.promise(ticket).add_done_callback(_retrieve)
        self._driver.pump()

    def close(self) -> None:
        """Stop receiving."""
        self.closed = True
        self._events.close()

    def _finish(self) -> None:
        self.closed = True
        self._events.close()
        reason = str(self.error) if self.error is not None else "the channel was left, or reading was closed"
        for known in list(self._known.values()):
            self._interrupt(known, reason)
        self.changed.set()


def _retrieve(outcome: "asyncio.Future[Any]") -> None:
    """Retrieve the outcome of a request, which the deadline of the reader repeats if it failed."""
    if not outcome.cancelled():
        outcome.exception()


class AsyncStreams:
    """The streams of a channel, made by `channel.streams()`. `async for` yields one `AsyncStreamReader` for each."""

    def __init__(
        self, driver: Driver, core: CoreChannel, events: AsyncStream[Any], id: str | None, *, most: int, idle: float,
        start_timeout: float | None, store: StreamStore | None,
    ) -> None:  # fmt: skip
        checked = None if id is None else check_stream_id(id)
        check_count("most", most, why="it is in bytes")
        check_number("idle", idle, above=0, unit="seconds")
        if start_timeout is not None:
            check_number("start_timeout", start_timeout, above=0, unit="seconds, or None")
        self._receiving = _Receiving(
            driver, core, events, checked, most=most, idle=idle, start_timeout=start_timeout, store=_check_store(store)
        )
        self._driver = driver
        if driver.tasks.spawn(self._receiving.run(), "streams") is None:
            self._receiving.close()
        finalizer = weakref.finalize(self, _close_soon, driver, self._receiving)
        finalizer.atexit = False

    def close(self) -> None:
        """Stop receiving; the iterations over unfinished streams raise `StreamError`."""
        self._driver.check_loop()
        self._receiving.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AsyncStreamReader:
        receiving = self._receiving
        while not receiving.waiting:
            if receiving.error is not None:
                raise receiving.error
            if receiving.closed:
                raise StopAsyncIteration
            receiving.changed.clear()
            await receiving.changed.wait()
        known = receiving.waiting.popleft()
        return AsyncStreamReader(known.receiver, known.changed, receiving.send, receiving.topic, self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    if not TYPE_CHECKING:
        __iter__ = misused("streams are received in async code here", "Write `async for stream in channel.streams():`.")
        __enter__ = __exit__ = misused("streams are received in async code here", "Write `async with`.")


def _close_soon(driver: Driver, receiving: _Receiving) -> None:
    """Close from a finalizer, which may run on any thread."""
    try:
        driver.loop.call_soon_threadsafe(receiving.close)
    except RuntimeError:
        return  # the loop is closed
