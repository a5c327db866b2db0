"""Outboxes of both clients: stored messages reach a receiver once, over faults of the server and restarts."""

import asyncio
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from anyio import to_thread

from supawire import ConnectionState, LocalServer, SqliteOutbox, broadcast
from supawire.errors import (
    ClosedError,
    InvalidArgumentError,
    OperationTimeout,
    OutboxError,
    OutboxFullError,
    PayloadTooLargeError,
    StateError,
)
from supawire.options import Backoff, Limits
from supawire.server import ServerLimits
from supawire.transport import HttpRequest, HttpResponse
from supawire.transport.memory import FakeHttp
from tests.clients.client_api import AwaitableProxy, ClientApi

pytestmark = pytest.mark.anyio

QUICK = Backoff(initial=0.01, maximum=0.05)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """Yield a store in a new file."""
    with SqliteOutbox(tmp_path / "outbox.db") as store:
        yield store


async def receiver(client: AwaitableProxy, topic: str = "orders", **options: Any) -> AwaitableProxy:
    """Return an iterator over the broadcasts of a topic, after the join."""
    channel = await client.channel(topic, **options)
    events = await channel.listen(broadcast())
    await channel.subscribe()
    return events


async def test_stored_messages_arrive_with_their_ids(api: ClientApi, server: LocalServer, store: SqliteOutbox):
    """Messages of before the start and later ones arrive in order with the ids that `add` returned, and leave the
    store."""
    earlier = [store.add("orders", "paid", {"n": number}) for number in range(3)]
    async with api.client(server) as client:
        events = await receiver(client)
        async with await client.outbox(store, backoff=QUICK) as outbox:
            later = [await outbox.add("realtime:orders", "paid", {"n": number}) for number in range(3, 5)]
            await outbox.flush()
            stats = await outbox.stats()
            assert (stats.pending, stats.dead, stats.bytes, stats.oldest_age) == (0, 0, 0, None)
            assert (stats.sent, stats.failed, stats.sending, stats.error) == (5, 0, True, None)
        found = await events.take(5)
        assert [(event.payload["n"], event.id) for event in found] == list(enumerate(earlier + later))
        assert all(UUID(event.id).version == 7 for event in found)


async def test_an_unanswered_request_is_repeated_and_received_once(
    api: ClientApi, server: LocalServer, store: SqliteOutbox
):
    """A message whose acceptance got lost is sent again with its id, and the receiver drops the second copy."""
    async with api.client(server) as receiving:
        events = await receiver(receiving)
        async with api.client(server) as client, await client.outbox(store, backoff=QUICK) as outbox:
            first = await outbox.add("orders", "paid", {})
            await outbox.flush()
            store.add("orders", "paid", {}, id=first)  # as after a kill between the answer and the removal
            last = await outbox.add("orders", "paid", {})
            await outbox.flush()
            assert (await outbox.stats()).sent == 3
        assert [event.id for event in await events.take(2)] == [first, last]


async def test_faults_of_the_server_delay_messages(api: ClientApi, store: SqliteOutbox):
    """Refused connections, 429 and 500 are retried until all messages were accepted; errors are in the stats."""
    http = FakeHttp()
    http.fail(times=2)
    http.answer(429, {"message": "Too many requests"}, {"retry-after": "0"})
    http.answer(500)
    http.fail(maybe_sent=True)
    with LocalServer() as server:
        async with api.client(server, http=http, on_error=lambda error: None) as client:
            outbox = await client.outbox(store, backoff=QUICK)
            await outbox.add("orders", "paid", {})
            await outbox.flush()
            stats = await outbox.stats()
            assert (stats.pending, stats.sent, stats.failed, stats.error) == (0, 1, 5, None)
            assert await outbox.close() == 0
    assert len(http.requests) == 6


async def test_a_message_that_is_refused_is_dead(api: ClientApi, store: SqliteOutbox):
    """A message that the server refuses is kept as dead with the error, reported, and can be sent again or removed."""
    errors: list[Exception] = []
    with LocalServer(limits=ServerLimits(payload_kb=1)) as server:
        async with api.client(server, on_error=errors.append) as client:
            events = await receiver(client)
            async with await client.outbox(store, backoff=QUICK) as outbox:
                good = [store.add("orders", "paid", {"n": 1})]
                bad = store.add("orders", "paid", {"text": "x" * 2000})
                good.append(store.add("orders", "paid", {"n": 2}))
                await outbox.wake()
                await outbox.flush()
                assert [event.id for event in await events.take(2)] == good
                (dead,) = await outbox.dead()
                assert (dead.id, dead.topic, dead.event, dead.private) == (bad, "orders", "paid", False)
                assert "422" in dead.error and dead.dead_at >= dead.added_at and b"xxx" in dead.payload
                assert (await outbox.stats()).dead == 1
                assert await outbox.retry([bad]) == 1
                await outbox.flush()
                assert (await outbox.discard(), await outbox.dead()) == (1, [])
    assert any(isinstance(error, OutboxError) and bad in str(error) for error in errors)


async def test_a_full_outbox_raises(api: ClientApi, server: LocalServer, tmp_path: Path):
    """A full outbox raises a typed error, and adds again once messages were sent."""
    with SqliteOutbox(tmp_path / "few.db", max_messages=2) as store:
        store.add("orders", "paid", {})
        store.add("orders", "paid", {})
        with pytest.raises(OutboxFullError, match="2 of 2 messages") as caught:
            store.add("orders", "paid", {})
        assert caught.value.retryable
        async with api.client(server) as client, await client.outbox(store) as outbox:
            await outbox.flush()
            await outbox.add("orders", "paid", {})


async def test_closing_sends_what_is_pending(api: ClientApi, server: LocalServer, store: SqliteOutbox):
    """`close`, leaving the block and `drain` send what is pending; afterwards calls raise, and the messages that are
    added directly stay stored."""
    async with api.client(server) as client:
        events = await receiver(client)
        async with await client.outbox(store, poll=60) as outbox:
            store.add("orders", "paid", {"n": 1})
        assert (await events.next()).payload == {"n": 1}
        with pytest.raises(ClosedError):
            await outbox.add("orders", "paid", {})
        again = await client.outbox(store, poll=60)
        store.add("orders", "paid", {"n": 2})
        await client.drain()
        assert (await events.next()).payload == {"n": 2}
        with pytest.raises((ClosedError, StateError)):
            await again.add("orders", "paid", {})
    store.add("orders", "paid", {"n": 3})
    assert store.counts().pending == 1


async def test_without_the_server_everything_stays_stored(api: ClientApi, store: SqliteOutbox):
    """If nothing can be sent, `flush` raises with the last error as its cause, and `close` returns what is left."""
    http = FakeHttp()
    http.fail(times=10_000)
    with LocalServer() as server:
        async with api.client(server, http=http, on_error=lambda error: None) as client:
            outbox = await client.outbox(store, backoff=QUICK)
            await outbox.add("orders", "paid", {})
            with pytest.raises(OperationTimeout, match=r"within 0\.3 s: the connection was refused") as caught:
                await outbox.flush(timeout=0.3)
            assert caught.value.__cause__ is not None
            assert await outbox.close(timeout=0.1) == 1
            assert client.state is ConnectionState.OPEN
    assert store.counts().pending == 1


async def test_one_of_several_outboxes_sends(api: ClientApi, server: LocalServer, store: SqliteOutbox, tmp_path: Path):
    """Of two outboxes on one file one sends; when it ends, the other takes over."""
    with SqliteOutbox(tmp_path / "outbox.db") as same:
        async with api.client(server) as client:
            events = await receiver(client)
            first = await client.outbox(store, poll=0.02)
            await first.add("orders", "paid", {"n": 1})
            await first.flush()
            second = await client.outbox(same, poll=0.02)
            await second.add("orders", "paid", {"n": 2})
            await second.flush()  # the first one sends it
            assert [(await one.stats()).sending for one in (first, second)] == [True, False]
            await first.close()
            await second.add("orders", "paid", {"n": 3})
            await second.flush()
            assert [event.payload["n"] for event in await events.take(3)] == [1, 2, 3]
            stats = await second.stats()
            assert (stats.sending, stats.sent) == (True, 1)


async def test_an_outbox_goes_on_after_its_store_was_closed(api: ClientApi, server: LocalServer, store: SqliteOutbox):
    """A store that is closed while it is being sent is opened again, with the lock, and nothing is lost."""
    async with api.client(server, on_error=lambda error: None) as client:
        events = await receiver(client)
        async with await client.outbox(store, poll=0.01, backoff=QUICK) as outbox:
            first = await outbox.add("orders", "paid", {})
            store.close()
            second = await outbox.add("orders", "paid", {})
            await outbox.flush()
            assert [event.id for event in await events.take(2)] == [first, second]
            assert (await outbox.stats()).sending


class HeldHttp(FakeHttp):
    """Answers the first request when `release` is called, from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    async def request(self, request: HttpRequest, /) -> HttpResponse:
        self._loop, self._answered = asyncio.get_running_loop(), asyncio.Event()
        self.begun.set()
        await self._answered.wait()
        return await super().request(request)

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._answered.set)


async def test_what_was_accepted_while_closing_leaves_the_store(
    api: ClientApi, server: LocalServer, store: SqliteOutbox
):
    """A request that is answered after `close` was called is the last one, and its messages are not sent again."""
    http = HeldHttp()
    store.add("orders", "paid", {})
    async with api.client(server, http=http) as client:
        outbox = await client.outbox(store, backoff=QUICK)
        assert await to_thread.run_sync(http.begun.wait, 30)
        closing = asyncio.ensure_future(outbox.close(timeout=0))
        for _ in range(10):
            await asyncio.sleep(0)
        http.release()
        assert await closing == 0
    assert store.counts().pending == 0 and len(http.requests) == 1


class SlowOutbox(SqliteOutbox):
    """A store whose first `acquire` waits."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun, self.may_end, self.ended = threading.Event(), threading.Event(), threading.Event()

    def acquire(self) -> bool:
        if self.begun.is_set():
            return super().acquire()
        self.begun.set()
        self.may_end.wait(30)
        taken = super().acquire()
        self.ended.set()
        return taken


async def test_closing_while_the_lock_is_taken_does_not_keep_it(api: ClientApi, server: LocalServer, tmp_path: Path):
    """A client that is closed while its outbox becomes the sender does not stay it: the next outbox sends."""
    with SlowOutbox(tmp_path / "slow.db") as store:
        async with api.client(server) as client:
            await client.outbox(store)
            assert await to_thread.run_sync(store.begun.wait, 30)
        store.may_end.set()
        assert await to_thread.run_sync(store.ended.wait, 30)
        async with api.client(server) as client:
            outbox = await client.outbox(store, poll=0.01)
            await outbox.add("orders", "paid", {})
            await outbox.flush()


class FailingOutbox(SqliteOutbox):
    """A store whose first calls fail."""

    failures = 0

    def settle(self, sent: Any, dead: Any) -> None:
        self.failures += 1
        if self.failures == 1:
            raise OutboxError("the disk is full")
        if self.failures == 2:
            raise KeyError("a bug")
        super().settle(sent, dead)


async def test_a_failing_store_is_tried_again(api: ClientApi, server: LocalServer, tmp_path: Path):
    """Errors of the store are reported and tried again; a message that was accepted meanwhile is not sent twice."""
    errors: list[Exception] = []
    with FailingOutbox(tmp_path / "failing.db") as store:
        async with api.client(server, on_error=errors.append) as client:
            events = await receiver(client)
            async with await client.outbox(store, backoff=QUICK) as outbox:
                first = await outbox.add("orders", "paid", {})
                await outbox.flush()
                second = await outbox.add("orders", "paid", {})
                await outbox.flush()
                assert (await outbox.stats()).sent == 2
            assert [event.id for event in await events.take(2)] == [first, second]
    assert ["full" in str(error) or "KeyError" in str(error) for error in errors] == [True, True]


async def test_by_socket_messages_are_confirmed_on_a_channel_with_ack(
    api: ClientApi, server: LocalServer, store: SqliteOutbox
):
    """With `via="socket"` a topic that is joined with `ack` gets its messages there with their ids; others by HTTP."""
    http = FakeHttp()
    async with api.client(server, http=http) as client, api.client(server) as other:
        events = await receiver(other)
        channel = await client.channel("orders", ack=True)
        await channel.subscribe()
        async with await client.outbox(store, via="socket", backoff=QUICK) as outbox:
            ids = [await outbox.add("orders", "paid", {"n": number}) for number in range(3)]
            await outbox.flush()
            assert [(event.id, event.payload["n"]) for event in await events.take(3)] == list(
                zip(ids, range(3), strict=True)
            )
            assert not http.requests
            await outbox.add("elsewhere", "paid", {})
            await outbox.flush()
            assert len(http.requests) == 1


async def test_private_messages_reach_private_channels(api: ClientApi, server: LocalServer, store: SqliteOutbox):
    """A private message reaches receivers of the private channel, and not those of the public topic of that name."""
    token = server.token("service_role")
    async with api.client(server, token=token) as client:
        private = await receiver(client, private=True)
        async with await client.outbox(store, backoff=QUICK) as outbox:
            sent = await outbox.add("orders", "paid", {}, private=True)
            await outbox.flush()
        assert (await private.next()).id == sent


async def test_wrong_arguments_are_refused(api: ClientApi, server: LocalServer, store: SqliteOutbox, tmp_path: Path):
    """Arguments that can never work raise at once, and nothing is stored."""
    limits = Limits(payload_bytes=100)
    async with api.client(server, limits=limits) as client:
        for options, text in (
            ({"via": "pigeon"}, "via must be"),
            ({"backoff": Backoff(max_attempts=3)}, "without an end"),
            ({"max_attempts": 1}, "max_attempts"),
            ({"max_age": 0}, "max_age"),
            ({"poll": 0}, "poll"),
        ):
            with pytest.raises(InvalidArgumentError, match=text):
                await client.outbox(store, **options)
        for wrong in ("outbox.db", SqliteOutbox, None):
            with pytest.raises(InvalidArgumentError, match="store must be"):
                await client.outbox(wrong)
        outbox = await client.outbox(store)
        for arguments, error in (
            (("", "paid", {}), InvalidArgumentError),
            (("orders", "", {}), InvalidArgumentError),
            (("orders", "paid", [1]), InvalidArgumentError),
            (("orders", "paid", b"bytes"), InvalidArgumentError),
            (("orders", "paid", {"text": "x" * 200}), PayloadTooLargeError),
        ):
            with pytest.raises(error):
                await outbox.add(*arguments)
        with pytest.raises(InvalidArgumentError, match="UUID"):
            await outbox.add("orders", "paid", {}, id="7")
    assert store.counts().pending == 0
