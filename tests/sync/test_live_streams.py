"""Live streams of the sync client, read and written by threads against a local server."""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from supawire import Channel, LocalServer, StreamError, connect
from supawire.errors import StateError


@contextmanager
def two() -> Generator[tuple[Channel, Channel]]:
    """Yield the channel of a producer and that of a reader, both joined."""
    with (
        LocalServer() as server,
        connect(server.url, server.anon_key) as one,
        connect(server.url, server.anon_key) as other,
        one.channel("room", ack=True) as sends,
        other.channel("room") as reads,
    ):
        yield sends, reads


def test_a_source_is_sent_from_the_callers_thread():
    """An iterable is read on the calling thread; a reader on another client gets the text and the result agrees."""
    with two() as (sends, reads):
        threads: set[int] = set()

        def source() -> Iterator[str]:
            for word in ("one ", "two ", "drei ü"):
                threads.add(threading.get_ident())
                yield word

        streams = reads.streams()
        result = sends.stream(source(), info={"model": "m"})
        reader = next(streams)
        assert reader.text() == "one two drei ü" == "".join(reader) == reader.received()
        assert (result.id, result.status, result.length) == (reader.id, "complete", reader.length)
        assert (reader.info, reader.kind, reader.status) == ({"model": "m"}, "text", "complete")
        assert threads == {threading.get_ident()}


def test_a_block_ends_the_stream():
    """`with` ends the stream; an exception in it ends the stream as failed and is raised."""
    with two() as (sends, reads), reads.streams() as streams:
        with sends.stream(kind="json") as out:
            out.write({"done": 1})
            out.write([2])
        assert next(streams).read() == [{"done": 1}, [2]]
        assert (out.status, out.finish().messages > 0) == ("complete", True)
        failing = sends.stream().__enter__()
        failing.write("half")
        failing.__exit__(ValueError, ValueError("x"), None)
        reader = next(streams)
        with pytest.raises(StreamError) as failure:
            reader.text()
        assert (failure.value.status, failure.value.reason, reader.received()) == ("failed", "ValueError", "half")


def test_readers_cancel_and_steer():
    """`steer` and `cancel` of a reader reach the producer; the block suppresses the error of `cancel`."""
    with two() as (sends, reads):
        reader = next(reads.streams("answer"))
        with sends.stream(id="answer") as out:
            out.write("word")
            reader.steer({"shorter": True})
            reader.cancel()
            while not out.cancelled:
                out.write(".")
            assert out.steered() == [{"shorter": True}]
            out.write("raises")
        assert out.status == "cancelled"
        with pytest.raises(StreamError, match="cancelled"):
            reader.read()


def test_streams_end_when_they_are_closed():
    """After `close` the iteration over streams ends."""
    with two() as (_, reads):
        streams = reads.streams()
        streams.close()
        assert list(streams) == []
        reads.unsubscribe()
        with pytest.raises(StateError, match="not subscribed"):
            reads.stream("text")
