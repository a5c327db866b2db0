"""The table `realtime.messages`: creates its daily partitions, delivers messages as they commit, and replays them.

See docs/protocol.md, Replay, and Broadcast from the database.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from supawire.events import Instant
from supawire.server.app import HubCall
from supawire.server.hub import Hub
from supawire.server.postgres.catalog import wait_until_visible
from supawire.server.postgres.database import Database, DatabaseError
from supawire.server.postgres.pgoutput import UNCHANGED, CommittedChange
from supawire.server.postgres.replication import RowConsumer
from supawire.server.queries import RETENTION, MessagesQuery, StoredMessage, StoreQuery

logger: Final = logging.getLogger("supawire.server")

CHECK_INTERVAL: Final = 60.0
"""Seconds between two checks of the partitions, which are created two days ahead: the machine may be suspended."""
_IS_OURS: Final = """
    select exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                   where n.nspname = 'realtime' and proname = 'keep_partitions'
                   and pg_has_role(current_user, p.proowner, 'usage'))
"""
_KEEP: Final = "select realtime.keep_partitions()"


class Partitions:
    """Creates and drops partitions where this library owns the schema; a foreign schema is left to its owner."""

    def __init__(self, database: Database, interval: float = CHECK_INTERVAL) -> None:
        self._database = database
        self._interval = interval
        self._ours = False

    async def start(self) -> None:
        """Create the current partitions."""
        self._ours = bool((await self._database.query(_IS_OURS))[0][0])
        if self._ours:
            await self._database.query(_KEEP)

    async def run(self) -> None:
        """Keep creating partitions ahead of time."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                if self._ours:
                    await self._database.query(_KEEP)
            except DatabaseError as error:  # retried at the next interval
                logger.warning("the partitions of realtime.messages could not be created: %s", error)


PUBLICATION: Final = "supabase_realtime_messages_publication"
"""The publication of this table only; the project's own publication lists the tables that users chose."""
UNPUBLISHED: Final = (
    f"messages from the database are stored and not delivered, because the publication {PUBLICATION} is missing: run "
    f"CREATE PUBLICATION {PUBLICATION} FOR TABLE realtime.messages WITH (publish = 'insert')"
)
SCHEMA: Final = "realtime"
TABLE: Final = "messages"
MAX_TRANSACTIONS: Final = 1_000
"""Transactions remembered; far more than can be between arriving in the stream and being visible to queries."""
YEAR_2000: Final = 946_684_800
TIME_RANGE: Final = -(10**13), 10**14
"""Range of milliseconds that PostgreSQL can represent as a time."""

_PUBLISHED: Final = "select from pg_publication where pubname = %s"
_REPLAY: Final = """
    select id::text, event, payload::text, binary_payload, extract(epoch from inserted_at)::float8
    from realtime.messages
    where topic = %s and private and extension = 'broadcast' and event is not null
      and inserted_at >= greatest(
        to_timestamp(%s / 1000.0::float8) at time zone 'utc', now() at time zone 'utc' - make_interval(secs => %s))
      and coalesce(payload::text, binary_payload::text) is not null
      and coalesce((to_jsonb(messages) ->> 'expires_at')::timestamp > now() at time zone 'utc', true)
    order by inserted_at desc, ctid desc
    limit %s
"""
_STORE: Final = """
    insert into realtime.messages
      (topic, extension, event, payload, binary_payload, private, skip_broadcast, expires_at)
    values (%s, 'broadcast', %s, %s, %s, true, true, now() at time zone 'utc' + make_interval(secs => %s))
    returning id::text
"""


class MessageTable:
    """Delivers and replays messages sent from the database."""

    def __init__(self, database: Database, call_hub: HubCall) -> None:
        self._database = database
        self._call_hub = call_hub
        self._delivered: deque[int] = deque(maxlen=MAX_TRANSACTIONS)
        """Transactions whose messages were delivered and have not been checked for visibility since."""
        self.consumer: Final = RowConsumer(PUBLICATION, SCHEMA, self._take)

    async def start(self) -> None:
        """Log a warning when messages cannot be delivered. The change feed notices when the publication is created."""
        if not await self._database.query(_PUBLISHED, [PUBLICATION]):
            logger.warning("%s", UNPUBLISHED)

    async def replay(self, query: MessagesQuery) -> tuple[StoredMessage, ...]:
        """Return the newest messages since the given time, oldest first; within a transaction in insertion order.

        The stream may contain a transaction shortly before it is visible to queries. A message delivered before this
        query must be in the result, or the joining client would receive it neither live nor by replay.
        """
        if delivered := set(self._delivered):
            await wait_until_visible(self._database, delivered)
            self._delivered = deque((xid for xid in self._delivered if xid not in delivered), maxlen=MAX_TRANSACTIONS)
        since = min(max(query.replay.since, TIME_RANGE[0]), TIME_RANGE[1])
        parameters = [query.topic, since, RETENTION, query.replay.limit]
        rows = await self._database.query(_REPLAY, parameters)
        return tuple(
            StoredMessage(
                number,
                query.topic,
                event,
                text.encode() if raw is None else raw,
                json=raw is None,
                private=True,
                sent_at=sent_at,
            )
            for number, event, text, raw, sent_at in reversed(rows)
        )

    async def store(self, query: StoreQuery) -> str:
        """Store a broadcast that was delivered already, and return its id."""
        text, raw = (query.payload.decode(), None) if query.json else (None, query.payload)
        ((number,),) = await self._database.query(_STORE, [query.topic, query.event, text, raw, query.ttl])
        return str(number)

    def _take(self, rows: Sequence[CommittedChange]) -> None:
        """Deliver those of the committed rows that are messages, in order."""
        found = [(row.begin.xid, message) for row in rows if is_message(row) and (message := message_of(row))]
        if found:
            self._delivered.extend(dict.fromkeys(xid for xid, _ in found))
            self._call_hub(_deliver, [message for _, message in found])


def _deliver(hub: Hub, messages: Sequence[StoredMessage], now: Instant) -> None:
    for message in messages:
        hub.deliver(message, now)


def is_message(row: CommittedChange) -> bool:
    """Return whether a row belongs to `realtime.messages`; publications of older projects name the partition."""
    name = row.relation.table
    return row.type == "INSERT" and row.relation.schema == SCHEMA and (name == TABLE or name.startswith(f"{TABLE}_"))


def message_of(row: CommittedChange) -> StoredMessage | None:
    """Convert a row of `realtime.messages` to a message; None for an invalid one, logged as by the real server."""
    values = {
        column.name: value.decode()
        for column, value in zip(row.relation.columns, row.new or (), strict=True)
        if value is not None and value is not UNCHANGED
    }
    missing = [name for name in ("id", "topic", "event", "private") if name not in values]
    raw, text = values.get("binary_payload"), values.get("payload")
    if values.get("skip_broadcast") == "t":
        return None  # delivered when it was sent
    if missing or (raw is None and text is None):
        logger.warning("a message from the database is not delivered: it has no %s", (missing or ["payload"])[0])
        return None
    payload = bytes.fromhex(raw.removeprefix("\\x")) if raw is not None else (text or "").encode()
    sent_at = YEAR_2000 + row.begin.commit_at / 1e6
    private = values["private"] == "t"
    return StoredMessage(values["id"], values["topic"], values["event"], payload, raw is None, private, sent_at)
