"""Batches of the sync client's streams."""

import threading
from typing import Any

import pytest

from supawire import LocalServer, broadcast, connect
from supawire.errors import SlowConsumerError


def payloads(batch: list[Any]) -> list[Any]:
    return [event.payload for event in batch]


def test_a_thread_gets_lists_of_events(server: LocalServer):
    """Each list has at most `max` events in order, and no event is lost between lists of several sizes."""
    with connect(server.url, server.anon_key) as client, client.channel("room", echo=True) as room:
        stream = room.listen(broadcast("n"))
        for number in range(250):
            room.broadcast("n", number)
        received: list[int] = []
        for batch in stream.batches(max=100, within=0.01):
            assert 1 <= len(batch) <= 100
            received += payloads(batch)
            if len(received) == 250:
                break
        assert received == list(range(250))


def test_a_complete_list_does_not_wait(server: LocalServer):
    """A waiting thread is woken by the event that completes its list, and not by the time limit."""
    with connect(server.url, server.anon_key) as client, client.channel("room", echo=True) as room:
        batches = room.listen(broadcast("n")).batches(max=3, within=3600)
        sender = threading.Thread(target=lambda: [room.broadcast("n", number) for number in range(6)])
        sender.start()
        assert [payloads(next(batches)), payloads(next(batches))] == [[0, 1, 2], [3, 4, 5]]
        sender.join()


def test_a_list_that_waits_ends_with_the_channel(server: LocalServer):
    """When the channel is left, a waiting thread gets the events that are there, and then the iteration ends."""
    with connect(server.url, server.anon_key) as client:
        room = client.channel("room", echo=True)
        room.subscribe()
        stream = room.listen(broadcast("n"))
        batches = stream.batches(max=100, within=3600)

        def leave() -> None:
            room.broadcast("n", 1)
            while not len(stream._buffer):
                client.ping()
            room.unsubscribe()

        leaving = threading.Thread(target=leave)
        leaving.start()
        assert [payloads(batch) for batch in batches] == [[1]]
        leaving.join()


def test_the_error_of_a_slow_thread_follows_its_events(server: LocalServer):
    """The list has the events that fitted into the buffer, and the next one raises the error."""
    with connect(server.url, server.anon_key) as client, client.channel("room", echo=True) as room:
        stream = room.listen(broadcast("n"), buffer=2)
        for number in range(100):
            room.broadcast("n", number)
        client.ping()
        while stream._buffer._inner.error is None:
            client.ping()
        batches = stream.batches(within=3600)
        assert len(next(batches)) >= 2
        with pytest.raises(SlowConsumerError):
            next(batches)
