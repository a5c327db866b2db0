"""Deliver row changes from the replication stream to the hub.

One task reads the stream and another processes one batch at a time, so frames are sent in commit order. Changes that
arrive meanwhile go into the next batch; when there are too many, reading is paused. A third task checks whether the
publication has changed. When the stream is lost, some seconds of changes are lost too and clients are not notified, as
with the real server; with `announce_outages` they are notified, and again once a new stream is open.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, NoReturn

import psycopg

from supawire.server.app import HubCall
from supawire.server.changes import Delivery
from supawire.server.hub import Hub
from supawire.server.postgres.binding_checks import resolve_bindings
from supawire.server.postgres.catalog import Catalog, Table
from supawire.server.postgres.database import Database, DatabaseError, error_of
from supawire.server.postgres.matching import MAX_POLL_INTERVAL, Matcher, Polls, SubscriptionTable
from supawire.server.postgres.pgoutput import CommittedChange, Relation, StreamError
from supawire.server.postgres.publication import WatchedPublication
from supawire.server.postgres.replication import Backlog, ReplicationStream, RowConsumer, StreamLost
from supawire.server.queries import QueryError, SubscribeQuery

logger: Final = logging.getLogger("supawire.server")

CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks of the publication."""
STREAM_TIMEOUT: Final = 8.0
"""Seconds that a subscription waits for a lost stream to be reopened; the hub's own timeout is two seconds longer."""
RETRY_DELAYS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Seconds before each attempt to reopen the stream; the last value repeats."""
OUTAGE_LOSS: Final = 10.0
"""Minimum seconds of changes that are lost when the stream was lost, unless outages are announced."""
MAX_ATTEMPTS: Final = 3
"""Attempts to process a batch when connections are lost during its queries."""
MAX_FORMER_TABLES: Final = 10_000
"""Maximum number of tables remembered after they left the publication."""

LOST: Final = "changes of rows are not sent for now, and channels are informed: %s"
LOST_SILENTLY: Final = (
    "changes of rows are lost, and clients are not informed, as with the real server: %s "
    "(announce_outages=True or --announce-outages informs them)"
)
_SLOT: Final = "select from pg_replication_slots where slot_name = %s"


class ChangeFeed:
    """Reads the replication stream, and keeps the subscriptions of every channel.

    announce_outages: notify channels when changes are lost and when they are sent again.
    isolate_policy_errors: a row policy that raises hides rows from its subscriber only.
    outage_loss: minimum seconds of changes that are lost after an unannounced outage.
    policy_loss: maximum seconds of changes that are lost after a policy stops raising.
    """

    def __init__(
        self,
        url: str,
        database: Database,
        call_hub: HubCall,
        *,
        consumers: Sequence[RowConsumer] = (),
        announce_outages: bool = False,
        isolate_policy_errors: bool = False,
        outage_loss: float = OUTAGE_LOSS,
        policy_loss: float = MAX_POLL_INTERVAL,
        max_change_bytes: int | None = None,
        check_interval: float = CHECK_INTERVAL,
        open_stream: Callable[[str, Sequence[str]], Awaitable[ReplicationStream]] = ReplicationStream.open,
    ) -> None:
        self._url = url
        self._database = database
        self._call_hub = call_hub
        self._consumers = consumers
        self._announce_outages = announce_outages
        self._outage_loss = outage_loss
        self._check_interval = check_interval
        self._open_stream = open_stream
        self._subscriptions = SubscriptionTable()
        self._catalog = Catalog(database)
        matcher = Matcher(
            database, self._catalog, self._subscriptions, limit=max_change_bytes, isolate=isolate_policy_errors
        )
        self._polls = Polls(matcher, self._subscriptions, database, call_hub, max_pause=policy_loss)
        self._publication = WatchedPublication(database)
        self._queries: dict[int, SubscribeQuery] = {}
        """The query of each subscribed channel."""
        self._resolving = asyncio.Lock()
        """Held while bindings are resolved to tables."""
        self._stream: ReplicationStream | None = None
        self._is_open = asyncio.Event()
        """Set while a stream is open and being read."""
        self._streamed: tuple[str, ...] = ()
        """The publications of the stream."""
        self._tables: tuple[Table, ...] = ()
        """The tables of the publication at the last check."""
        self._unlisted: dict[int, Relation] = {}
        """Tables in the stream that were not in the publication at the last check."""
        self._former_tables: set[int] = set()
        """Tables that have left the publication."""
        self._switching = False
        """Whether the stream is being ended because another set of publications is needed."""
        self._lost_until = 0.0
        self._lost = 0
        """Changes lost since the stream ended."""

    @property
    def channels(self) -> Collection[int]:
        """The channels that have subscriptions."""
        return self._subscriptions.channels

    async def start(self) -> None:
        """Open the stream: changes committed from now on can be delivered."""
        await self._open()

    async def run(self) -> None:
        """Process the stream, reopening it after outages."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_stream())
            tasks.create_task(self._watch_publication())

    async def stop(self) -> None:
        """Close the stream; its temporary slot is dropped with it or shortly after."""
        slot = await self._close()
        if slot is None:
            return
        try:
            for delay in RETRY_DELAYS:
                if not await self._database.query(_SLOT, [slot]):
                    break
                await asyncio.sleep(delay)
        except DatabaseError as error:
            logger.debug("cannot check whether the replication slot was dropped: %s", error)

    async def _close(self) -> str | None:
        """Close the stream and return the name of its slot, if it had one."""
        stream, self._stream = self._stream, None
        if stream is None:
            return None
        await stream.close()
        return stream.slot

    # --- subscriptions ---

    def unsubscribe(self, channel: int) -> None:
        """Remove the subscriptions of a channel that has ended."""
        self._queries.pop(channel, None)
        self._subscriptions.remove(channel)
        self._polls.forget_absent()

    async def subscribe(self, query: SubscribeQuery) -> str | QueryError | None:
        """Activate bindings, and return an error or None. They are active once a stream is open."""
        try:
            async with asyncio.timeout(STREAM_TIMEOUT):
                await self._check_publication()
                while not self._is_open.is_set():
                    await self._is_open.wait()
                    await self._check_publication()
        except TimeoutError:
            return QueryError.DOWN
        self._queries[query.channel] = query
        async with self._resolving:
            answer = await self._resolve(query)
        if answer is not None and self._queries.get(query.channel) is query:
            self.unsubscribe(query.channel)
        return answer

    async def _resolve(self, query: SubscribeQuery) -> str | None:
        """Add a channel's bindings to the subscription table, unless the channel ended or sent another query."""
        channel = query.channel
        found = await resolve_bindings(self._database, query)
        if self._queries.get(channel) is not query:
            return None
        if isinstance(found, str):
            self._subscriptions.remove(channel)
        else:
            self._subscriptions.put(channel, found)
        self._polls.forget_absent()
        return found if isinstance(found, str) else None

    async def _resolve_all(self, *, announce: bool) -> None:
        """Resolve the bindings of every channel again.

        announce: send the outcome to each channel that has bindings or had them before.
        """
        for channel, query in list(self._queries.items()):
            if self._queries.get(channel) is query:
                was_subscribed = channel in self._subscriptions
                answer = await self._resolve(query)
                if announce and (answer is None or was_subscribed):
                    self._call_hub(Hub.resubscribed, channel, answer)

    # --- the stream ---

    async def _open(self) -> ReplicationStream:
        self._streamed = await self._publications()
        await self._publication.drop_unused(self._streamed)
        self._tables = await self._catalog.published()
        self._unlisted.clear()
        try:
            self._stream = await self._open_stream(self._url, self._streamed)
        except psycopg.Error as error:
            raise error_of(error) from error
        return self._stream

    async def _run_stream(self) -> NoReturn:
        stream = self._stream or await self._reopen(announce=True)
        while True:
            self._set_open(True)
            announce = self._announce_outages
            try:
                async with asyncio.TaskGroup() as tasks:
                    backlog = Backlog()
                    tasks.create_task(backlog.fill(stream, self._consumers, self._queries))
                    tasks.create_task(self._process(stream, backlog))
            except* (StreamLost, StreamError, DatabaseError) as errors:
                if self._switching:
                    logger.info("another stream of changes is needed: %s", errors.exceptions[0])
                else:
                    logger.warning(LOST if announce else LOST_SILENTLY, errors.exceptions[0])
            except* Exception:  # a bug of this library, which the real server does not have: clients are notified
                logger.exception("the local server failed on a change of a row")
                announce = True
            self._set_open(False)
            if announce:
                self._call_hub(Hub.changes_interrupted)
            elif not self._switching:
                self._lost_until = asyncio.get_running_loop().time() + self._outage_loss
            await self._close()
            stream = await self._reopen(announce=announce or self._switching)
            self._switching = False

    async def _reopen(self, *, announce: bool) -> ReplicationStream:
        """Open a new stream, retrying until it succeeds, and resolve all bindings again."""
        attempts = 0
        while True:
            await asyncio.sleep(RETRY_DELAYS[min(attempts, len(RETRY_DELAYS) - 1)])
            attempts += 1
            try:
                stream = await self._open()
                async with self._resolving:
                    await self._resolve_all(announce=announce)
            except (StreamLost, DatabaseError) as error:
                logger.info("no stream of changes yet: %s", error)
                if isinstance(error, DatabaseError) and error.retryable:  # the whole database is unavailable
                    self._call_hub(Hub.set_database_error, QueryError.DOWN)
                await self._close()
            else:
                logger.info("there is a stream of changes again")
                self._call_hub(Hub.set_database_error, None)
                return stream

    def _set_open(self, is_open: bool) -> None:
        if is_open:
            self._is_open.set()
        else:
            self._is_open.clear()
        self._call_hub(Hub.set_broadcasts_ready, is_open)

    async def _process(self, stream: ReplicationStream, backlog: Backlog) -> NoReturn:
        """Deliver the batches of the backlog, one at a time."""
        while True:
            batch = await backlog.next()
            if batch.rows and self._queries:
                await self._deliver(batch.rows)
            if batch.end_lsn:
                stream.confirm(batch.end_lsn)

    async def _deliver(self, changes: Sequence[CommittedChange]) -> None:
        if self._has_new_tables(changes):
            await self._check_publication()
        if asyncio.get_running_loop().time() < self._lost_until:
            self._lost += len(changes)
            return
        if self._lost_until:
            logger.warning("changes of rows are sent again; %d were lost since the stream was", self._lost)
            self._lost_until, self._lost = 0.0, 0
        replaced = self._subscriptions.replaced
        replaced.clear()
        deliveries = await self._find_deliveries(changes)
        if replaced:
            deliveries = await self._recompute(changes, deliveries)
        if deliveries:
            self._call_hub(Hub.deliver_changes, deliveries)

    async def _recompute(self, changes: Sequence[CommittedChange], found: list[Delivery]) -> list[Delivery]:
        """Return the deliveries, recomputed for channels whose token was replaced while the rows were checked.

        Such a channel has already received `Subscribed to PostgreSQL`, so only its new claims apply. The lock prevents
        further token replacements meanwhile.
        """
        async with self._resolving:
            again = frozenset(self._subscriptions.replaced)
            kept = [delivery for delivery in found if delivery.channel not in again]
            return kept + await self._find_deliveries(changes, again)

    async def _find_deliveries(
        self, changes: Sequence[CommittedChange], only: frozenset[int] | None = None
    ) -> list[Delivery]:
        attempts = 1
        while True:
            try:
                return await self._polls.deliveries(changes, only)
            except DatabaseError as error:
                if not error.retryable or attempts == MAX_ATTEMPTS:
                    raise
                attempts += 1

    # --- the publication ---

    def _has_new_tables(self, changes: Sequence[CommittedChange]) -> bool:
        """Return whether a change is for a table that was not in the publication at the last check."""
        known = {table.oid for table in self._tables}
        found = False
        for relation in (change.relation for change in changes):
            if relation.oid not in known and self._unlisted.get(relation.oid) is not relation:
                self._unlisted[relation.oid] = relation
                found = True
        return found

    async def _watch_publication(self) -> NoReturn:
        while True:
            await asyncio.sleep(self._check_interval)
            if not self._is_open.is_set():
                continue
            try:
                await self._check_publication()
            except DatabaseError as error:  # the stream or the next check will report it
                logger.info("the publication could not be checked: %s", error)

    async def _publications(self) -> tuple[str, ...]:
        return await self._publication.names_to_stream([consumer.publication for consumer in self._consumers])

    async def _check_publication(self) -> None:
        """Detect tables added to or removed from the publication; reopen the stream if the publications changed.

        Clients are not notified when a table leaves or comes back, as with the real server.
        """
        async with self._resolving:
            if await self._publications() != self._streamed and self._stream is not None:
                self._is_open.clear()
                self._switching = True
                self._stream.abandon("the publications to stream have changed")
                return
            tables = await self._catalog.published()
            if tables == self._tables:
                return
            before, now = ({table.oid for table in some} for some in (self._tables, tables))
            new = now - before - self._former_tables
            few = len(self._former_tables) < MAX_FORMER_TABLES
            self._former_tables = (self._former_tables | before) - now if few else set()
            self._tables = tables
            await self._resolve_all(announce=bool(new))
