"""Live streams of the async client with the hub in virtual time: rate, late readers, lost connections, ends."""

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from supawire import AsyncStreamReader, StoredStream, StreamError
from supawire.core.live_streams import StreamReceiver
from supawire.errors import ClosedError, InvalidArgumentError, OperationTimeout, StateError
from supawire.testing import VirtualServer
from tests.aio.stream_scenarios import in_virtual_time, outcome, play_faults, send, text_of, tokens, two


def segments(server: VirtualServer) -> int:
    return sum(frame.user_event == "stream" for frame in server.frames)


@pytest.mark.parametrize("ack", [True, False])
@in_virtual_time
async def test_a_hundred_tokens_a_second_cost_fifteen_messages(ack: bool):
    """Tokens are merged to at most 15 messages a second; the first one is sent without delay, and all arrive."""
    server = VirtualServer()
    async with two(server, ack=ack) as (sends, reads):
        streams = reads.streams()
        sending = asyncio.create_task(send(sends, tokens(1000), info={"model": "m"}))
        reader = await anext(streams)
        loop = asyncio.get_running_loop()
        started = loop.time()
        parts = [part async for part in reader]
        seconds = loop.time() - started
        result = await sending
        assert "".join(parts) == text_of(1000)
        assert (result.status, result.length, reader.info) == (
            "complete",
            len(text_of(1000).encode()),
            {"model": "m"},
        )
        assert segments(server) == result.messages <= 15 * seconds + 2


@in_virtual_time
async def test_the_first_token_has_no_delay():
    """The first write is sent in the same moment of virtual time as a broadcast would be."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()
        async with sends.stream() as out:
            await asyncio.sleep(1)
            started = asyncio.get_running_loop().time()
            await out.write("first")
            reader = await anext(streams)
            assert await anext(aiter(reader)) == "first"
            assert asyncio.get_running_loop().time() - started <= 0.05


@in_virtual_time
async def test_a_late_reader_is_complete_in_one_round_trip():
    """A reader who comes in the middle asks once, and one answer has everything so far."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        late: list[AsyncStreamReader] = []
        async with sends.stream(id="answer") as out:
            for _ in range(10):
                await out.write("word ")
                await asyncio.sleep(0.2)
            before = len(server.frames)
            late.append(reader := await anext(reads.streams()))
            assert await anext(aiter(reader)) == "word " * 10
            assert [frame.user_event for frame in server.frames[before:]] == ["stream-request", "stream"]
            await out.write("end")
        assert await late[0].text() == "word " * 10 + "end"


@in_virtual_time
async def test_a_reader_after_the_end_still_gets_the_stream():
    """The producer answers for `keep` seconds after the end, and then no longer."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        await sends.stream("whole text", id="s", keep=30)
        await asyncio.sleep(20)
        async with reads.streams("s") as streams:
            assert await (await anext(streams)).text() == "whole text"
        await asyncio.sleep(20)
        async with reads.streams("s") as streams:
            reader = await anext(streams)
            with pytest.raises(StreamError, match="no producer") as failure:
                await reader.text()
            assert (failure.value.status, reader.received()) == ("interrupted", "")


@pytest.mark.parametrize("side", [1, 2])
@in_virtual_time
async def test_a_lost_connection_of_either_side_loses_nothing(side: int):
    """After the producer's or the reader's connection was lost for seconds, the reader has the whole text."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()
        sending = asyncio.create_task(send(sends, tokens(500)))
        reader = await anext(streams)
        await asyncio.sleep(1)
        server.refuse_connections(seconds=3)
        server.drop_connections(connection=side)
        assert await reader.text() == text_of(500)
        assert (await sending).status == "complete"


@in_virtual_time
async def test_bytes_and_json_values():
    """Bytes arrive as bytes, JSON values one by one, also when a value is longer than a message."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()
        await sends.stream([b"\x00\xff", b"\x01"])
        assert await (await anext(streams)).read() == b"\x00\xff\x01"
        values = [{"step": 1}, ["x" * 700_000], None, "done"]
        await sends.stream(values, kind="json")
        reader = await anext(streams)
        assert [value async for value in reader] == values == await reader.read() == reader.received()
        with pytest.raises(StateError, match="contains json"):
            await reader.text()


@in_virtual_time
async def test_an_exception_ends_the_stream_visibly():
    """An exception in the block ends the stream as failed, with the class of the exception; it is raised unchanged."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()

        async def divide() -> None:
            async with sends.stream() as out:
                await out.write("half")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await divide()
        reader = await anext(streams)
        failure = await outcome(reader)
        assert isinstance(failure, StreamError)
        assert (failure.status, failure.reason, reader.received()) == ("failed", "ZeroDivisionError", "half")


@in_virtual_time
async def test_a_cancellation_ends_the_stream_visibly():
    """A cancelled producer ends the stream as cancelled."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()
        sending = asyncio.create_task(send(sends, tokens(1000)))
        reader = await anext(streams)
        sending.cancel()
        failure = await outcome(reader)
        assert isinstance(failure, StreamError) and failure.status == "cancelled"
        with pytest.raises(asyncio.CancelledError):
            await sending


@in_virtual_time
async def test_a_reader_cancels_the_producer():
    """`cancel` of a reader ends the source and the stream; the producer's call returns with this status."""
    server = VirtualServer()
    closed: list[bool] = []

    async def source() -> AsyncIterator[str]:
        try:
            while True:
                yield "word "
                await asyncio.sleep(0.1)
        finally:
            closed.append(True)

    async with two(server) as (sends, reads):
        streams = reads.streams()
        sending = asyncio.create_task(send(sends, source()))
        reader = await anext(streams)
        await asyncio.sleep(1)
        reader.cancel()
        failure = await outcome(reader)
        assert isinstance(failure, StreamError) and failure.status == "cancelled"
        assert ((await sending).status, closed) == ("cancelled", [True])


@in_virtual_time
async def test_readers_steer_the_producer():
    """What readers send with `steer` is with the producer in order; with `controls=False` it is ignored."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()
        for controls, expected in ((True, [{"shorter": True}, 2]), (False, [])):
            async with sends.stream(controls=controls) as out:
                await out.write("text")
                reader = await anext(streams)
                reader.steer({"shorter": True})
                reader.steer(2)
                await asyncio.sleep(1)
                assert (out.steered(), out.steered()) == (expected, [])


@dataclass
class Steering:
    tone: str


@in_virtual_time
async def test_steering_is_typed(caplog: pytest.LogCaptureFixture):
    """With a model, values of readers become its objects; those that do not fit are logged and left out."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()
        async with sends.stream() as out:
            await out.write("text")
            reader = await anext(streams)
            reader.steer({"tone": "short"})
            reader.steer({"tone": 7})
            await asyncio.sleep(1)
            assert out.steered(Steering) == [Steering("short")]
            assert "steered with a wrong value" in caplog.text


@in_virtual_time
async def test_writing_waits_while_too_much_is_unsent():
    """While the connection is lost, `write` returns until 256 KiB wait, and then waits for the connection."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()
        async with sends.stream() as out:
            server.refuse_connections(seconds=5)
            server.drop_connections()
            await asyncio.sleep(0.1)
            started = asyncio.get_running_loop().time()
            await out.write("x" * 200_000)
            assert asyncio.get_running_loop().time() == started
            await out.write("x" * 200_000)
            assert asyncio.get_running_loop().time() >= started + 4
        assert len(await (await anext(streams)).text()) == 400_000


class MemoryStore:
    """A store that fails while `broken`."""

    def __init__(self) -> None:
        self.streams: dict[str, StoredStream] = {}
        self.saves = 0
        self.broken = False

    async def save(self, stream: StoredStream) -> None:
        self.saves += 1
        if self.broken:
            raise OSError("the store is away")
        self.streams[stream.id] = stream

    async def load(self, id: str) -> StoredStream | None:
        return self.streams.get(id)


@in_virtual_time
async def test_a_store_has_the_stream_when_the_producer_is_gone():
    """A stored stream is read after its producer has closed; it was saved once a second and at the end."""
    server, store = VirtualServer(), MemoryStore()
    async with server.connect() as client, client.channel("room", ack=True) as sends:
        await sends.stream(tokens(300), id="s", info={"model": "m"}, store=store)
    assert 3 <= store.saves <= 5
    async with server.connect() as client, client.channel("room") as reads:
        reader = await anext(reads.streams("s", store=store))
        assert (await reader.text(), reader.info) == (text_of(300), {"model": "m"})
        gone = await anext(reads.streams("other", store=store, start_timeout=5))
        assert isinstance(await outcome(gone), StreamError)


@in_virtual_time
async def test_a_store_that_fails_is_reported_and_tried_again():
    """Errors of a store go to `on_error` while the stream runs; the stream is sent and saved as soon as possible."""
    server, store, errors = VirtualServer(), MemoryStore(), list[BaseException]()
    store.broken = True
    async with server.connect(on_error=errors.append) as client, client.channel("room", ack=True) as sends:
        async with sends.stream(id="s", store=store) as out:
            await out.write("text")
            await asyncio.sleep(1.5)
            store.broken = False
        assert [str(error) for error in errors] == ["the store is away"]
        assert (store.streams["s"].data, store.streams["s"].status) == (b"text", "complete")


@in_virtual_time
async def test_drain_ends_running_streams():
    """A client that drains ends its streams as cancelled, after what was written."""
    server = VirtualServer()
    async with server.connect() as one, server.connect() as other:
        sends, reads = one.channel("room", ack=True), other.channel("room")
        await sends.subscribe()
        await reads.subscribe()
        streams = reads.streams()
        out = await sends.stream().__aenter__()
        await out.write("so far")
        await one.drain()
        reader = await anext(streams)
        failure = await outcome(reader)
        assert isinstance(failure, StreamError)
        assert (failure.status, failure.reason) == ("cancelled", "the producer is shutting down")
        assert reader.received() == "so far"
        with pytest.raises((StateError, ClosedError)):
            await out.write("more")


@in_virtual_time
async def test_a_stream_with_the_id_of_an_earlier_one_is_another_stream():
    """A producer that starts again with the same id does not continue the old text."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams("s")
        first = await anext(streams)
        out = await sends.stream(id="s", keep=0).__aenter__()
        await out.write("old text")
        await asyncio.sleep(1)
        await sends.stream("new", id="s")
        second = await anext(streams)
        assert await second.text() == "new"
        assert isinstance(await outcome(first), StreamError)


@in_virtual_time
async def test_two_producers_with_the_same_id_are_two_streams():
    """When two producers use one id at once, a reader gets the later one, and each of them at most once."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams("s")
        await anext(streams)
        sending = [asyncio.create_task(send(sends, tokens(200), id="s")) for _ in range(2)]
        await asyncio.gather(*sending)
        await reads.broadcast("stream-request", {"want": "data", "id": "s"})
        await asyncio.sleep(2)
        streams.close()
        later = [reader async for reader in streams]
        assert [await outcome(reader) for reader in later] == [text_of(200)]


@in_virtual_time
async def test_leaving_the_channel_ends_both_sides():
    """After `unsubscribe` the producer's next write raises, and the iterations of a reader end with an error."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()
        out = await sends.stream().__aenter__()
        await out.write("text")
        reader = await anext(streams)
        await sends.unsubscribe()
        await asyncio.sleep(1)
        with pytest.raises(ClosedError):
            await out.write("more")
        await reads.unsubscribe()
        failure = await outcome(reader)
        assert isinstance(failure, StreamError) and failure.status == "interrupted"
        assert [reader async for reader in streams] == []


@in_virtual_time
async def test_misuse_raises_at_once():
    """A channel that is not subscribed, values of another kind, and options out of range are refused."""
    server = VirtualServer()
    async with server.connect() as client:
        room = client.channel("room", ack=True)
        with pytest.raises(StateError, match="not subscribed"):
            await room.stream("text")
        with pytest.raises(StateError, match="has not ended"):
            room.stream().result()
        wrong: dict[str, Any]
        for wrong in ({"rate": 0}, {"kind": "video"}, {"info": []}, {"id": ""}, {"keep": -1}, {"history": 0}):
            with pytest.raises(InvalidArgumentError):
                room.stream(**wrong)
        for wrong in ({"id": ""}, {"most": 0}, {"idle": 0}, {"start_timeout": 0}, {"store": 1}):
            with pytest.raises(InvalidArgumentError):
                room.streams(**wrong)
        await room.subscribe()
        for call in (room.stream().write("text"), room.stream().finish()):
            with pytest.raises(StateError, match="has not begun"):
                await call
        async with room.stream() as out:
            await out.write("text")
            with pytest.raises(InvalidArgumentError, match="contains text"):
                await out.write(b"bytes")
            with pytest.raises(InvalidArgumentError, match="UTF-8"):
                await out.write("\ud800")
            with pytest.raises(InvalidArgumentError, match="UTF-8"):
                await out.finish("failed", "\ud800")
            with pytest.raises(StateError, match="sent once"):
                await out.__aenter__()
        with pytest.raises(StateError, match="has ended"):
            await out.write("more")


class RecordingStore(MemoryStore):
    """A store whose saves of a running stream are slow; it records what was saved."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[tuple[str, bytes]] = []

    async def save(self, stream: StoredStream) -> None:
        if stream.status == "running":
            await asyncio.sleep(3)
        await super().save(stream)
        self.saved.append((stream.status, stream.data))


@in_virtual_time
async def test_a_slow_save_does_not_replace_a_later_state():
    """The end is saved after a save that is still under way, so that the store keeps the newest state."""
    server, store = VirtualServer(), RecordingStore()
    async with two(server) as (sends, _):
        async with sends.stream(store=store) as out:
            await out.write("a")
            await asyncio.sleep(1.5)
            await out.write("b")
        assert store.saved == [("running", b"a"), ("complete", b"ab")]


@in_virtual_time
async def test_drain_stores_the_end():
    """A client that drains stores the end of its streams, with what was written since the last save."""
    server, store = VirtualServer(), RecordingStore()
    async with server.connect() as client:
        room = client.channel("room", ack=True)
        await room.subscribe()
        out = await room.stream(store=store).__aenter__()
        await out.write("so far")
        await client.drain()
        assert store.saved == [("cancelled", b"so far")]


@in_virtual_time
async def test_an_error_of_the_store_does_not_replace_that_of_the_block():
    """When the block raises and the store fails too, the error of the block is raised, and the other one reported."""
    server, store, errors = VirtualServer(), MemoryStore(), list[BaseException]()
    store.broken = True
    async with server.connect(on_error=errors.append) as client, client.channel("room", ack=True) as sends:

        async def divide() -> None:
            async with sends.stream(store=store) as out:
                await out.write("half")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await divide()
        assert [str(error) for error in errors] == ["the store is away"]


@in_virtual_time
async def test_a_store_with_wrong_data_is_reported():
    """A stored stream that is not valid is reported; the client and its other readers go on."""

    class Wrong(MemoryStore):
        async def load(self, id: str) -> StoredStream | None:
            return StoredStream(id, "text", cast("bytes", "text"))

    server, errors = VirtualServer(), list[BaseException]()
    async with server.connect(on_error=errors.append) as client, client.channel("room", ack=True) as room:
        reader = await anext(room.streams("s", store=Wrong(), start_timeout=5))
        assert isinstance(await outcome(reader), StreamError)
        assert errors and all("must be bytes" in str(error) for error in errors)
        assert (await room.stream("text")).status == "complete"


@in_virtual_time
async def test_two_readers_cancel_the_producer():
    """A second cancellation, while the source is being closed, changes nothing."""
    server = VirtualServer()

    async def source() -> AsyncIterator[str]:
        try:
            while True:
                yield "word "
                await asyncio.sleep(0.1)
        finally:
            await asyncio.sleep(1)

    async with two(server) as (sends, reads):
        streams = reads.streams()
        sending = asyncio.create_task(send(sends, source()))
        reader = await anext(streams)
        reader.cancel()
        await asyncio.sleep(0.5)
        reader.cancel()
        assert (await sending).status == "cancelled"


@pytest.mark.parametrize("event", ["stream", "stream-request"])
@in_virtual_time
async def test_payloads_that_cannot_be_decoded_are_ignored(event: str, caplog: pytest.LogCaptureFixture):
    """A message that is nested too deeply to be decoded disturbs neither readers nor producers."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()
        async with sends.stream() as out:
            await out.write("one ")
            reader = await anext(streams)
            payload = "[" * 100_000 + "]" * 100_000
            message = f'{{"type":"broadcast","event":"{event}","payload":{payload}}}'
            server.send_raw(f'[null,null,"realtime:room","broadcast",{message}]')
            await asyncio.sleep(1)
            await out.write("two")
            await out.finish()
            assert await reader.text() == "one two"
        assert not caplog.records


@in_virtual_time
async def test_steering_keeps_the_newest_values():
    """What readers send is bounded in number and in bytes, also when the producer does not look at it."""
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()
        async with sends.stream() as out:
            await out.write("text")
            reader = await anext(streams)
            for number in range(20):
                reader.steer([number, "x" * 100_000])
                await asyncio.sleep(1)
            numbers = [number for number, _ in out.steered()]
            assert numbers == list(range(10, 20))


@in_virtual_time
async def test_values_of_libraries_are_steered_and_given_as_info():
    """`steer` and `info` take all values that a broadcast takes."""
    numpy = pytest.importorskip("numpy")
    server = VirtualServer()
    async with two(server) as (sends, reads):
        streams = reads.streams()
        async with sends.stream(info={"size": numpy.int64(7)}) as out:
            await out.write("text")
            reader = await anext(streams)
            reader.steer(numpy.array([1, 2]))
            await asyncio.sleep(1)
            assert (out.steered(), reader.info) == ([[1, 2]], {"size": 7})


@in_virtual_time
async def test_a_reader_forgets_the_data_of_ended_streams():
    """The iterator over streams keeps no data of those that have ended, and ignores repeated messages of them."""
    server = VirtualServer()
    async with two(server) as (sends, reads), reads.streams() as streams:
        for number in range(5):
            await sends.stream(f"text {number}", id=f"s{number}")
            assert await (await anext(streams)).text() == f"text {number}"
        gc.collect()
        kept = [one.id for one in gc.get_objects() if isinstance(one, StreamReceiver) and one.id[0] == "s"]
        assert len(kept) <= 1
        async with reads.streams("s0") as again:  # the producer answers once more, to all
            assert await (await anext(again)).text() == "text 0"
        await sends.stream("another", id="s0")
        assert await (await anext(streams)).text() == "another"


@in_virtual_time
async def test_an_end_that_is_not_confirmed_in_time_raises():
    """While the server is away, leaving the block raises after the timeout."""
    server = VirtualServer()
    async with two(server) as (sends, _):
        out = await sends.stream(timeout=2).__aenter__()
        await out.write("text")
        server.refuse_connections(seconds=60)
        server.drop_connections()
        with pytest.raises(OperationTimeout, match="not confirmed"):
            await out.__aexit__(None, None, None)


@pytest.mark.parametrize("block", range(3))
def test_random_faults_never_give_a_wrong_text(block: int):
    """After random faults on both sides a reader has the exact text, or an error; mostly the text."""
    outcomes = [play_faults(seed) for seed in range(block * 10, block * 10 + 10)]
    assert outcomes.count("complete") >= 6
    assert "corrupt" not in outcomes
