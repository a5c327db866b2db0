"""A buffer that stops reading, and the valve that says for how long it may."""

import asyncio

import pytest

from supawire.aio.buffers import FlowControl, Pause

pytestmark = pytest.mark.anyio


class Socket:
    """What a valve turns, and whether a request waits for its reply."""

    def __init__(self) -> None:
        self.reads = True
        self.awaits_reply = False
        self.flow_control = FlowControl(60.0, lambda: self.awaits_reply, self.set_reading)

    def set_reading(self, reads: bool) -> None:
        self.reads = reads


async def test_reading_goes_on_when_half_of_the_room_is_free():
    """A full buffer stops reading, and the reading goes on only when it is half empty, however often that happens."""
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
    """The valve refuses to close while a reply is awaited, and opens when one is awaited since."""
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
    """When its time is over the valve opens, and a holder that has had no room since stops nothing again."""
    socket = Socket()
    flow_control = FlowControl(0.0, lambda: False, socket.set_reading)
    assert flow_control.pause_reading("a") and not socket.reads
    await asyncio.sleep(0.01)
    assert socket.reads and not flow_control.pause_reading("a")
    flow_control.resume_reading("a")
    assert flow_control.pause_reading("a")
