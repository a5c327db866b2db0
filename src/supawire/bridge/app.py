"""`Bridge`: hands changes and broadcasts on to a broker, as one leader among several processes."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from supawire._mirror_events import MirrorEvent, Resynced, RowLookup, RowSource
from supawire._validation import PREFIX
from supawire.aio.callbacks import RANDOM
from supawire.aio.client import AsyncClient
from supawire.aio.connect import connect_async
from supawire.aio.mirror import check_key
from supawire.aio.tasks import stop_on_signals
from supawire.bridge.brokers import make_broker
from supawire.bridge.decisions import Delivery, TableChanges
from supawire.bridge.messages import BridgeMessage, Broker, Checkpoint, Draft, Failure, LeaderLostError
from supawire.core.pacing import delay
from supawire.cursors import Cursor, StoredBroadcast
from supawire.errors import BridgeError, ClosedError, InvalidArgumentError, OperationTimeout, RealtimeError, StateError
from supawire.events import Broadcast, Gap, sent_payload
from supawire.filters import Where
from supawire.options import (
    Backoff,
    ClientOptions,
    Secret,
    check_bool,
    check_choice,
    check_count,
    check_kind,
    check_number,
    check_text,
    check_topic,
)
from supawire.selectors import ANY, ChangesSelector, broadcast, changes, gaps

if TYPE_CHECKING:
    from supawire.bridge.postgres import TableReader

T = TypeVar("T")

CHECK_INTERVAL: Final = 2.0
"""Seconds between looks at whether this process is still the leader."""
STARTED: Final = "started"
"""Cursor of a table whose rows were recorded once, which `snapshot` does not apply to any more."""
RESTART_BACKOFF: Final = Backoff(initial=0.5, maximum=30.0)
"""Delays before the next attempt after an error outside the broker."""


@dataclass(frozen=True, slots=True)
class BridgeStats:
    """Figures of a bridge since it was started. leader: whether this process hands messages on now.

    stored: messages that the broker has confirmed as new; duplicates: that it had already. dead: given up. failures:
    calls of the broker that failed. gaps: of broadcasts that may be missing. terms: how often this process has become
    the leader.
    """

    leader: bool = False
    stored: int = 0
    duplicates: int = 0
    dead: int = 0
    failures: int = 0
    gaps: int = 0
    terms: int = 0


@dataclass(frozen=True, slots=True)
class _Table:
    source: str
    selector: ChangesSelector[Any]
    key: tuple[str, ...] | None
    fetch: RowSource | None
    fetch_row: RowLookup | None
    snapshot: bool
    private: bool


@dataclass(frozen=True, slots=True)
class _Topic:
    source: str
    topic: str
    events: tuple[str, ...]
    private: bool
    stored: bool
    start: str


class Bridge:
    """Hands changes of tables and broadcasts on to a broker, at least once, each with an id for its de-duplication.

        bridge = Bridge(url, key, to=RedisStreams("redis://localhost"), checkpoint=SqliteCheckpoint("bridge.db"),
            database=DATABASE_URL)
        bridge.table("orders")
        bridge.topic("room:1")
        bridge.run()

    `run()` blocks until SIGTERM or SIGINT; `await serve()` runs it in your event loop until `stop()`.

    Args:
        url, key: the project's URL and API key. The key must be allowed to see all rows that are fetched.
        to: the broker: `RedisStreams`, `JetStream`, `Kafka`, `Webhook`, one of yours, or a URL.
        checkpoint: `SqliteCheckpoint` or `PostgresCheckpoint`. Of all processes with the same checkpoint and name, one
            hands messages on, and the others wait to take over.
        database: the URL of the project's PostgreSQL, for the rows of tables and for stored broadcasts.
        name: of the bridge in its checkpoint.
        attempts: how often a message is tried that the broker refuses, before it is given up. A broker that is away is
            tried without end. backoff: delays between attempts.
        batch: the most messages that are recorded and sent together. max_bytes: a larger message is given up at once.
        poll: seconds after which a waiting process tries to become the leader.
        drain_timeout: seconds that `stop()` waits for messages on their way; others are sent again after the next
            start, with the same ids.
        dead_letter: called with each message that is given up and why; plain or async. If it raises, the bridge ends.
        on_error: called with each `RealtimeError` that the bridge goes on after; by default they are logged.
        client: further options of the client, such as `token`; see `connect_async`.

    Raises: InvalidArgumentError.
    """

    def __init__(
        self,
        url: str,
        key: str | Secret,
        *,
        to: Broker | str,
        checkpoint: Checkpoint,
        database: str | Secret | None = None,
        name: str = "bridge",
        attempts: int = 10,
        backoff: Backoff = Backoff(initial=0.2, maximum=30.0),
        batch: int = 200,
        max_bytes: int | None = None,
        poll: float = 2.0,
        drain_timeout: float = 10.0,
        dead_letter: Callable[[BridgeMessage, str], Awaitable[None] | None] | None = None,
        on_error: Callable[[RealtimeError], None] | None = None,
        logger: logging.Logger | None = None,
        **client: Any,
    ) -> None:
        try:
            ClientOptions(**client).endpoint(url, key)
        except TypeError as error:
            raise InvalidArgumentError(f"the bridge has no such option: {error}", hint="See docs/bridge.md.") from None
        if isinstance(checkpoint, str) or not hasattr(checkpoint, "acquire"):
            raise InvalidArgumentError(
                f"checkpoint must be a checkpoint, not {checkpoint!r:.80}", hint='SqliteCheckpoint("bridge.db")'
            )
        self._url: Final = url
        self._key: Final = key
        if not isinstance(to, str) and not hasattr(to, "publish"):
            raise InvalidArgumentError(
                f"to must be a broker or its URL, not {type(to).__name__}", hint='RedisStreams("redis://localhost")'
            )
        self._broker: Final[Broker] = make_broker(to) if isinstance(to, str) else to
        self._checkpoint: Final = checkpoint
        self._database: Final = database
        self._name: Final = check_text("name", name)
        self._attempts: Final = check_count("attempts", attempts)
        self._backoff: Final = check_kind("backoff", backoff, Backoff, "a Backoff, such as Backoff(initial=1)")
        self._batch: Final = check_count("batch", batch, maximum=10_000)
        self._max_bytes: Final = None if max_bytes is None else check_count("max_bytes", max_bytes)
        self._poll: Final = check_number("poll", poll, above=0, unit="seconds")
        self._drain_timeout: Final = check_number("drain_timeout", drain_timeout, minimum=0, unit="seconds")
        self._dead_letter: Final = dead_letter
        self._on_error: Final = on_error
        self._logger: Final = logging.getLogger("supawire.bridge") if logger is None else logger.getChild("bridge")
        self._client_options: Final = client
        self._tables: Final[dict[str, _Table]] = {}
        self._topics: Final[dict[str, _Topic]] = {}
        self._counts: Final = dict.fromkeys(("stored", "duplicates", "dead", "failures", "gaps", "terms"), 0)
        self._leads = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._idle: Final[set[asyncio.Task[Any]]] = set()
        self._executor: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        sources = ", ".join([*self._tables, *self._topics]) or "nothing"
        return f"<Bridge {self._name!r} of {sources} to {self._broker.name}>"

    # --- what is handed on

    def table(
        self,
        table: str,
        *,
        schema: str = "public",
        filter: str | None = None,
        where: Where | None = None,
        select: Sequence[str] | None = None,
        key: str | Sequence[str] | None = None,
        fetch: RowSource | None = None,
        fetch_row: RowLookup | None = None,
        snapshot: bool = True,
        private: bool = False,
    ) -> None:
        """Hand on the changes of a table, or of the rows that match a filter.

        After a gap and after each start the rows are fetched again and compared with what was handed on: rows that
        differ become messages with their current values, not with each value in between.

        Args: schema, filter, where, select: as for `changes`. key: the column of the primary key, or its columns; read
            from `database` if omitted. fetch, fetch_row: how rows are fetched, as for `mirror`; from `database` if
            omitted. snapshot: at the first start, hand on the rows that are there already. private: the channel is.
        Raises: InvalidArgumentError.
        """
        selector = cast(
            "ChangesSelector[Any]", changes(table, schema=schema, filter=filter, where=where, select=select)
        )
        if ANY in (table, schema):
            raise InvalidArgumentError("a bridge hands on tables by name; call table() for each")
        if self._database is None and (key is None or fetch is None):
            raise InvalidArgumentError(
                f"the rows of {schema}.{table} cannot be fetched", hint="Pass database=, or key= and fetch= here."
            )
        source = f"table:{schema}.{table}"
        self._check_new(source)
        self._tables[source] = _Table(
            source, selector, None if key is None else check_key(key), fetch, fetch_row,
            check_bool("snapshot", snapshot), check_bool("private", private),
        )  # fmt: skip

    def topic(
        self,
        topic: str,
        *events: str,
        private: bool = True,
        stored: bool | None = None,
        start: str = "oldest",
    ) -> None:
        """Hand on the broadcasts of a topic.

        Args: events: their names, all if omitted. private: whether the channel is. stored: read the messages that the
            server stores, which the private channel has of `realtime.send` and the HTTP API; every one is handed on,
            in order. False: hand on what is received, which misses messages while there is no connection. If omitted,
            `private`. start: at the first start, begin with the "oldest" stored message, or with the "newest".
        Raises: InvalidArgumentError.
        """
        reads = check_bool("private", private) if stored is None else check_bool("stored", stored)
        if reads and not private:
            raise InvalidArgumentError("the server stores messages of private topics only; pass stored=False")
        if reads and self._database is None and "history" not in self._client_options:
            raise InvalidArgumentError(
                f"the stored messages of {topic!r} cannot be read", hint="Pass database=, or history= to the bridge."
            )
        for event in events:
            broadcast(event)
        topic = check_topic(topic).removeprefix(PREFIX)
        source = f"topic:{topic}"
        self._check_new(source)
        self._topics[source] = _Topic(
            source, topic, events, private, reads, check_choice("start", start, ("oldest", "newest"))
        )

    def _check_new(self, source: str) -> None:
        if self._loop is not None:
            raise StateError("the bridge is running; add tables and topics before")
        if source in self._tables or source in self._topics:
            raise InvalidArgumentError(f"{source.replace(':', ' ', 1)} is handed on already")

    # --- life cycle

    def stats(self) -> BridgeStats:
        """Return the figures since the bridge was made."""
        return BridgeStats(self._leads, **self._counts)

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then finish what is on its way, and return. A second signal ends it at once.

        Raises: RealtimeError: what another attempt does not solve, such as a refused key or a missing table.
        """
        asyncio.run(self._run())

    async def _run(self) -> None:
        with stop_on_signals(self.stop, asyncio.current_task()), suppress(asyncio.CancelledError):
            await self.serve()

    def stop(self) -> None:
        """Ask the bridge to stop. Any thread may call it."""
        loop = self._loop
        if loop is None:
            self._stopping.set()  # before its start
        else:
            loop.call_soon_threadsafe(self._stopping.set)

    async def serve(self) -> None:
        """Run in this event loop until `stop()`, or until it is cancelled. Raises: see `run`."""
        if self._loop is not None:
            raise StateError("this bridge is running already")
        if not self._tables and not self._topics:
            raise StateError("this bridge hands nothing on", hint="Call table() or topic() first.")
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="supawire-bridge")
        try:
            failures = 0
            while not self._stopping.is_set():
                before = self._counts["terms"]
                try:
                    await self._lead_once()
                except RealtimeError as error:
                    if not error.retryable:
                        raise
                    self._report(error)
                    failures = 0 if self._counts["terms"] > before else failures + 1
                    await self._pause(delay(RESTART_BACKOFF, failures, RANDOM))
        finally:
            executor, self._executor, self._loop = self._executor, None, None
            self._stopping = asyncio.Event()  # another run may have another event loop
            released = executor.submit(self._checkpoint.release)
            executor.shutdown(wait=False)
            try:
                await self._broker.close()
            finally:  # the next run uses the same checkpoint on another thread
                await asyncio.wait([asyncio.wrap_future(released)])

    async def _lead_once(self) -> None:
        """Try to become the leader, and hand messages on as long as this process is."""
        if not await self._call(self._checkpoint.acquire, self._name):
            await self._pause(self._poll)
            return
        self._counts["terms"] += 1
        self._leads = True
        self._logger.info("%r is the leader", self)
        try:
            await self._hand_on()
        except BaseExceptionGroup as group:
            raise _first_error(group) from group
        finally:
            self._leads = False
            await self._call(self._checkpoint.release)

    async def _hand_on(self) -> None:
        options: dict[str, Any] = {"on_error": self._report_any, **self._client_options}
        if self._database is not None and "history" not in options and any(one.stored for one in self._topics.values()):
            from supawire.history import DatabaseHistory

            options["history"] = DatabaseHistory(self._database)
        async with connect_async(self._url, self._key, **options) as client, asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch_leader())
            tasks = [group.create_task(self._hand_on_table(client, one)) for one in self._tables.values()]
            tasks += [group.create_task(self._hand_on_topic(client, one)) for one in self._topics.values()]
            await self._stopping.wait()
            for task in self._idle:
                task.cancel()
            _, late = await asyncio.wait(tasks, timeout=self._drain_timeout)
            for task in (*late, watching):
                task.cancel()

    async def _watch_leader(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            await self._call(self._checkpoint.check)

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a method of the checkpoint on its thread. What runs there is finished also after a cancellation."""
        assert self._executor is not None
        future = asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
        future.add_done_callback(_retrieve)
        return await asyncio.shield(future)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    @contextmanager
    def _waiting(self) -> Generator[None]:
        """Mark the running task as one that `stop` may cancel, because it only waits for something to hand on."""
        task = asyncio.current_task()
        assert task is not None
        self._idle.add(task)
        if self._stopping.is_set():
            task.cancel()
        try:
            yield
        finally:
            self._idle.discard(task)

    # --- tables

    async def _hand_on_table(self, client: AsyncClient, table: _Table) -> None:
        selector = table.selector
        schema = selector.schema
        reader = await self._reader(table)
        key = table.key
        if key is None:
            assert reader is not None
            key = await self._fetch_key(reader)
        state = await self._call(self._checkpoint.load, table.source)
        await self._deliver(table.source, state.pending)
        started = await self._call(self._checkpoint.load_cursor, table.source) is not None
        changed = TableChanges(schema, selector.table, key, state.rows, snapshot=table.snapshot or started)
        fetch = table.fetch if table.fetch is not None or reader is None else reader.rows
        fetch_row = table.fetch_row if table.fetch is not None or reader is None else reader.row
        assert fetch is not None
        mirror = client.mirror(
            selector.table, schema=schema, filter=selector.filter, select=selector.select, key=key, fetch=fetch,
            fetch_row=fetch_row, private=table.private,
        )  # fmt: skip
        with self._waiting():
            await mirror.ready(timeout=None)
        stream = mirror.listen()
        while True:
            events: list[MirrorEvent[Any]] = await self._take(stream)
            drafts: list[Draft] = []
            for event in events:
                if isinstance(event, Resynced):  # compares all rows
                    drafts += await asyncio.to_thread(_listed, changed, event)
                    if not started:  # the rows alone do not tell a first start: there may have been none
                        await self._record_and_deliver(table.source, drafts)
                        await self._call(self._checkpoint.save_cursor, table.source, STARTED)
                        drafts, started = [], True
                else:
                    drafts += changed.drafts(event)
            await self._record_and_deliver(table.source, drafts)

    async def _reader(self, table: _Table) -> "TableReader | None":
        if self._database is None or (table.fetch is not None and table.key is not None):
            return None
        from supawire.bridge.postgres import TableReader

        selector = table.selector
        where = selector.filter if selector.filter and selector.filter.strip() else None
        return TableReader(self._database, selector.schema, selector.table, where=where, columns=selector.select)

    async def _fetch_key(self, reader: "TableReader") -> tuple[str, ...]:
        try:
            return await asyncio.to_thread(reader.key)
        except RealtimeError:
            raise
        except Exception as error:
            raise BridgeError(f"the primary key cannot be read: {type(error).__name__}") from error

    # --- topics

    async def _hand_on_topic(self, client: AsyncClient, topic: _Topic) -> None:
        channel = client.channel(topic.topic, private=topic.private)
        selectors = [broadcast(event) for event in topic.events or (ANY,)]
        if not topic.stored:
            state = await self._call(self._checkpoint.load, topic.source)
            await self._deliver(topic.source, state.pending)
            live = channel.listen(*cast("list[Any]", [*selectors, gaps()]), overflow="pause")
            with self._waiting():
                await channel.subscribe(timeout=None)
            while True:
                taken = await self._take(live)
                await self._record_and_deliver(topic.source, self._broadcast_drafts(topic, taken))
        store = _Cursors(self._call, self._checkpoint, topic.source)
        stored = channel.listen(
            selectors[0], *selectors[1:], from_=store, commit="manual", start=cast("Any", topic.start)
        )
        while True:
            drafts = self._broadcast_drafts(topic, await self._take(stored))
            messages = [BridgeMessage(one.id or "", one.subject, one.key, one.body or b"") for one in drafts]
            await self._deliver(topic.source, messages, recorded=False)
            await stored.commit()

    def _broadcast_drafts(self, topic: _Topic, events: Iterable[Any]) -> list[Draft]:
        chosen = cast("list[Broadcast[Any] | Gap]", [one for one in events if isinstance(one, Broadcast | Gap)])
        return [self._broadcast_draft(topic, event) for event in chosen]

    def _broadcast_draft(self, topic: _Topic, event: Broadcast[Any] | Gap) -> Draft:
        subject, key = ("broadcasts", topic.topic), topic.topic
        fields: dict[str, Any] = {"topic": topic.topic}
        if isinstance(event, Gap):
            self._counts["gaps"] += 1
            fields |= {"kind": "gap", "reason": event.reason, "verdict": event.verdict}
            fields |= {"started_at": event.started_at, "ended_at": event.ended_at}
            body = msgspec.json.encode(fields)
            return Draft(subject, key, body, id=f"gap-{blake2b(body, digest_size=16).hexdigest()}")
        payload, _ = sent_payload(event)
        fields |= {"kind": "broadcast", "event": event.event, "payload": payload}
        fields |= {} if event.id is None else {"id": event.id}
        fields |= {} if isinstance(payload, msgspec.Raw) else {"binary": True}
        stored = isinstance(event, StoredBroadcast)
        return Draft(subject, key, msgspec.json.encode(fields), id=event.id if stored else None)

    # --- delivery

    async def _take(self, stream: Any) -> list[Any]:
        """Wait for an event, and return it with those that are there already, at most a batch."""
        with self._waiting():
            try:
                taken = [await stream.get()]
            except ClosedError as error:
                raise BridgeError(f"the client has ended: {error.message}") from error
        with suppress(OperationTimeout):
            while len(taken) < self._batch:
                taken.append(await stream.get(timeout=0))
        return taken

    async def _record_and_deliver(self, source: str, drafts: Sequence[Draft]) -> None:
        for start in range(0, len(drafts), self._batch):
            messages = await self._call(self._checkpoint.record, source, drafts[start : start + self._batch])
            await self._deliver(source, messages)

    async def _deliver(self, source: str, messages: Sequence[BridgeMessage], *, recorded: bool = True) -> None:
        """Send messages until each is confirmed or given up. recorded: they are in the checkpoint, and removed then."""
        for start in range(0, len(messages), self._batch):
            batch = messages[start : start + self._batch]
            await self._send([one for one in batch if not await self._too_large(one)])
            if recorded:
                await self._call(self._checkpoint.confirm, source, [one.id for one in batch])

    async def _too_large(self, message: BridgeMessage) -> bool:
        if self._max_bytes is None or len(message.body) <= self._max_bytes:
            return False
        await self._give_up(message, Failure(f"{len(message.body)} bytes, and max_bytes is {self._max_bytes}"))
        return True

    async def _send(self, messages: Sequence[BridgeMessage]) -> None:
        broker = self._broker
        delivery = Delivery(
            messages, ordered=broker.ordered, wave=broker.wave, attempts=self._attempts, backoff=self._backoff
        )
        while wave := delivery.wave():
            step = delivery.record(wave, await broker.publish(wave), RANDOM)
            self._counts["stored"] += step.stored
            self._counts["duplicates"] += step.duplicates
            for message, failure in step.dead:
                await self._give_up(message, failure)
            if step.failure is not None:
                self._counts["failures"] += 1
                failures = delivery.failures
                if failures <= 1 or failures & (failures - 1) == 0:  # the first one, then ever more rarely
                    self._report(BridgeError(f"{broker.name} does not take messages: {step.failure.reason}"))
                await asyncio.sleep(step.delay)

    async def _give_up(self, message: BridgeMessage, failure: Failure) -> None:
        self._counts["dead"] += 1
        self._report(
            BridgeError(f"{self._broker.name} did not take the message {message.id}: {failure.reason}", retryable=False)
        )
        if self._dead_letter is not None:
            result = self._dead_letter(message, failure.reason)
            if inspect.isawaitable(result):
                await result

    def _report_any(self, error: Exception) -> None:
        """Take an error of the client."""
        self._report(error if isinstance(error, RealtimeError) else RealtimeError(str(error)))

    def _report(self, error: RealtimeError) -> None:
        if self._on_error is None:
            level = logging.INFO if isinstance(error, LeaderLostError) else logging.WARNING
            self._logger.log(level, "%s", error)
            return
        try:
            self._on_error(error)
        except Exception:
            self._logger.exception("on_error of the bridge raised")


class _Cursors:
    """The cursor of a topic, kept in the checkpoint."""

    def __init__(self, call: Callable[..., Awaitable[Any]], checkpoint: Checkpoint, source: str) -> None:
        self._call: Final = call
        self._checkpoint: Final = checkpoint
        self._source: Final = source

    async def load(self, name: str, /) -> Cursor | None:
        text = await self._call(self._checkpoint.load_cursor, self._source)
        return None if text is None else Cursor.parse(text)

    async def save(self, name: str, cursor: Cursor, /) -> None:
        await self._call(self._checkpoint.save_cursor, self._source, str(cursor))


def _retrieve(done: "asyncio.Future[Any]") -> None:
    """Mark the error of a call as seen whose caller was cancelled."""
    if not done.cancelled():
        done.exception()


def _listed(changed: TableChanges, event: MirrorEvent[Any]) -> list[Draft]:
    return list(changed.drafts(event))


def _first_error(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the error that ended a task group: a loss of leadership first, else the first one."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[Any]", one).exceptions
        else:
            leaves.append(one)
    return next((leaf for leaf in leaves if isinstance(leaf, LeaderLostError)), leaves[0])
