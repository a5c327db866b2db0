"""Buffers between the socket and a consumer: flow control, and bounds in events and bytes."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import UNSET, Raw

from supawire.aio.buffers import (
    Buffer,
    DropNewest,
    DropOldest,
    FlowControl,
    Latest,
    Pause,
    ThreadFlowControl,
    kept_bytes,
)
from supawire.aio.connections import CHECKED_BYTES, FrameSink
from supawire.aio.thread_buffer import LeanThreadBuffer, ThreadBuffer
from supawire.errors import SlowConsumerError
from supawire.events import Broadcast, ChangeData, Insert, LateBroadcast

pytestmark = pytest.mark.anyio


class Socket:
    """A socket whose reading can be paused and resumed, and whether a request waits for its reply."""

    def __init__(self) -> None:
        self.reads = True
        self.awaits_reply = False
        self.flow_control = FlowControl(60.0, lambda: self.awaits_reply, self.set_reading)

    def set_reading(self, reads: bool) -> None:
        self.reads = reads


async def test_reading_resumes_when_the_buffer_is_half_empty():
    """A full buffer stops reading, and reading resumes each time the buffer is half empty."""
    socket = Socket()
    buffer = Pause(4, socket.flow_control)
    for _ in range(2):
        for number in range(4):
            assert socket.reads
            buffer.put(number)
        reads = [socket.reads]
        for _ in range(4):
            buffer.take()
            reads.append(socket.reads)
        assert reads == [False, False, True, True, True]


async def test_reading_never_stops_while_a_request_waits_for_its_reply():
    """Reading is not paused while a reply is awaited, and resumes when a request has been sent since."""
    socket = Socket()
    socket.awaits_reply = True
    assert not socket.flow_control.pause_reading("a") and socket.reads
    socket.awaits_reply = False
    assert socket.flow_control.pause_reading("a") and not socket.reads
    socket.flow_control.check()
    assert not socket.reads
    socket.awaits_reply = True
    socket.flow_control.check()
    assert socket.reads and not socket.flow_control.paused


async def test_reading_stops_for_a_bounded_time():
    """Reading resumes after the longest pause, and a buffer that is still full cannot pause it again."""
    socket = Socket()
    flow_control = FlowControl(0.0, lambda: False, socket.set_reading)
    assert flow_control.pause_reading("a") and not socket.reads
    await asyncio.sleep(0.01)
    assert socket.reads and not flow_control.pause_reading("a")
    flow_control.resume_reading("a")
    assert flow_control.pause_reading("a")


def large(number: int) -> Any:
    return LateBroadcast("room", str(number), UNSET, None, False, b"", b"x" * 1000)


def flow_control(*, may: bool = True) -> FlowControl:
    return FlowControl(30, lambda: not may, lambda reads: None)


MADE: dict[str, tuple[Callable[[], Buffer], list[str]]] = {
    "error": (lambda: Buffer(100), ["0", "1", "2"]),
    "drop_newest": (lambda: DropNewest(100), ["0", "1", "2"]),
    "drop_oldest": (lambda: DropOldest(100), ["7", "8", "9"]),
    "latest": (lambda: Latest(100, lambda event: event.event), ["7", "8", "9"]),
    "pause that may not": (lambda: Pause(100, flow_control(may=False)), ["0", "1", "2"]),
    "pause": (lambda: Pause(100, flow_control()), [str(number) for number in range(10)]),
}


@pytest.mark.parametrize("name", MADE)
async def test_events_with_too_many_bytes_are_dropped_by_the_policy(name: str):
    """The buffer keeps as many events as fit; dropped events are counted, and some policies raise an error."""
    make, kept = MADE[name]
    buffer = make()
    buffer.max_bytes = 3000
    for number in range(10):
        buffer.put(large(number))
    buffer.limit_bytes()
    assert [buffer.take().event for _ in range(len(buffer))] == kept
    assert buffer.dropped == 10 - len(kept)
    error = buffer.error
    assert (error is not None) is (name in {"error", "pause that may not"})
    if error is not None:
        assert "events of more than 3000 bytes waited" in error.message


async def test_one_event_may_have_any_number_of_bytes():
    """A single event may have any size, because otherwise it could never be delivered."""
    buffer = Buffer(100)
    buffer.max_bytes = 10
    buffer.put(large(0))
    buffer.limit_bytes()
    assert len(buffer) == 1 and buffer.dropped == 0


@pytest.mark.parametrize("kind", [ThreadBuffer, LeanThreadBuffer])
async def test_buffers_of_threads_are_bounded_in_bytes(kind: type[ThreadBuffer]):
    """A thread buffer drops events by its policy, and the consumer gets the error."""
    inner = Buffer(100)
    inner.max_bytes = 3000
    kept = kind(inner, ThreadFlowControl(flow_control(), asyncio.get_running_loop()))
    for number in range(10):
        kept.put(large(number))
    kept.limit_bytes()
    assert len(kept) == 3 and kept.dropped == 7
    assert [kept.take().event for _ in range(3)] == ["0", "1", "2"]
    assert isinstance(kept.take_error(), SlowConsumerError)


async def test_an_event_retains_the_bytes_of_its_frame():
    """An event retains as many bytes as its frame has."""
    row = Insert[Any]("room", ChangeData("public", "t", "INSERT", record=Raw(b"12345"), old_record=Raw(b"1")))
    events = (large(0), row, Broadcast("room", "e", b"123"), Broadcast("room", "e", [1]))
    assert [kept_bytes(event) for event in events] == [1000, 6, 3, 0]


async def test_the_frame_sink_checks_the_buffers_at_intervals_of_bytes():
    """The sizes of the buffers are checked once per interval of bytes of large frames, and never for small frames."""

    class Parts:
        """The objects that a frame sink uses."""

        weighed = 0

        def __init__(self) -> None:
            self.effects: list[Any] = []
            self.removed: dict[int, Any] = {}

        def now(self) -> Any:
            return object()

        def receiver(self, generation: int) -> Any:
            return self

        def receive(self, *frame: Any) -> None:
            return None

        receive_large = receive

        def limit_bytes(self) -> None:
            self.weighed += 1

    parts: Any = Parts()
    sink = FrameSink(parts, parts, parts, parts, 1)
    for _ in range(10):
        sink.frame(bytes(CHECKED_BYTES // 4), True)
    for _ in range(1000):
        sink.frame(bytes(16_000), True)
    assert parts.weighed == 2
