"""What every transport keeps (src/supawire/transport/base.py); a new one is added to `RIGS`."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from supawire.errors import ConnectError
from supawire.transport import _connection, memory
from tests.transport.rigs import KEY, RIGS, Collector, Line, Rig, line

pytestmark = pytest.mark.anyio


@pytest.fixture(params=list(RIGS))
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with RIGS[request.param]() as rig:
        yield rig


@pytest.fixture
def short_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_connection, memory):
        monkeypatch.setattr(module, "CLOSE_BOUND", 0.05)


async def ended(line: Line) -> None:
    """Wait until the peer has seen the end."""
    while True:
        try:
            await line.peer.receive()
        except EOFError:
            return


async def test_frames_go_both_ways_in_order(rig: Rig):
    """Text and binary frames arrive once, in order, and as the kind they were sent."""
    frames = [(b"%d" % number, number % 3 == 0) for number in range(50)]
    async with line(rig) as it:
        for data, binary in frames:
            it.connection.write(data, binary)
            await it.peer.send(data, binary)
            assert await it.peer.receive() == (data, binary)
        assert await it.sink.has(50) == frames
        assert it.connection.written == 50
        assert await it.connection.flush(50)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013, 4000, None])
async def test_the_peers_close_code_is_told(rig: Rig, code: int | None):
    """When the peer closes, `run` returns its code, after the frames that came before."""
    async with line(rig) as it:
        it.connection.write(b"[]", False)
        await it.peer.receive()
        await it.peer.send(b"last")
        await it.peer.close(code)
        end = await it.run
        assert (end.code, end.written) == (code, 1)
        assert it.sink.frames == [(b"last", False)]


async def test_a_cut_connection_has_no_code(rig: Rig):
    """When the connection is cut, `run` returns without a code."""
    async with line(rig) as it:
        await it.peer.drop()
        assert (await it.run).code is None


async def test_a_polite_close_says_goodbye(rig: Rig):
    """`close` sends what was written before, then the code, and ends `run`."""
    async with line(rig) as it:
        it.connection.write(b"last", False)
        closing = asyncio.create_task(it.connection.close(1000))
        assert await it.peer.receive() == (b"last", False)
        with pytest.raises(EOFError, match="code 1000"):
            await it.peer.receive()
        await it.peer.close(1000)
        await closing
        await it.run


@pytest.mark.usefixtures("short_bound")
async def test_a_polite_close_is_bounded(rig: Rig):
    """`close` ends although the peer never answers it (R10)."""
    async with line(rig) as it:
        it.peer.never_answer_close()
        await it.connection.close(1000)
        await it.run


async def test_an_abort_ends_at_once(rig: Rig):
    """`abort` ends `run`, and what is written afterwards is lost without a word."""
    async with line(rig) as it:
        it.connection.abort()
        end = await it.run
        it.connection.write(b"late", False)
        assert end.code is None
        assert not await it.connection.flush(1)
        await ended(it)


async def test_a_sink_hears_when_there_are_no_more_frames(rig: Rig):
    """`batch_done` is called before the connection waits, so that nothing of a batch is left until the next one."""
    async with line(rig) as it:
        for number in range(1, 4):
            await it.peer.send(b"[]")
            await it.sink.has(number)
            await asyncio.sleep(0)
            assert it.sink.batches[-1] == number


async def test_a_cancelled_run_leaves_no_socket(rig: Rig):
    """Cancelling `run` ends the connection: the peer sees its end."""
    async with line(rig) as it:
        await it.peer.send(b"[]")
        await it.sink.has(1)
        it.run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await it.run
        await ended(it)


async def fill(it: Line, size: int) -> int:
    """Write until frames have to wait; how many were given."""
    given = 0
    while it.connection.written == given:
        assert given < 2000
        it.connection.write(b"%06d" % given + bytes(size - 6), True)
        given += 1
        await asyncio.sleep(0)
    for _ in range(5):
        it.connection.write(b"%06d" % given + bytes(size - 6), True)
        given += 1
    return given


async def test_a_full_peer_holds_frames_back(rig: Rig):
    """Frames that the network does not take are not counted as written; they go out later, in order."""
    async with line(rig) as it:
        given = await fill(it, rig.frame)
        flushing = asyncio.create_task(it.connection.flush(given))
        await asyncio.sleep(0)
        assert it.connection.written < given
        assert not flushing.done()
        for number in range(given):
            data, _ = await it.peer.receive()
            assert int(data[:6]) == number
        assert await flushing
        assert it.connection.written == given


async def test_what_was_not_written_is_known_at_the_end(rig: Rig):
    """When a full connection is lost, waiting for the writing ends, and `written` says how far it came (R31)."""
    async with line(rig) as it:
        given = await fill(it, rig.frame)
        flushing = asyncio.create_task(it.connection.flush(given))
        await asyncio.sleep(0)
        it.connection.abort()
        end = await it.run
        assert not await flushing
        assert end.written is not None
        assert 0 < end.written < given


@pytest.mark.usefixtures("short_bound")
async def test_a_full_connection_closes_within_the_bound(rig: Rig):
    """`close` is bounded when the peer takes nothing: half-open, or stuck (R10)."""
    async with line(rig) as it:
        await fill(it, rig.frame)
        it.peer.never_answer_close()
        await it.connection.close(1000)
        await it.run


async def test_reading_can_be_paused(rig: Rig):
    """Paused, the sink gets at most one frame more; resumed, it gets everything in order."""
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


async def test_the_loop_gets_its_turn_between_bursts(rig: Rig):
    """However many frames wait, no more than `burst` come in one turn of the event loop (R39)."""
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


async def test_a_refusal_carries_what_the_server_said(rig: Rig):
    """A refused upgrade raises status, body and Retry-After (R30)."""
    await rig.refuse(429, '{"error": "too many"}', 7)
    with pytest.raises(ConnectError) as caught:
        await rig.transport.open(rig.request())
    error = caught.value
    assert (error.status, error.body, error.retry_after) == (429, '{"error": "too many"}', 7.0)
    assert KEY not in f"{error!r} {error}"


async def test_nobody_there_has_no_status(rig: Rig):
    """When nobody listens the error has no status, and does not show the key (R48)."""
    await rig.leave()
    with pytest.raises(ConnectError) as caught:
        await rig.transport.open(rig.request())
    assert caught.value.status is None
    assert KEY not in f"{caught.value!r} {caught.value}"
