"""One client used by many threads, and many clients that leave no thread."""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from supawire import ConnectionState, LocalServer, OperationTimeout, broadcast, connect
from supawire.errors import ClosedError, ConnectError, StateError
from tests.held import Held, left_since
from tests.sync.conftest import ours
from tests.sync.test_handlers import wait_for

THREADS = 16
EACH = 50


def in_threads(work: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """Call the function in threads that begin together, each with its number, and return the results."""
    start = threading.Barrier(count)

    def run(number: int) -> Any:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_threads_send_through_one_channel_without_loss(server: LocalServer):
    """Sixteen threads send through one channel: each message arrives once, in its thread's order (R31, R46)."""
    with connect(server.url, server.anon_key) as client, connect(server.url, server.anon_key) as reader:
        room = client.channel("room")
        room.subscribe()
        theirs = reader.channel("room")
        stream = theirs.listen(broadcast(), buffer=THREADS * EACH)
        theirs.subscribe()

        def send(number: int) -> None:
            for count in range(EACH):
                assert room.broadcast("a", [number, count]).via == "socket"

        in_threads(send)
        received = [next(stream).payload for _ in range(THREADS * EACH)]
    for number in range(THREADS):
        assert [count for sender, count in received if sender == number] == list(range(EACH))


def test_threads_share_a_client_for_everything(server: LocalServer):
    """Sixteen threads make, join, use, leave and remove channels of one client at the same time (R46)."""
    with connect(server.url, server.anon_key) as client:

        def use_a_channel(number: int) -> list[Any]:
            received: list[Any] = []
            with client.channel(f"room-{number}", echo=True, ack=True) as room, room.listen(broadcast()) as stream:
                for count in range(5):
                    room.broadcast("a", count)
                    received.append(next(stream).payload)
                client.ping()
            client.remove_channel(room)
            return received

        assert in_threads(use_a_channel) == [list(range(5))] * THREADS
        assert dict(client.channels) == {}


def test_threads_get_the_same_channel_of_a_topic(server: LocalServer):
    """Sixteen threads that get a channel and subscribe receive the same object, joined once (R21)."""
    with connect(server.url, server.anon_key) as client:

        def join(_: int) -> Any:
            room = client.channel("room")
            room.subscribe()
            return room

        assert len(set(in_threads(join))) == 1
    assert [frame.event for frame in server.frames].count("phx_join") == 1


def test_closing_under_many_threads(server: LocalServer):
    """Threads that send, wait and iterate while another thread closes the client all end with a definite result
    (R10, R31)."""
    with connect(server.url, server.anon_key) as client:
        room = client.channel("room", echo=True, ack=True)
        room.subscribe()
        streams = [room.listen(broadcast()) for _ in range(THREADS)]
        seen = threading.Event()

        def work(number: int) -> str:
            if number == 0:
                wait_for(seen)
                client.close()
                return "closed"
            if number % 2:
                for _ in streams[number]:
                    seen.set()
                return "ended"
            try:
                while True:
                    room.broadcast("a", number)
            except ClosedError:
                return "refused"

        assert set(in_threads(work)) == {"closed", "ended", "refused"}


def test_an_iterator_is_for_one_thread_at_a_time(server: LocalServer):
    """A second thread that waits on the same iterator raises an error, and the first continues."""
    with connect(server.url, server.anon_key) as client:
        room = client.channel("room", echo=True)
        room.subscribe()
        stream = room.listen(broadcast())
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(next, stream)
            while not stream._buffer.has_waiter:
                client.stats()
            with pytest.raises(StateError, match="another thread"):
                next(stream)
            room.broadcast("a", 1)
            assert first.result().payload == 1


def test_another_thread_may_close_an_iterator(server: LocalServer):
    """Closing an iterator ends the wait of the thread that reads it."""
    with connect(server.url, server.anon_key) as client:
        room = client.channel("room")
        room.subscribe()
        stream = room.listen(broadcast())
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(list, stream)
            while not stream._buffer.has_waiter:
                client.stats()
            stream.close()
            assert waiting.result() == []


def test_an_unreferenced_iterator_is_unregistered(server: LocalServer):
    """An iterator without references receives no further events, and its buffer is freed."""
    with connect(server.url, server.anon_key) as client:
        room = client.channel("room")
        stream: Any = room.listen(broadcast())
        registry: Any = client._async._driver.registry
        assert len(registry) == 1
        del stream
        gc.collect()
        while len(registry):
            client.stats()


@pytest.mark.anyio
async def test_the_sync_client_works_inside_a_coroutine(server: LocalServer):
    """The sync client works inside a coroutine, as in a notebook, and does not use the caller's event loop (R46)."""
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks()
    with connect(server.url, server.anon_key) as client:
        room = client.channel("room", echo=True)
        stream = room.listen(broadcast())
        room.subscribe()
        room.broadcast("a", 1)
        assert next(stream).payload == 1
        assert asyncio.get_running_loop() is loop and asyncio.all_tasks() == tasks


def test_a_generator_of_messages_runs_in_the_thread_of_the_caller(server: LocalServer):
    """`publish_many` reads a generator in the caller's thread, so it may block without blocking the client."""
    threads: list[int] = []

    def messages() -> Iterator[dict[str, Any]]:
        for number in range(2):
            threads.append(threading.get_ident())
            yield {"topic": "room", "event": "a", "payload": {"n": number}}

    with connect(server.url, server.anon_key) as client:
        assert client.publish_many(messages()).accepted == 2
    assert threads == [threading.get_ident()] * 2


def test_a_client_can_be_used_and_closed_in_other_threads(server: LocalServer):
    """A client opened in one thread is used by a second after the first has ended, and closed in a third (R46)."""
    with ThreadPoolExecutor(1) as first:
        client = first.submit(connect, server.url, server.anon_key).result()
    with ThreadPoolExecutor(1) as second:
        assert second.submit(client.ping).result() > 0
    with ThreadPoolExecutor(1) as third:
        third.submit(client.close).result()
    assert client.state is ConnectionState.CLOSED


def test_opening_and_closing_leaves_nothing(server: LocalServer):
    """A hundred clients with handlers and iterators leave no thread and no open file (R10)."""

    def cycle(number: int) -> None:
        with connect(server.url, server.anon_key) as client:
            room = client.channel("room", echo=True)
            room.on(broadcast(), handler if number % 2 else print)
            stream = room.listen(broadcast())
            room.subscribe()
            room.broadcast("a", 1)
            next(stream)

    async def handler(event: Any) -> None: ...

    cycle(0)
    gc.collect()
    before = Held.now()
    for number in range(100):
        cycle(number)
    gc.collect()
    assert not left_since(before)


def test_an_opening_that_fails_leaves_nothing(server: LocalServer):
    """When `connect` raises a refusal, its thread has ended."""
    server.refuse_connections(status=403)
    for _ in range(10):
        with pytest.raises(ConnectError):
            connect(server.url, server.anon_key)
        assert ours() == []


def test_a_client_that_ends_by_itself_ends_its_threads(server: LocalServer):
    """The threads of a client that the server refused permanently end without `close` (R2)."""
    errors: list[Exception] = []
    client = connect(server.url, server.anon_key, backoff=lambda attempt: 0.0, on_error=errors.append)
    server.refuse_connections(status=403)
    server.drop_connections()
    with pytest.raises(ConnectError):
        client.wait_closed()
    for thread in threading.enumerate():
        if thread.name in ("supawire-io", "supawire-dispatch"):
            thread.join()
    assert [type(error) for error in errors] == [ConnectError]
    client.close()


def test_time_limits_are_kept_by_every_wait(server: LocalServer):
    """Each call that waits has a `timeout`, after which it raises OperationTimeout."""
    for event in ("heartbeat", "presence", "broadcast"):
        server.drop_reply(event)
    with connect(server.url, server.anon_key) as client:
        room = client.channel("room", ack=True, presence_key="me")
        room.subscribe()
        for call in (
            lambda: client.ping(timeout=0.01),
            lambda: room.broadcast("a", 1, timeout=0.01),
            lambda: room.track({}, timeout=0.01),
            lambda: room.listen(broadcast()).get(timeout=0.01),
        ):
            with pytest.raises(OperationTimeout):
                call()


def test_no_token_and_no_key_is_shown(server: LocalServer, caplog: pytest.LogCaptureFixture):
    """A session at DEBUG with an error logs neither key nor token, and `repr` and tracebacks do not show them (R48)."""
    token = server.token("authenticated", 3600)
    with caplog.at_level(logging.DEBUG), connect(server.url, server.anon_key, token=token) as client:
        room = client.channel("room", private=True)
        room.subscribe()
        with pytest.raises(StateError) as caught:
            client.channel("other", token=token).broadcast("a", 1)
    shown = caplog.text + repr((client, room, client.__dict__, room.__dict__, caught.value)) + str(caught.getrepr())
    assert token not in shown and server.anon_key not in shown


def test_another_process_is_recognised_by_its_id(server: LocalServer, monkeypatch: pytest.MonkeyPatch):
    """A call in another process than the client's raises, also when the fork hook did not run."""
    with connect(server.url, server.anon_key) as client:
        portal = client._portal
        try:
            with monkeypatch.context() as patch:
                patch.setattr("os.getpid", lambda: -1)
                with pytest.raises(StateError, match="opened before fork"):
                    client.channel("room")
            assert portal.inherited
        finally:
            portal.inherited = False


def test_an_async_handler_that_closes_the_client_runs_to_its_end(server: LocalServer):
    """The handler that calls `close` is not cancelled by it, but other handlers are."""
    done: list[str] = []
    both = threading.Event()
    client = connect(server.url, server.anon_key)
    room = client.channel("room", echo=True)

    async def closes(event: Any) -> None:
        client.close()
        await asyncio.sleep(0.02)  # meanwhile the thread ends its other tasks
        done.append("closed")
        both.set()

    async def waits(event: Any) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            done.append("cancelled")
            raise

    room.on(broadcast("other"), waits)
    room.on(broadcast("a"), closes)
    room.subscribe()
    room.broadcast("other", 1)
    room.broadcast("a", 1)
    wait_for(both)
    assert sorted(done) == ["cancelled", "closed"]
    for thread in threading.enumerate():
        if thread.name == "supawire-dispatch":
            thread.join()  # the handler ran on it
