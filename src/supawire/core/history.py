"""The merge of stored and live messages of one topic: each once, in order, and where to continue after a restart.

`StoredReader` is used where the table can be read. Every message is taken from the table, in pages; a live message only
wakes the reader. `ReplayReader` is used where it cannot: it takes what the server replays at the join, then live
messages.

The time of a stored message, `inserted_at`, is the start of its transaction. A message can therefore become visible
after newer ones. Every page comes with a *horizon*: all messages before it were visible when the page was read. A
message before the horizon is *settled*. The position of the cursor only moves over settled messages. A newer message is
delivered at once all the same, and its id is kept in the cursor (`seen`) until the horizon has passed it. So a message
that becomes visible late is still found, behind the newer ones, also after a restart, as long as the horizon is right.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from uuid import UUID

from supawire.core.gaps import REPLAY_MARGIN
from supawire.cursors import LAST_PLACE, Cursor, Page, PageQuery, Position, StoredRow, instant_of
from supawire.events import Gap, Instant

MAX_SEEN: Final = 1000
"""Maximum ids in a cursor of `StoredReader`. With more unsettled messages, the newest wait until they have settled."""
MAX_REPLAYED_SEEN: Final = 100
"""Maximum ids in a cursor of `ReplayReader`; the server replays at most 25 messages."""
MAX_DELIVERED_IDS: Final = 10_000
"""How many ids of delivered messages are remembered, to recognise their live copies."""
MAX_AWAITED_IDS: Final = 1000
"""How many ids of live messages may wait to be found in the table."""
FIRST_RETRY_DELAY: Final = 0.01
"""Seconds until a live message that is not visible in the table is looked for again; doubled each time."""
MAX_RETRY_DELAY: Final = 1.0
UNSTORED_DELAY: Final = 0.25
"""Seconds after a live message without an id until the table is read: a client's broadcast is stored after it is
delivered, and most are not stored at all."""

UNKNOWN: Final = 2**62
"""The time of an id from a cursor until the first page is read: later than any."""

RETENTION_REASON: Final = "retention"
OVERFLOW_REASON: Final = "slow_consumer"
_LOST: Final = frozenset({"broadcast"})


class StoredItem(NamedTuple):
    """A message to deliver, and the cursor after it. replayed: it is from before the reader had caught up."""

    row: StoredRow
    cursor: Cursor
    replayed: bool


class StoredReader:
    """Reads the stored messages of a topic after a cursor, in pages, and goes on with new ones.

    The shell calls `take` until it returns None, then waits until `next_read_at` or a wake-up, reads `query()` and
    passes the answer to `page_read`.

    Args: oldest: start at the oldest stored message, so that older ones are not missed. events: the event names, None
    for all. page: rows of a page. settle: see `PageQuery`. poll: the most seconds between two reads. strict: deliver
    settled messages only, so that none ever comes behind a newer one. ends: read to the end of what is stored. Then no
    message waits until it has settled: the cursor stays where it has `MAX_SEEN` ids, and later messages are delivered.
    """

    def __init__(
        self,
        cursor: Cursor,
        *,
        oldest: bool = False,
        events: Iterable[str] | None = None,
        page: int = 500,
        settle: float = 5.0,
        poll: float = 30.0,
        strict: bool = False,
        ends: bool = False,
    ) -> None:
        self._topic = cursor.topic
        self._oldest = oldest or cursor.at == 0
        """Whether removed messages are not reported: not asked for, or reported already since it had caught up."""
        self._events = None if events is None else tuple(events)
        self._page = page
        self._settle = settle
        self._poll = poll
        self._strict = strict
        self._ends = ends
        self._settled = cursor.position
        self._seen: dict[str, int] = dict.fromkeys(cursor.seen, UNKNOWN)
        """Ids of delivered messages after the settled position, with their times."""
        self._cursor = cursor
        self._stale = False
        """Whether the cursor has to be made again."""
        self._pending: deque[tuple[StoredRow, bool]] = deque()
        """Rows to deliver, and whether each moves the settled position."""
        self._gaps: deque[Gap] = deque()
        self._delivered: OrderedDict[str, None] = OrderedDict.fromkeys(cursor.seen)
        self._awaited: OrderedDict[str, float] = OrderedDict()
        """Ids of live messages that were not found yet, and when each was received."""
        self._retry_delay = FIRST_RETRY_DELAY
        self._due: float = float("-inf")
        self._wanted_at: float = float("inf")
        """When a wake-up wants a read, until one has begun that is certainly not earlier."""
        self._last_read: Position = cursor.position
        """The position of the last row of the last page."""
        self._horizon: int | None = None
        """The horizon to move to when the pending rows of the last page are delivered; None while pages follow."""
        self._query: PageQuery | None = None
        self.caught_up: bool = False
        """Whether all messages that were stored at the start have been delivered."""

    @property
    def cursor(self) -> Cursor:
        """The position after all messages that were taken."""
        if self._stale:
            self._stale = False
            self._cursor = Cursor(
                self._topic, self._settled.at, self._settled.place, self._settled.id or None, frozenset(self._seen)
            )
        return self._cursor

    # --- delivery

    def take(self) -> StoredItem | Gap | None:
        """Return the next message or gap, None if the table has to be read first."""
        if self._gaps:
            return self._gaps.popleft()
        while self._pending:
            row, settles = self._pending.popleft()
            is_new = row.id not in self._delivered
            self._remember(row.id)
            if settles:
                self._move_to(row.position)
            elif row.position > self._settled and not self._cursor_stays:
                self._seen[row.id] = row.at
                self._stale = True
            if not is_new:
                continue
            replayed = not self.caught_up
            self._finish_page()
            return StoredItem(row, self.cursor, replayed)
        self._finish_page()
        return None

    def _finish_page(self) -> None:
        if self._pending or self._horizon is None:
            return
        self.caught_up, self._oldest = True, False
        horizon, self._horizon = self._horizon, None
        if horizon - 1 > self._settled.at:
            self._move_to(Position(horizon - 1, LAST_PLACE))

    def _move_to(self, position: Position) -> None:
        self._settled = position
        if self._seen:
            self._seen = {one: at for one, at in self._seen.items() if at >= position.at and one != position.id}
        self._stale = True

    def _remember(self, identity: str) -> None:
        self._delivered[identity] = None
        self._awaited.pop(identity, None)
        if len(self._delivered) > MAX_DELIVERED_IDS:
            self._delivered.popitem(last=False)

    # --- wake-ups

    def wake(self, identity: str | None, now: Instant) -> None:
        """Read soon: a live message was received."""
        if identity is None:
            self._read_at(now.mono + UNSTORED_DELAY)
        elif identity not in self._delivered and _is_uuid(identity):
            self._awaited[identity] = now.mono
            if len(self._awaited) > MAX_AWAITED_IDS:
                self._awaited.popitem(last=False)
            self._retry_delay = FIRST_RETRY_DELAY
            self._due = min(self._due, now.mono + (self._settle if self._only_settled else 0.0))

    def refresh(self, now: Instant) -> None:
        """Read now: live messages may have been missed."""
        self._read_at(now.mono)

    def _read_at(self, mono: float) -> None:
        self._due = min(self._due, mono)
        self._wanted_at = min(self._wanted_at, mono)

    @property
    def next_read_at(self) -> float:
        """When to read the table next, monotonic."""
        return self._due

    @property
    def _cursor_stays(self) -> bool:
        return self._ends and len(self._seen) >= MAX_SEEN

    @property
    def _only_settled(self) -> bool:
        return self._strict or (len(self._seen) >= MAX_SEEN and not self._ends)

    # --- pages

    def query(self) -> PageQuery:
        """Return the query for the next page."""
        if self._wanted_at <= self._due:
            self._wanted_at = float("inf")
        free = MAX_SEEN - len(self._seen)
        self._query = PageQuery(
            self._topic,
            max(self._settled, self._last_read) if self._cursor_stays else self._settled,
            tuple(self._seen),
            self._events,
            self._page if self._only_settled or self._cursor_stays else min(self._page, free),
            self._settle,
            self._only_settled,
            tuple(self._awaited),
        )
        return self._query

    def page_read(self, page: Page, now: Instant) -> None:
        """Accept the answer to the last query."""
        assert self._query is not None
        query, self._query = self._query, None
        if page.oldest > self._settled.at and not self._oldest:
            self._gaps.append(_removed(self._topic, self._settled.at, page.oldest))
            self._oldest = True
        if UNKNOWN in self._seen.values():  # delivered before this page was read, so not newer than it
            self._seen = {one: page.now if at == UNKNOWN else at for one, at in self._seen.items()}
        horizon = 0 if self._cursor_stays else page.horizon
        self._pending.extend((row, row.at < horizon) for row in page.rows)
        full = len(page.rows) >= query.limit
        self._horizon = None if full else horizon
        if page.rows:
            self._last_read = page.rows[-1].position
        read = {row.id for row in page.rows}
        for row in page.found:  # those that became visible behind the horizon will be in no page
            if row.id not in read and (row.position <= self._settled or (not full and row.at < horizon)):
                self._pending.append((row, False))
            self._awaited.pop(row.id, None)
        self._forget_awaited(read, now)
        self._schedule(now, full=full, waits=query.settled_only)
        self._finish_page()

    def _forget_awaited(self, read: set[str], now: Instant) -> None:
        """Forget the live messages that were read, and those that were not found for long: they are not stored."""
        limit = now.mono - 2 * self._settle - MAX_RETRY_DELAY
        for identity, received_at in list(self._awaited.items()):
            if identity in read or identity in self._delivered or received_at < limit:
                del self._awaited[identity]

    def _schedule(self, now: Instant, *, full: bool, waits: bool) -> None:
        if full:
            self._due = now.mono
            return
        self._due = min(now.mono + self._poll, self._wanted_at)
        if self._seen or waits:
            self._due = min(self._due, now.mono + max(self._settle, MAX_RETRY_DELAY))
        if self._awaited:
            self._due = min(self._due, now.mono + self._retry_delay)
            self._retry_delay = min(2 * self._retry_delay, MAX_RETRY_DELAY)

    def read_failed(self, delay: float, now: Instant) -> None:
        """Read again after this delay."""
        self._query = None
        self._due = now.mono + delay


class ReceivedItem(NamedTuple):
    """A message to deliver that was received on the socket, and the cursor after it."""

    event: Any
    cursor: Cursor


class ReplayReader:
    """Delivers replayed messages, then live ones, and reports gaps that the replay did not close.

    Frames have no `inserted_at`. So the cursor has the time of the server at which the last message was received, less
    a margin, and the ids of the newest messages.

    Args: oldest: microseconds since 1970 before which messages may have been removed. limit: the most messages that may
    wait.
    """

    def __init__(self, cursor: Cursor, *, oldest: int = 0, limit: int = 1000) -> None:
        self._topic = cursor.topic
        self._limit = limit
        self._at = cursor.at
        self._handled: OrderedDict[str, None] = OrderedDict.fromkeys(sorted(cursor.seen))
        """Ids of the newest messages that were taken."""
        if cursor.id is not None:
            self._handled[cursor.id] = None
        self._waiting: set[str] = set()
        """Ids of the messages that wait."""
        self.cursor: Cursor = cursor
        """The position after all messages that were taken."""
        self._pending: deque[tuple[Any, int] | Gap] = deque()
        if 0 < cursor.at < oldest:
            self._pending.append(_removed(self._topic, cursor.at, oldest))
        self._overflowed: tuple[Instant, Instant] | None = None
        self.dropped: int = 0
        """How many messages were dropped because too many waited."""

    def received(self, event: Any, server_wall: float | None, now: Instant) -> None:
        """Accept a message. Messages without an id are not stored, and those that were delivered before are skipped."""
        if event.id is None or event.id in self._handled or event.id in self._waiting:
            return
        if self._overflowed is not None or len(self._pending) >= self._limit:
            self.dropped += 1
            self._overflowed = (now if self._overflowed is None else self._overflowed[0]), now
            return
        self._waiting.add(event.id)
        at = int(((now.wall if server_wall is None else server_wall) - REPLAY_MARGIN) * 1_000_000)
        self._pending.append((event, max(0, at)))

    def gap(self, gap: Gap) -> None:
        """Accept a gap of the channel; one of which all messages were replayed is not reported."""
        if gap.verdict != "complete" and "broadcast" in gap.lost:
            self._pending.append(gap)

    def take(self) -> ReceivedItem | Gap | None:
        """Return the next message or gap, None if there is none."""
        if not self._pending:
            return self._take_overflow()
        item = self._pending.popleft()
        if isinstance(item, Gap):
            return item
        event, at = item
        self._at = max(self._at, at)
        self._waiting.discard(event.id)
        if _is_uuid(event.id):
            self._handled[event.id] = None
        if len(self._handled) > MAX_REPLAYED_SEEN:
            self._handled.popitem(last=False)
        self.cursor = Cursor(self._topic, self._at, LAST_PLACE, None, frozenset(self._handled))
        return ReceivedItem(event, self.cursor)

    def _take_overflow(self) -> Gap | None:
        if self._overflowed is None:
            return None
        (start, end), self._overflowed = self._overflowed, None
        return Gap(self._topic, start.at(), end.at(), OVERFLOW_REASON, 0, "not_replayable", _LOST)


def _removed(topic: str, since: int, oldest: int) -> Gap:
    """Return the gap of messages that the server may have removed since a time."""
    return Gap(topic, instant_of(since), instant_of(oldest), RETENTION_REASON, 0, "truncated", _LOST)


def _is_uuid(text: str) -> bool:
    """Return whether an id is the text of a UUID as PostgreSQL writes it."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
