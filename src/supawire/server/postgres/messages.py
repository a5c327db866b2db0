"""One day after the other: the partitions of `realtime.messages` (protocol §6.3, §6.4).

`realtime.messages`: what is sent there is delivered as it commits, and replayed to who missed it (§6.3, §6.4).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from supawire.server.message_store import RETENTION, StoredMessage
from supawire.server.postgres.component import Answers, BackendContext
from supawire.server.postgres.database import DatabaseError
from supawire.server.postgres.pgoutput import UNCHANGED
from supawire.server.postgres.replication import RowChange
from supawire.server.postgres.visibility import caught_up
from supawire.server.queries import MessagesQuery

logger: Final = logging.getLogger("supawire.server")

EVERY: Final = 60.0
"""Seconds. Partitions are made two days ahead, but a machine may sleep longer, and this clock with it."""
_OURS: Final = """
    select exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                   where n.nspname = 'realtime' and proname = 'keep_partitions'
                   and pg_has_role(current_user, p.proowner, 'usage'))
"""
_KEEP: Final = "select realtime.keep_partitions()"


class Partitions:
    """Makes and drops them where the schema is ours; others are kept by their owner, as those of a real project."""

    def __init__(self, ground: BackendContext, every: float = EVERY) -> None:
        self._database = ground.database
        self._every = every
        self._ours = False

    @property
    def answers(self) -> Answers:
        """None."""
        return {}

    async def start(self) -> None:
        """Have those of today."""
        self._ours = bool((await self._database.query(_OURS))[0][0])
        if self._ours:
            await self._database.query(_KEEP)

    async def run(self) -> None:
        """Have those of tomorrow."""
        while True:
            await asyncio.sleep(self._every)
            try:
                if self._ours:
                    await self._database.query(_KEEP)
            except DatabaseError as error:  # the next time is early enough
                logger.warning("the partitions of realtime.messages could not be kept: %s", error)

    async def stop(self) -> None:
        """Nothing is held."""

    def unsubscribe(self, channel: int) -> None:
        """Nothing is bound."""


PUBLICATION: Final = "supabase_realtime_messages_publication"
"""Of this table alone, since the project's own lists the tables that somebody chose."""
UNPUBLISHED: Final = (
    f"messages from the database are stored and not delivered, because the publication {PUBLICATION} is missing: run "
    f"CREATE PUBLICATION {PUBLICATION} FOR TABLE realtime.messages WITH (publish = 'insert')"
)
SCHEMA: Final = "realtime"
TABLE: Final = "messages"
RECENT: Final = 1_000
"""Transactions, far more than can be between being told and being seen at one time."""
YEAR_2000: Final = 946_684_800
BOUNDS: Final = -(10**13), 10**14
"""Milliseconds that PostgreSQL has a time for."""

_PUBLISHED: Final = "select from pg_publication where pubname = %s"
_REPLAY: Final = """
    select id::text, event, payload::text, binary_payload, extract(epoch from inserted_at)::float8
    from realtime.messages
    where topic = %s and private and extension = 'broadcast' and event is not null
      and inserted_at >= greatest(
        to_timestamp(%s / 1000.0::float8) at time zone 'utc', now() at time zone 'utc' - make_interval(secs => %s))
      and coalesce(payload::text, binary_payload::text) is not null
    order by inserted_at desc, ctid desc
    limit %s
"""


class MessageTable:
    """The part that knows what was sent from the database."""

    def __init__(self, ground: BackendContext) -> None:
        self._ground = ground
        self._delivered: deque[int] = deque(maxlen=RECENT)
        """Transactions whose messages were delivered and that were not looked for since."""
        ground.follow(PUBLICATION, self.take)

    @property
    def answers(self) -> Answers:
        """Messages."""
        return {MessagesQuery: self.replay}

    async def start(self) -> None:
        """Say so where nothing can be delivered; who reads the stream notices the publication once it is made."""
        if not await self._ground.database.query(_PUBLISHED, [PUBLICATION]):
            logger.warning("%s", UNPUBLISHED)

    async def run(self) -> None:
        """What commits is handed in by who reads the stream."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Nothing is held."""

    def unsubscribe(self, channel: int) -> None:
        """Nothing is bound."""

    async def replay(self, asked: MessagesQuery) -> tuple[StoredMessage, ...]:
        """The newest messages since then, oldest first; those of one transaction in the order they were written.

        The stream may tell of a transaction a moment before others see it. A message that was delivered before the
        question has to be in the answer, or who joins would have it from neither.
        """
        database, delivered = self._ground.database, set(self._delivered)
        if delivered:
            await caught_up(database, None, delivered)
            self._delivered = deque((xid for xid in self._delivered if xid not in delivered), maxlen=RECENT)
        since = min(max(asked.wanted.since, BOUNDS[0]), BOUNDS[1])
        parameters = [asked.topic, since, RETENTION, asked.wanted.limit]
        rows = await database.query(_REPLAY, parameters)
        return tuple(
            StoredMessage(
                number,
                asked.topic,
                event,
                text.encode() if raw is None else raw,
                json=raw is None,
                private=True,
                sent_at=sent_at,
            )
            for number, event, text, raw, sent_at in reversed(rows)
        )

    def take(self, rows: Sequence[RowChange]) -> None:
        """Rows have committed, in this order: deliver those that are messages."""
        found = [(row.begin.xid, message) for row in rows if is_message(row) and (message := message_of(row))]
        if found:
            messages = [message for _, message in found]
            self._delivered.extend(dict.fromkeys(xid for xid, _ in found))
            self._ground.do(lambda hub, now: [hub.deliver(message, now) for message in messages])


def is_message(row: RowChange) -> bool:
    """Whether a row is one of `realtime.messages`; publications of older projects name the partition."""
    name = row.relation.table
    return row.type == "INSERT" and row.relation.schema == SCHEMA and (name == TABLE or name.startswith(f"{TABLE}_"))


def message_of(row: RowChange) -> StoredMessage | None:
    """A row of `realtime.messages` as a message; None for one that is none, which is logged as the real server does."""
    values = {
        column.name: value.decode()
        for column, value in zip(row.relation.columns, row.new or (), strict=True)
        if value is not None and value is not UNCHANGED
    }
    missing = [name for name in ("id", "topic", "event", "private") if name not in values]
    raw, text = values.get("binary_payload"), values.get("payload")
    if missing or (raw is None and text is None):
        logger.warning("a message from the database is not delivered: it has no %s", (missing or ["payload"])[0])
        return None
    payload = bytes.fromhex(raw.removeprefix("\\x")) if raw is not None else (text or "").encode()
    sent_at = YEAR_2000 + row.begin.commit_at / 1e6
    private = values["private"] == "t"
    return StoredMessage(values["id"], values["topic"], values["event"], payload, raw is None, private, sent_at)
