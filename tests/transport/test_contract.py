"""The contract of transports (src/supawire/transport/base.py), tested on each; add a new one to `RIGS`."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from supawire.errors import ConnectError
from tests.transport.rigs import KEY, RIGS, Collector, Line, Rig, line

pytestmark = pytest.mark.anyio


@pytest.fixture(params=list(RIGS))
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with RIGS[request.param]() as rig:
        yield rig


@pytest.fixture(params=list(RIGS))
async def impatient_rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A transport that waits only 50 ms for the peer's close frame."""
    async with RIGS[request.param](close_timeout=0.05) as rig:
        yield rig


async def ended(line: Line) -> None:
    """Wait until the peer has received the end of the connection."""
    while True:
        try:
            await line.peer.receive()
        except EOFError:
            return


async def test_frames_go_both_ways_in_order(rig: Rig):
    """Text and binary frames arrive once, in order, and as the kind they were sent."""
    frames = [(b"%d" % number, rig.carries_binary and number % 3 == 0) for number in range(50)]
    async with line(rig) as it:
        for data, binary in frames:
            it.connection.write(data, binary)
            await it.peer.send(data, binary)
            assert await it.peer.receive() == (data, binary)
        assert await it.sink.has(50) == frames
        assert await it.connection.flush(50)
        assert it.connection.written == 50


async def test_the_descriptor_is_known_in_each_thread(rig: Rig):
    """Another thread, such as one that forks, gets the descriptor of the socket."""
    async with line(rig) as it:
        await it.peer.send(b"0")
        await it.sink.has(1)
        descriptor = getattr(it.connection, "fileno", None)
        if descriptor is not None:
            assert await asyncio.to_thread(descriptor) == descriptor() > 0


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013, 4000, None])
async def test_run_returns_the_close_code_of_the_peer(rig: Rig, code: int | None):
    """When the peer closes, `run` returns its code, after the frames that were sent before."""
    async with line(rig) as it:
        it.connection.write(b"[]", False)
        await it.peer.receive()
        await it.connection.flush(1)
        await it.peer.send(b"last")
        await it.peer.close(code)
        end = await it.run
        assert (end.code, end.written) == (code if rig.carries_codes else None, 1)
        assert it.sink.frames == [(b"last", False)]


async def test_a_dropped_connection_has_no_close_code(rig: Rig):
    """When the connection drops, `run` returns without a code."""
    async with line(rig) as it:
        await it.peer.drop()
        assert (await it.run).code is None


async def test_close_sends_queued_frames_and_a_close_frame(rig: Rig):
    """`close` sends the frames written before, then the code, and ends `run`."""
    async with line(rig) as it:
        it.connection.write(b"last", False)
        closing = asyncio.create_task(it.connection.close(1000))
        assert await it.peer.receive() == (b"last", False)
        with pytest.raises(EOFError, match="code 1000" if rig.carries_codes else "abandoned"):
            await it.peer.receive()
        await it.peer.close(1000)
        await closing
        await it.run


async def test_close_ends_without_an_answer(impatient_rig: Rig):
    """`close` ends although the peer never answers it."""
    async with line(impatient_rig) as it:
        it.peer.never_answer_close()
        await it.connection.close(1000)
        await it.run


async def test_abort_closes_at_once(rig: Rig):
    """`abort` ends `run`; frames written afterwards are discarded without an error."""
    async with line(rig) as it:
        it.connection.abort()
        end = await it.run
        it.connection.write(b"late", False)
        assert end.code is None
        assert not await it.connection.flush(1)
        await ended(it)


async def test_the_sink_is_notified_at_the_end_of_a_batch(rig: Rig):
    """`batch_done` is called before the connection waits for the next frame."""
    async with line(rig) as it:
        for number in range(1, 4):
            await it.peer.send(b"[]")
            await it.sink.has(number)
            await asyncio.sleep(0)
            assert it.sink.batches[-1] == number


async def test_a_cancelled_run_closes_the_socket(rig: Rig):
    """Cancelling `run` closes the connection, and the peer receives its end."""
    async with line(rig) as it:
        await it.peer.send(b"[]")
        await it.sink.has(1)
        it.run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await it.run
        await ended(it)


async def fill(it: Line, rig: Rig) -> int:
    """Write until frames are queued; return how many were passed to `write`."""
    size, binary = rig.frame, rig.carries_binary
    given = 0
    it.peer.set_reading(False)
    while it.connection.written == given:
        assert given < 2000
        it.connection.write(b"%06d" % given + bytes(size - 6), binary)
        given += 1
        await asyncio.sleep(0)
    await it.peer.reached()
    for _ in range(5):
        it.connection.write(b"%06d" % given + bytes(size - 6), binary)
        given += 1
    return given


async def test_frames_for_a_full_peer_are_queued(rig: Rig):
    """Frames that do not fit into the network buffers do not count as written; they are sent later, in order."""
    async with line(rig) as it:
        given = await fill(it, rig)
        flushing = asyncio.create_task(it.connection.flush(given))
        await asyncio.sleep(0)
        assert it.connection.written < given
        assert not flushing.done()
        it.peer.set_reading(True)
        for number in range(given):
            data, _ = await it.peer.receive()
            assert int(data[:6]) == number
        assert await flushing
        assert it.connection.written == given


@pytest.mark.parametrize("end", ["abort", "drop"])
async def test_the_number_of_written_frames_is_known_at_the_end(rig: Rig, end: str):
    """When a full connection is lost, `flush` returns False, and `written` is the number of frames sent."""
    async with line(rig) as it:
        given = await fill(it, rig)
        flushing = asyncio.create_task(it.connection.flush(given))
        await asyncio.sleep(0)
        if end == "abort":
            it.connection.abort()
        else:
            await it.peer.drop()
        closed = await it.run
        assert not await flushing
        assert closed.written is not None
        assert 0 < closed.written < given


async def test_close_ends_although_the_connection_is_full(impatient_rig: Rig):
    """`close` ends although the peer reads nothing: it is half-open or stuck."""
    async with line(impatient_rig) as it:
        await fill(it, impatient_rig)
        it.peer.never_answer_close()
        await it.connection.close(1000)
        await it.run


async def test_reading_can_be_paused(rig: Rig):
    """A paused connection passes at most one more frame; a resumed one passes all frames in order."""
    async with line(rig) as it:
        await it.peer.send(b"0")
        await it.sink.has(1)
        it.connection.pause_reading()
        it.connection.pause_reading()
        for number in range(1, 20):
            await it.peer.send(b"%d" % number)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(it.sink.frames) <= 2
        it.connection.resume_reading()
        it.connection.resume_reading()
        assert [int(data) for data, _ in await it.sink.has(20)] == list(range(20))


async def test_the_event_loop_runs_between_batches(rig: Rig):
    """At most `max_batch` frames are passed in one iteration of the event loop, however many are queued (R39)."""
    sink = Collector(max_batch=4)
    seen: list[int] = []

    async def watch() -> None:
        while True:
            seen.append(len(sink.frames))
            await asyncio.sleep(0)

    async with line(rig, sink) as it:
        it.connection.pause_reading()
        for _ in range(100):
            await it.peer.send(b"[]")
        watching = asyncio.create_task(watch())
        it.connection.resume_reading()
        await sink.has(100)
        watching.cancel()
    assert max(after - before for before, after in pairwise(seen)) <= 4


async def test_a_refusal_has_the_response_of_the_server(rig: Rig):
    """The error of a refused upgrade has its status, body and Retry-After."""
    await rig.refuse(429, '{"error": "too many"}', 7)
    with pytest.raises(ConnectError) as caught:
        await rig.transport.open(rig.request())
    error = caught.value
    assert (error.status, error.body, error.retry_after) == (429, '{"error": "too many"}', 7.0)
    assert KEY not in f"{error!r} {error}"


async def test_an_unreachable_server_has_no_status(rig: Rig):
    """When no server is listening, the error has no status and does not show the key."""
    await rig.leave()
    with pytest.raises(ConnectError) as caught:
        await rig.transport.open(rig.request())
    assert caught.value.status is None
    assert KEY not in f"{caught.value!r} {caught.value}"
