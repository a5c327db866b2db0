"""The backend component that delivers row changes from the replication stream to the hub.

One task reads the stream and another processes one batch at a time, so frames are sent in commit order. Changes that
arrive meanwhile go into the next batch; when there are too many, reading is paused. A third task checks whether the
publication has changed. When the stream is lost, some seconds of changes are lost too and clients are not notified, as
with the real server; with `announce_outages` they are notified, and again once a new stream is open.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, NoReturn

import psycopg

from supawire.server.changes import Delivery
from supawire.server.postgres.catalog import PUBLICATION, Catalog, Table
from supawire.server.postgres.component import Answers, BackendContext
from supawire.server.postgres.database import DatabaseError, told
from supawire.server.postgres.matching import Matcher
from supawire.server.postgres.pgoutput import Relation, StreamError
from supawire.server.postgres.polls import Polls
from supawire.server.postgres.publication import WatchedPublication
from supawire.server.postgres.replication import Backlog, RowChange, Stream, StreamLost
from supawire.server.postgres.subscriptions import SubscriptionTable, listings_of
from supawire.server.queries import QueryError, SubscribeQuery

logger: Final = logging.getLogger("supawire.server")

POLL_INTERVAL: Final = 1.0
"""Seconds between two checks of the publication."""
TAKEOVER_TIMEOUT: Final = 8.0
"""Seconds that a subscription waits for a lost stream to be reopened; the hub's own timeout is two seconds longer."""
RETRY_DELAYS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Seconds before each attempt to reopen the stream; the last value repeats."""
TRIES: Final = 3
"""Attempts to process a batch when connections are lost during its queries."""

MOST_LEFT: Final = 10_000
"""Maximum number of tables remembered after they left the publication."""
LOST: Final = "changes of rows are not sent for now, which channels are told: %s"
LOST_SILENTLY: Final = (
    "changes of rows are lost, and clients are not informed, as with the real server: %s "
    "(announce_outages=True or --announce-outages informs them)"
)
_SLOT: Final = "select from pg_replication_slots where slot_name = %s"
_PUBLICATIONS: Final = "select pubname::text from pg_publication where pubname = any(%s) order by 1"


class Feed:
    """Reads the replication stream and keeps the bindings of every channel."""

    def __init__(self, ground: BackendContext, look: float = POLL_INTERVAL) -> None:
        self._ground = ground
        self._database = ground.database
        self._behaviour = ground.behaviour
        self._look = look
        self._book = SubscriptionTable()
        self._catalog = Catalog(self._database)
        isolate = self._behaviour.isolate_policy_errors
        self._matcher = Matcher(self._database, self._catalog, self._book, isolate=isolate)
        self._polls = Polls(
            matcher=self._matcher,
            book=self._book,
            database=self._database,
            do=ground.do,
            pause=self._behaviour.pause,
        )
        self._publication = WatchedPublication(self._database)
        self._asked: dict[int, SubscribeQuery] = {}
        """The query of each subscribed channel."""
        self._listing = asyncio.Lock()
        self._stream: Stream | None = None
        self._flows = asyncio.Event()
        self._names: tuple[str, ...] = ()
        self._tables: tuple[Table, ...] = ()
        self._foreign: dict[int, Relation] = {}
        """Tables in the stream that were not in the publication at the last check."""
        self._left: set[int] = set()
        """Tables that have left the publication."""
        self._switching = False
        """Whether the stream is being ended because another set of publications is needed."""
        self._lost_until = 0.0
        self._lost = 0
        """Changes lost since the stream ended."""

    @property
    def answers(self) -> Answers:
        return {SubscribeQuery: self._subscribe}

    async def start(self) -> None:
        """Open the stream: changes committed from now on can be delivered."""
        await self._open()

    async def run(self) -> None:
        """Process the stream, reopening it after outages."""
        self._matcher.limit = self._ground.do(lambda hub, now: hub.limits.change_bytes)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._watch())

    async def stop(self) -> None:
        """Close the stream; its temporary slot is dropped with it or shortly after."""
        slot = await self._close()
        if slot is None:
            return
        try:
            for pause in RETRY_DELAYS:
                if not await self._database.query(_SLOT, [slot]):
                    break
                await asyncio.sleep(pause)
        except DatabaseError as error:
            logger.debug("whether the slot is gone could not be seen: %s", error)

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
        self._asked.pop(channel, None)
        self._book.remove(channel)
        self._polls.left()

    async def _subscribe(self, asked: SubscribeQuery) -> str | QueryError | None:
        """Activate bindings. They are active once a stream is open and they are in the subscription table."""
        try:
            async with asyncio.timeout(TAKEOVER_TIMEOUT):
                await self._look_again()
                while not self._flows.is_set():
                    await self._flows.wait()
                    await self._look_again()
        except TimeoutError:
            return QueryError.DOWN
        self._asked[asked.channel] = asked
        async with self._listing:
            answer = await self._list(asked)
        if answer is not None and self._asked.get(asked.channel) is asked:
            self.unsubscribe(asked.channel)
        return answer

    async def _list(self, asked: SubscribeQuery) -> str | None:
        """Add a channel's bindings to the subscription table, unless the channel ended or sent another query."""
        channel = asked.channel
        found = await listings_of(self._database, asked)
        if self._asked.get(channel) is not asked:
            return None
        if isinstance(found, str):
            self._book.remove(channel)
        else:
            self._book.put(channel, found)
        self._polls.left()
        return found if isinstance(found, str) else None

    async def _relist(self, *, announce: bool) -> None:
        """Resolve the bindings of every channel again.

        announce: send the outcome to each channel that has bindings or had them before.
        """
        for channel, asked in list(self._asked.items()):
            if self._asked.get(channel) is asked:
                was_listed = channel in self._book
                answer = await self._list(asked)
                if announce and (answer is None or was_listed):
                    self._ground.do(lambda hub, now, n=channel, a=answer: hub.relisted(n, a, now))

    # --- the stream ---

    async def _open(self) -> Stream:
        self._names = await self._publications()
        await self._publication.tidy(self._names)
        self._tables = await self._catalog.published()
        self._foreign.clear()
        try:
            self._stream = await Stream.open(self._ground.url, self._names)
        except psycopg.Error as error:
            raise told(error) from error
        return self._stream

    async def _follow(self) -> NoReturn:
        stream = self._stream or await self._reopen(announce=True)
        while True:
            self._flowing(True)
            announce = self._behaviour.announce_outages
            try:
                async with asyncio.TaskGroup() as tasks:
                    backlog = Backlog()
                    tasks.create_task(self._read(stream, backlog))
                    tasks.create_task(self._work(stream, backlog))
            except* (StreamLost, StreamError, DatabaseError) as errors:
                if self._switching:
                    logger.info("another stream of changes is needed: %s", errors.exceptions[0])
                else:
                    logger.warning(LOST if announce else LOST_SILENTLY, errors.exceptions[0])
            except* Exception:  # a bug of this library, which the real server does not have: clients are notified
                logger.exception("the local server failed on a change of a row")
                announce = True
            self._flowing(False)
            if announce:
                self._ground.do(lambda hub, now: hub.interrupted(now))
            elif not self._switching:
                self._lost_until = asyncio.get_running_loop().time() + self._behaviour.outage
            await self._close()
            stream = await self._reopen(announce=announce or self._switching)
            self._switching = False

    async def _reopen(self, *, announce: bool) -> Stream:
        """Open a new stream, retrying until it succeeds, and resolve all bindings again."""
        tries = 0
        while True:
            await asyncio.sleep(RETRY_DELAYS[min(tries, len(RETRY_DELAYS) - 1)])
            tries += 1
            try:
                stream = await self._open()
                async with self._listing:
                    await self._relist(announce=announce)
            except (StreamLost, DatabaseError) as error:
                logger.info("no stream of changes yet: %s", error)
                if isinstance(error, DatabaseError) and error.retryable:  # the whole database is unavailable
                    self._ground.do(lambda hub, now: hub.troubled(QueryError.DOWN, now))
                await self._close()
            else:
                logger.info("there is a stream of changes again")
                self._ground.do(lambda hub, now: hub.troubled(None, now))
                return stream

    def _flowing(self, yes: bool) -> None:
        if yes:
            self._flows.set()
        else:
            self._flows.clear()
        self._ground.do(lambda hub, now: hub.flows(yes, now))

    async def _read(self, stream: Stream, backlog: Backlog) -> NoReturn:
        """Pass rows to the row consumers at once; rows that channels may have subscribed to go to the backlog."""
        while True:
            await backlog.room()
            batch = await stream.read()
            for take in self._ground.row_consumers.values():
                take(batch.rows)
            backlog.add(batch if self._asked else batch._replace(rows=[]))

    async def _work(self, stream: Stream, backlog: Backlog) -> NoReturn:
        while True:
            batch = await backlog.next()
            if batch.rows and self._asked:
                await self._tell(batch.rows)
            if batch.end_lsn:
                stream.confirm(batch.end_lsn)

    async def _tell(self, changes: Sequence[RowChange]) -> None:
        if self._new_tables(changes):
            await self._look_again()
        if asyncio.get_running_loop().time() < self._lost_until:
            self._lost += len(changes)
            return
        if self._lost_until:
            logger.warning("changes of rows are sent again; %d were lost since the stream was", self._lost)
            self._lost_until, self._lost = 0.0, 0
        self._book.replaced.clear()
        deliveries = await self._deliveries(changes)
        if self._book.replaced:
            deliveries = await self._judge_again(changes, deliveries)
        if deliveries:
            self._ground.do(lambda hub, now: hub.changed(deliveries, now))

    async def _judge_again(self, changes: Sequence[RowChange], found: list[Delivery]) -> list[Delivery]:
        """Return the deliveries, recomputed for channels whose token was replaced while the rows were checked.

        Such a channel has already received `Subscribed to PostgreSQL`, so only its new claims apply. The lock prevents
        further token replacements meanwhile.
        """
        async with self._listing:
            again = frozenset(self._book.replaced)
            kept = [delivery for delivery in found if delivery.channel not in again]
            return kept + await self._deliveries(changes, again)

    async def _deliveries(self, changes: Sequence[RowChange], only: frozenset[int] | None = None) -> list[Delivery]:
        tries = 1
        while True:
            try:
                return await self._polls.deliveries(changes, only)
            except DatabaseError as error:
                if not error.retryable or tries == TRIES:
                    raise
                tries += 1

    # --- the publication ---

    def _new_tables(self, changes: Sequence[RowChange]) -> bool:
        """Return whether a change is for a table that was not in the publication at the last check."""
        known = {table.oid for table in self._tables}
        strange = False
        for relation in (change.relation for change in changes):
            if relation.oid not in known and self._foreign.get(relation.oid) is not relation:
                self._foreign[relation.oid] = relation
                strange = True
        return strange

    async def _watch(self) -> NoReturn:
        while True:
            await asyncio.sleep(self._look)
            if not self._flows.is_set():
                continue
            try:
                await self._look_again()
            except DatabaseError as error:  # the stream or the next check will report it
                logger.info("the publication could not be looked at: %s", error)

    async def _publications(self) -> tuple[str, ...]:
        """Return the required publications that exist: a stream that names a missing one fails."""
        wanted = [PUBLICATION, *self._ground.row_consumers]
        found = [name for (name,) in await self._database.query(_PUBLICATIONS, [wanted])]
        if PUBLICATION in found:
            found[found.index(PUBLICATION)] = await self._publication.to_stream()
        return tuple(found)

    async def _look_again(self) -> None:
        """Detect tables added to or removed from the publication; reopen the stream if the publications changed.

        Clients are not notified when a table leaves or comes back, as with the real server.
        """
        async with self._listing:
            if await self._publications() != self._names and self._stream is not None:
                self._flows.clear()
                self._switching = True
                self._stream.abandon("its publications are others now")
                return
            tables = await self._catalog.published()
            if tables == self._tables:
                return
            before, now = ({table.oid for table in some} for some in (self._tables, tables))
            new = now - before - self._left
            self._left = (self._left | before) - now if len(self._left) < MOST_LEFT else set()
            self._tables = tables
            await self._relist(announce=bool(new))
