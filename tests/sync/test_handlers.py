"""Handlers of the sync client: their thread, and the calls they may make."""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from supawire import Client, ConnectionState, HandlerError, LocalServer, PresenceSync, broadcast, connect, presence
from supawire.aio.driver import DriverSettings
from supawire.errors import ClosedError, InvalidArgumentError, SlowConsumerError, StateError
from supawire.transport._connection import WebSocketConnection
from supawire.transport.base import OpenRequest
from supawire.transport.websocket import WebSocketTransport
from tests.sync.conftest import opened, ours

LONG = 20.0


def wait_for(event: threading.Event) -> None:
    assert event.wait(LONG), "it did not happen"


class Notes:
    """A list of values added by any thread, with a method that waits for the n-th."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._news = threading.Condition()

    def __call__(self, note: Any) -> None:
        with self._news:
            self.all.append(note)
            self._news.notify_all()

    def wait(self, count: int) -> list[Any]:
        """Wait until there are this many values, and return them."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.all) >= count, LONG), self.all
            return self.all[:count]


def test_all_user_code_of_a_client_has_one_thread(server: LocalServer):
    """Plain handlers, async ones and `on_error` run on the dispatch thread of their client, in order (R37)."""
    notes = Notes()

    def note(what: str) -> Callable[[Any], None]:
        return lambda event: notes((what, threading.current_thread().name))

    async def coroutine(event: Any) -> None:
        note("async")(event)
        raise ZeroDivisionError

    with connect(server.url, server.anon_key, on_error=note("error")) as client:
        room = client.channel("room", echo=True)
        room.on(broadcast(), note("plain"))
        room.on(broadcast(), note("threaded"), thread=True)
        room.on(broadcast(), coroutine)
        room.subscribe()
        room.broadcast("a", 1)
        seen = notes.wait(4)
    assert seen == [(what, "supawire-dispatch") for what in ("plain", "threaded", "async", "error")]


def test_several_handlers_receive_events_in_order_of_arrival(server: LocalServer):
    """Two handlers of one client receive their events interleaved in the order of arrival (R37)."""
    notes = Notes()
    with connect(server.url, server.anon_key) as client:
        room = client.channel("room", echo=True)
        room.on(broadcast("a"), lambda event: notes(event.payload))
        room.on(broadcast("b"), lambda event: notes(event.payload))
        room.subscribe()
        for number in range(20):
            room.broadcast("ab"[number % 2], number)
        assert notes.wait(20) == list(range(20))


def test_a_blocked_handler_delays_no_heartbeat_and_no_iterator(server: LocalServer):
    """While a handler blocks, events of another channel are read, sends are confirmed and heartbeats are answered
    (R39)."""
    entered, leave, order = threading.Event(), threading.Event(), Notes()

    def blocking(event: Any) -> None:
        entered.set()
        wait_for(leave)
        order("the handler returned")

    with connect(server.url, server.anon_key, heartbeat=0.05) as client:
        blocked, other = client.channel("blocked", echo=True), client.channel("other", echo=True, ack=True)
        blocked.on(broadcast(), blocking)
        stream = other.listen(broadcast())
        blocked.subscribe()
        other.subscribe()
        blocked.broadcast("a", 1)
        wait_for(entered)
        before = sum(frame.event == "heartbeat" for frame in server.frames)
        assert other.broadcast("a", 1).acked
        order(next(stream).payload)
        assert client.ping() > 0
        while sum(frame.event == "heartbeat" for frame in server.frames) < before + 3:
            client.stats()
        order("heartbeats")
        leave.set()
        assert order.wait(3) == [1, "heartbeats", "the handler returned"]
        assert client.stats().reconnects == 0


def test_handlers_may_call_everything(server: LocalServer):
    """A handler may broadcast with ack, ping, join another channel and read its iterator (R46)."""
    notes = Notes()
    with connect(server.url, server.anon_key) as client:
        room = client.channel("room", echo=True)

        def handler(event: Any) -> None:
            other = client.channel("other", echo=True, ack=True)
            stream = other.listen(broadcast())
            other.subscribe()
            notes(other.broadcast("b", event.payload).acked)
            notes(next(stream).payload)
            notes(client.ping() > 0)

        room.on(broadcast("a"), handler)
        room.subscribe()
        room.broadcast("a", "hello")
        assert notes.wait(3) == [True, "hello", True]


def test_an_async_handler_that_waits_delays_no_other_handler(server: LocalServer):
    """While an async handler waits, plain handlers and other async handlers of the client are called (R37, R39)."""
    notes = Notes()

    async def waiting_handler(event: Any) -> None:
        await released.wait()
        notes("waiting_handler")

    async def other(event: Any) -> None:
        notes("other")

    async def release(event: Any) -> None:
        released.set()

    released = asyncio.Event()
    with connect(server.url, server.anon_key) as client:
        room = client.channel("room", echo=True)
        room.on(broadcast("a"), waiting_handler)
        room.on(broadcast("a"), lambda event: notes("plain"))
        room.on(broadcast("a"), other)
        room.on(broadcast("b"), release)
        room.subscribe()
        room.broadcast("a", 1)
        assert set(notes.wait(2)) == {"plain", "other"}
        room.broadcast("b", 1)
        assert notes.wait(3)[2] == "waiting_handler"


def test_an_async_handler_that_cancels_itself_is_called_again(server: LocalServer):
    """An async handler that cancels itself, or raises SystemExit, is reported to `on_error` and called again (R1)."""
    errors, notes = Notes(), Notes()

    async def handler(event: Any) -> None:
        notes(event.payload)
        if event.payload == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        raise SystemExit

    with connect(server.url, server.anon_key, on_error=errors) as client:
        room = client.channel("room", echo=True)
        room.on(broadcast(), handler)
        room.subscribe()
        for number in range(3):
            room.broadcast("a", number)
        assert notes.wait(3) == [0, 1, 2]
        causes = [type(error.__cause__) for error in errors.wait(3)]
        assert causes == [asyncio.CancelledError, SystemExit, SystemExit]
        assert client.state is ConnectionState.OPEN


@pytest.mark.parametrize("raised", [ZeroDivisionError, KeyboardInterrupt, SystemExit, StopIteration])
def test_exceptions_of_plain_handlers_do_not_end_the_client(server: LocalServer, raised: type[BaseException]):
    """Every exception of a handler is reported to `on_error` with its cause, and the handler gets the next event
    (R1)."""
    errors, notes = Notes(), Notes()

    def handler(event: Any) -> None:
        notes(event.payload)
        raise raised

    with connect(server.url, server.anon_key, on_error=errors) as client:
        room = client.channel("room", echo=True)
        room.on(broadcast(), handler)
        room.subscribe()
        for number in range(5):
            room.broadcast("a", number)
        assert notes.wait(5) == [0, 1, 2, 3, 4]
        assert [(type(error), type(error.__cause__)) for error in errors.wait(5)] == [(HandlerError, raised)] * 5


def test_an_on_error_that_raises_is_logged(server: LocalServer, caplog: pytest.LogCaptureFixture):
    """When `on_error` raises, the error it was called with is logged, and it is called again (R1)."""
    errors = Notes()

    def on_error(error: Exception) -> None:
        errors(error)
        raise ZeroDivisionError

    with connect(server.url, server.anon_key, on_error=on_error) as client:
        room = client.channel("room", echo=True)
        room.on(broadcast(), lambda event: 1 / 0)
        room.subscribe()
        room.broadcast("a", 1)
        room.broadcast("a", 2)
        errors.wait(2)
    assert caplog.text.count("on_error raised") == 2


def closers(client: Client, notes: Notes) -> dict[str, Callable[[Any], Any]]:
    def plain(event: Any) -> None:
        client.close()
        notes(("closed", client.state, ours()))

    async def coroutine(event: Any) -> None:
        plain(event)

    def in_with(event: Any) -> None:
        with client:
            pass
        notes(("closed", client.state, ours()))

    def twice(event: Any) -> None:
        client.close()
        plain(event)

    return {"plain": plain, "async": coroutine, "with": in_with, "twice": twice}


@pytest.mark.parametrize("how", ["plain", "async", "with", "twice"])
def test_a_handler_may_close_the_client(server: LocalServer, how: str):
    """`close()` in a handler returns when all other threads of the client have ended, and does not cancel the
    handler (R10)."""
    notes = Notes()
    client = connect(server.url, server.anon_key)
    room = client.channel("room", echo=True)
    room.on(broadcast(), closers(client, notes)[how])
    room.subscribe()
    room.broadcast("a", 1)
    client.wait_closed()
    assert notes.wait(1) == [("closed", ConnectionState.CLOSED, ["supawire-dispatch"])]
    client.close()
    with pytest.raises(ClosedError):
        client.ping()
    _gone()


def test_on_error_may_close_the_client(server: LocalServer):
    """An `on_error` that closes its client ends it, and no thread is left (R10)."""
    closed = threading.Event()

    def on_error(error: Exception) -> None:
        client.close()
        closed.set()

    client = connect(server.url, server.anon_key, on_error=on_error)
    room = client.channel("room", echo=True)
    room.on(broadcast(), lambda event: 1 / 0)
    room.subscribe()
    room.broadcast("a", 1)
    wait_for(closed)
    _gone()


def test_two_threads_and_a_handler_close_at_once(server: LocalServer):
    """When a handler and other threads call `close` at the same time, none blocks the others (R10)."""
    entered, resume, closed = threading.Event(), threading.Event(), Notes()
    client = connect(server.url, server.anon_key)

    def handler(event: Any) -> None:
        entered.set()
        wait_for(resume)
        client.close()
        closed("handler")

    def close() -> None:
        client.close()
        closed("thread")

    room = client.channel("room", echo=True)
    room.on(broadcast(), handler)
    room.subscribe()
    room.broadcast("a", 1)
    wait_for(entered)
    threads = [threading.Thread(target=close) for _ in range(2)]
    for thread in threads:
        thread.start()
    resume.set()
    for thread in threads:
        thread.join(LONG)
    assert sorted(closed.wait(3)) == ["handler", "thread", "thread"]
    _gone()


def test_closing_calls_no_more_handlers_and_reports_every_error(server: LocalServer):
    """Events that wait for a handler at `close` are dropped, but pending errors reach `on_error` before the end
    (R31)."""
    entered, resume, notes, errors = threading.Event(), threading.Event(), Notes(), Notes()

    def handler(event: Any) -> None:
        notes(event.payload)
        entered.set()
        wait_for(resume)

    client = connect(server.url, server.anon_key, on_error=errors, offline="queue")
    room = client.channel("room", echo=True)
    room.on(broadcast(), handler)
    room.subscribe()
    for number in range(3):
        room.broadcast("a", number)
    client.channel("never").broadcast("a", 1)
    wait_for(entered)
    closing = threading.Thread(target=client.close)
    closing.start()
    driver: Any = client._portal._driver
    while not driver.thread.stopping:
        pass
    resume.set()
    closing.join(LONG)
    assert notes.all == [0]
    assert [type(error) for error in errors.all] == [ClosedError]


def test_a_handler_that_does_not_return_is_left_running(server: LocalServer, caplog: pytest.LogCaptureFixture):
    """`close` waits a bounded time for a handler that blocks, logs a warning, and returns (R10)."""
    entered, leave = threading.Event(), threading.Event()

    def handler(event: Any) -> None:
        entered.set()
        wait_for(leave)

    with opened(server, DriverSettings(shutdown_timeout=0.05)) as client:
        room = client.channel("room", echo=True)
        room.on(broadcast(), handler)
        room.subscribe()
        room.broadcast("a", 1)
        wait_for(entered)
    assert client.state is ConnectionState.CLOSED
    assert ours() == ["supawire-dispatch"]
    assert "still runs on the dispatch thread" in caplog.text
    leave.set()
    _gone()


def test_a_cancelled_handler_receives_no_further_events(server: LocalServer):
    """After `cancel` a handler is not called, not even for events that wait already."""
    entered, resume, notes = threading.Event(), threading.Event(), Notes()

    def blocking(event: Any) -> None:
        entered.set()
        wait_for(resume)

    with connect(server.url, server.anon_key) as client:
        room = client.channel("room", echo=True)
        room.on(broadcast(), blocking)
        subscription = room.on(broadcast(), lambda event: notes("cancelled"))
        room.on(broadcast("last"), lambda event: notes("last"))
        room.subscribe()
        room.broadcast("a", 1)
        wait_for(entered)
        subscription.cancel()
        resume.set()
        room.broadcast("last", 1)
        assert notes.wait(1) == ["last"]


@pytest.mark.parametrize("overflow", ["error", "drop_newest", "drop_oldest"])
def test_events_waiting_for_a_handler_are_bounded(server: LocalServer, overflow: Any):
    """More events than `buffer` behind a blocked handler follow the policy; "error" is reported once (R39)."""
    entered, resume, notes, errors = threading.Event(), threading.Event(), Notes(), Notes()

    def handler(event: Any) -> None:
        notes(event.payload)
        entered.set()
        wait_for(resume)

    with connect(server.url, server.anon_key, on_error=errors) as client:
        room = client.channel("room", echo=True)
        subscription = room.on(broadcast(), handler, buffer=3, overflow=overflow)
        room.subscribe()
        room.broadcast("a", 0)
        wait_for(entered)
        for number in range(1, 10):
            room.broadcast("a", number)
        while subscription.dropped < 6:
            client.stats()
        assert client.stats().overflowed == 6
        resume.set()
        assert notes.wait(4) == ([0, 7, 8, 9] if overflow == "drop_oldest" else [0, 1, 2, 3])
        room.broadcast("a", "next")
        assert notes.wait(5)[4] == "next"
        if overflow == "error":
            assert [type(error) for error in errors.wait(1)] == [SlowConsumerError]
    assert len(errors.all) == (overflow == "error")


def test_the_state_of_presence_is_read_on_any_thread(server: LocalServer):
    """`PresenceSync.state` is the state at its first read, on any thread, also after the client closed (R45)."""
    kept, notes = Notes(), Notes()

    def handler(event: Any) -> None:
        if isinstance(event, PresenceSync):
            kept(event)
            if len(event.state) == 2:
                notes(set(event.state))

    with connect(server.url, server.anon_key) as client, connect(server.url, server.anon_key) as other:
        room = client.channel("room", presence_key="me")
        room.on(presence(), handler)
        unread = room.listen(presence())
        room.subscribe()
        room.track({})
        theirs = other.channel("room", presence_key="you")
        theirs.track({})
        theirs.subscribe()
        assert notes.wait(1) == [{"me", "you"}]
        assert kept.all[-1].state is kept.all[-1].state
    late = [event for event in unread if isinstance(event, PresenceSync)]
    assert late and all(isinstance(event.state, type(kept.all[0].state)) for event in late)


def test_hooks_on_the_io_thread_may_not_block(server: LocalServer):
    """`on_frame` runs on the I/O thread; a blocking call there raises StateError and does not wait for itself (R46)."""
    notes = Notes()

    def on_frame(direction: str, data: bytes, binary: bool) -> None:
        notes((direction, threading.current_thread().name))
        if b'"heartbeat"' in data:
            for call in (client.ping, client.close, client.channel("room").subscribe):
                try:
                    call()
                except StateError as error:
                    notes(error.message)

    errors = Notes()
    with connect(server.url, server.anon_key, on_frame=on_frame, on_error=errors) as client:
        assert client.ping() > 0
        assert notes.wait(1) == [("out", "supawire-io")]
        assert isinstance(errors.wait(1)[0].__cause__, StateError)  # client.channel() raises it too


def test_an_exit_of_the_io_thread_ends_the_client(server: LocalServer, caplog: pytest.LogCaptureFixture):
    """A SystemExit raised by a transport on the I/O thread is the cause that iterators and `wait_closed` raise (R2)."""

    class Exiting(WebSocketConnection):
        __slots__ = ()

        def write(self, data: bytes, binary: bool, /) -> None:
            if b"exit" in data:
                raise SystemExit("out of a transport")
            super().write(data, binary)

    class ExitingTransport(WebSocketTransport):
        async def open(self, request: OpenRequest, /) -> WebSocketConnection:
            connection = await super().open(request)
            connection.__class__ = Exiting
            return connection

    errors = Notes()
    with connect(server.url, server.anon_key, transport=ExitingTransport(), on_error=errors) as client:
        room = client.channel("room", echo=True)
        stream = room.listen(broadcast())
        room.subscribe()
        with pytest.raises(ClosedError):
            room.broadcast("exit", 1)
        with pytest.raises(ClosedError) as caught:
            next(stream)
        assert isinstance(caught.value.__cause__, SystemExit)
        with pytest.raises(ClosedError, match="out of a transport"):
            client.wait_closed()
        with pytest.raises(ClosedError, match="out of a transport"):
            client.ping()
        assert "out of a transport" in str(errors.wait(1)[0])
    _gone()
    del client, room, stream, caught
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_thread_true_with_an_async_handler_is_refused(server: LocalServer):
    """`thread=True` with an async handler is refused, as by the async client."""

    async def handler(event: Any) -> None: ...

    with connect(server.url, server.anon_key) as client, pytest.raises(InvalidArgumentError, match="plain handlers"):
        client.channel("room").on(broadcast(), handler, thread=True)


def test_without_on_error_errors_are_logged(server: LocalServer, caplog: pytest.LogCaptureFixture):
    """Without `on_error` an error that no call raises is logged (R48)."""
    done = threading.Event()
    with caplog.at_level(logging.ERROR), connect(server.url, server.anon_key) as client:
        room = client.channel("room", echo=True)
        room.on(broadcast(), lambda event: 1 / 0)
        room.on(broadcast(), lambda event: done.set())
        room.subscribe()
        room.broadcast("a", 1)
        wait_for(done)
    assert "ZeroDivisionError" in caplog.text


def _gone() -> None:
    """Wait until the threads of a client that closed itself have ended."""
    for thread in threading.enumerate():
        if thread.name.startswith("supawire-") and thread.name != "supawire-local-server":
            thread.join(LONG)
