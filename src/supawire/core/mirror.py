"""What a mirror is to be, and what it orders: frozen data.

A live copy of a table: subscribe, wait until changes are live, fetch, and apply over it what changed.

The rule of order, and why the copy is right at the end:

* Changes come in the order of their commits, and from *ready* on all of them come. What is missing lies in a gap, and
  after a gap everything is fetched anew; also when the server says *ready* once more: then its worker may have been a
  new one, which knows nothing of what was committed in between.
* A fetch sees the table at some commit after it began. What came before it began was committed before, and is in it.
  What comes from then on is kept, and applied over the fetched rows in order. Some of it the fetch has seen already,
  and nothing tells which: then a row goes back to what it was, and with the following changes to what it is. When the
  last change that the fetch saw has come, every row is as the fetch saw it, or newer.
* So the new copy is made aside, and takes the place of the old one when these have come: the server needs at most half
  a second to tell what was committed (protocol §4.6), and `settle` seconds are waited; longer while it tells of commits
  from before the answer. Only then is the mirror *live*. The old copy follows the changes meanwhile, so that no row
  that somebody looks at goes back.
* A change that does not say all, such as a row over a megabyte, is a doubt that only a fetch begun after it ends. One
  that comes during a fetch does not stop it: where there are many, each fetch is shown, and none of them is live.
* The server may lose changes and say nothing, as it does when its database was restarted. With `refresh_every` a live
  copy is compared now and then: rows are fetched and settle aside as ever, but the mirror stays live, and only what
  differs is applied and told. A doubt ends a comparison, since it needs a fetch of its own.

The shell says what happens, with the time, performs effects in order, and calls `tick` at the deadline; like the rest
of the core, this opens nothing, waits for nothing and calls none of the user's code.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from supawire._mirror_events import MirrorEvent, MirrorState, Resynced, Rows, RowView, same_row
from supawire._server_errors import SUBSCRIBED
from supawire.core.frames import POSTGRES_CHANGES
from supawire.core.listeners import Listener
from supawire.core.pacing import Uniform, delay
from supawire.core.states import MIRROR, MirrorOn
from supawire.core.table_copy import Drop, KeyColumns, Put, Reader, TableCopy, Undecidable, read_rows, unlike
from supawire.errors import InvalidArgumentError, LocalProtocolError, RealtimeError, RowError, SlowConsumerError
from supawire.events import Change, Gap, Instant, System
from supawire.options import Backoff
from supawire.selectors import ChangesSelector


class MirrorSettings(Struct, frozen=True):
    """What is mirrored, and how.

    filter: None for all rows. narrow: ask the server for what the filter fits, and for nothing else. plain: rows as
    plain JSON. settle: seconds. backoff: between fetches that fail. buffer: changes that are kept while one runs.
    refresh_every: seconds between comparisons of a live copy with the table, None for none.
    """

    table: str
    key: tuple[str, ...]
    schema: str = "public"
    filter: str | None = None
    judged: frozenset[str] = frozenset()
    select: tuple[str, ...] | None = None
    narrow: bool = False
    plain: bool = False
    modelled: bool = False
    settle: float = 1.0
    backoff: Backoff = Backoff(initial=1.0)
    buffer: int = 10_000
    refresh_every: float | None = None


class Fetch(Struct, frozen=True):
    """Fetch the rows; the answer comes back with this generation."""

    generation: int


class Abandon(Struct, frozen=True):
    """The fetch of this generation is not wanted any more."""

    generation: int


class Emit(Struct, frozen=True):
    """The copy differs by this, and by nothing else since the last one."""

    event: MirrorEvent[Any]


class ReportError(Struct, frozen=True):
    """An error that nobody waits for."""

    error: RealtimeError


MirrorEffect = Fetch | Abandon | Emit | ReportError


class Take(Protocol):
    """Who takes the changes of a mirror's listeners."""

    def __call__(self, change: Change[dict[str, Any]], *, inside: bool) -> None: ...


PAUSE: Final = 1.0
"""Seconds from one answer to the next fetch, so that rows in doubt, one after another, are fetched together."""

LONGEST: Final = 10
"""How many times `settle` a server that is behind is waited for; its clock may differ from ours, so there is an end."""


_JITTER: Final = (0.9, 1.1)
"""Parts of `refresh_every` between two comparisons."""


class Mirror:
    """One live copy, without the world.

    Args: shown: how users see rows. random: draws the jitter.
    """

    def __init__(self, settings: MirrorSettings, shown: RowView, random: Uniform) -> None:
        self.settings = settings
        self.state: MirrorState = MirrorState.JOINING
        self.error: RealtimeError | None = None
        """Why it is not live, when that is known."""
        self.effects: Final[deque[MirrorEffect]] = deque()
        self.key: Final = KeyColumns(settings.key)
        judged = frozenset[str]() if settings.narrow else settings.judged
        self._reader = Reader(settings.schema, settings.table, self.key, judged, settings.plain)
        self._shown = shown
        self._random = random
        self._copy: TableCopy | None = None
        """What users see; None before the first."""
        self._next: TableCopy | None = None
        """The new one, which settles aside."""
        self._kept: list[Put | Drop] = []
        self._generation = 0
        self._attempt = 0
        self._not_before = 0.0
        self._answered_at = Instant(0.0, 0.0)
        self._settled_at = 0.0
        self._compare_at = 0.0
        self._comparing = False
        """A comparison is under way, while the mirror is live; its rows settle when `_next` is there."""
        self._torn = False
        """The copy lacks what was missed: what a change leaves out cannot be taken from it."""
        self._stale: str | None = None
        """What the newest fetch may not have seen, and nobody told whole."""
        self._reason = "first"
        """Why the newest fetch was begun."""
        self._compared = settings.modelled

    @property
    def rows(self) -> Rows:
        """The copy; not to be changed."""
        return self._copy.rows if self._copy is not None else {}

    @property
    def begun(self) -> bool:
        """Whether there is a copy."""
        return self._copy is not None

    @property
    def next_deadline(self) -> float | None:
        """When `tick` is wanted."""
        match self.state:
            case MirrorState.WAITING:
                return self._not_before
            case MirrorState.SETTLING:
                return self._settled_at
            case MirrorState.LIVE if self._comparing:
                return None if self._next is None else self._settled_at
            case MirrorState.LIVE if self.settings.refresh_every is not None:
                return self._compare_at
            case _:
                return None

    def listeners(self, take: Take) -> tuple[Listener, ...]:
        """What changes are listened for; `take` gets each change once, and whether the filter fits it.

        With a filter the whole table is asked for too: of a row that leaves the filter, and of most that are deleted,
        nothing else is told (protocol §4.3). Both answers are one frame, and its listeners are called in this order.
        """
        settings = self.settings
        whole: ChangesSelector[Any] = ChangesSelector(settings.schema, settings.table, select=settings.select)
        part = replace(whole, filter=settings.filter)
        if settings.filter is None or settings.narrow:
            return (Listener((part,), lambda change: take(change, inside=True)),)
        fitting: list[Any] = [None]

        def fits(change: Any) -> None:
            fitting[0] = change

        return Listener((part,), fits), Listener((whole,), lambda change: take(change, inside=fitting[0] is change))

    # --- inputs

    def changes_live(self) -> None:
        """Everything that is committed from now on will be told."""
        if self.state is MirrorState.CLOSED:
            return
        if self.state is MirrorState.JOINING:
            self.error = None
        self._move(MirrorOn.READY)

    def changes_lost(self, error: RealtimeError | None) -> None:
        """Not any more."""
        if self.state is MirrorState.CLOSED:
            return
        self.error = error or self.error
        self._torn, self._reason = True, "gap"
        self._abandon()
        self._move(MirrorOn.LOST)

    def gap(self, gap: Gap) -> None:
        """Changes may have been missed until now."""
        if "changes" in gap.lost:
            self.mark_stale(f"gap: {gap.reason}")

    def said(self, message: System) -> None:
        """A word of the server: said again, it has subscribed us anew, since its worker or our rights are new ones."""
        again = self.state is not MirrorState.JOINING
        if again and (message.extension, message.status, message.message) == (POSTGRES_CHANGES, "ok", SUBSCRIBED):
            self.mark_stale("subscribed anew")

    def mark_stale(self, why: str) -> None:
        """Only a fetch that begins from now on can know."""
        if self.state is MirrorState.CLOSED:
            return
        self._stale = self._stale or why
        if self._comparing:
            self._abandon()
        self._move(MirrorOn.DOUBT)

    def take(self, change: Change[dict[str, Any]], now: Instant, *, inside: bool = True) -> None:
        """A row changed; `inside`: the server says that the filter fits it."""
        if self.state is MirrorState.CLOSED:
            return
        op = self._reader.read(change, inside=inside)
        if op is None:
            return
        if isinstance(op, Undecidable):
            if op.error is not None and self._stale is None:  # one is enough until the next fetch
                self.effects.append(ReportError(op.error))
            self.mark_stale(f"row: {op.why}")
            return
        self._follow(op)
        if self._next is not None:
            self._settle(self._next, op)
            self._await_older(change, now)
        elif self.state is MirrorState.FETCHING or self._comparing:
            self._kept.append(op)
            if len(self._kept) > self.settings.buffer:
                self._overflow(now)

    def read(self, given: Iterable[Any]) -> Rows:
        """What a fetch gave, as `fetched` takes it; may be called anywhere, since it may take its time.

        Raises: RowError: they are no rows.
        """
        select = self.settings.select
        return read_rows(given, self.key, None if select is None else frozenset((*select, *self.key.names)))

    def fetched(self, generation: int, rows: Rows, now: Instant) -> None:
        """The rows have come; an older generation's are dropped."""
        if not self._is_current(generation):
            return
        self._attempt = 0
        self._answered_at = now
        self._settled_at = now.mono + self.settings.settle
        if not self._comparing:
            self._move(MirrorOn.FETCHED)
        kept, self._kept = self._kept, []
        self._next = copy = TableCopy(rows, self._shown)
        for op in kept:
            self._settle(copy, op)

    def failed(self, generation: int, error: RealtimeError, now: Instant) -> None:
        """The fetch raised, or took too long."""
        if not self._is_current(generation):
            return
        self._kept = []
        self._not_before = now.mono + delay(self.settings.backoff, self._attempt, self._random)
        self._attempt += 1
        self.effects.append(ReportError(error))
        if self._comparing:  # the copy is as right as it was
            self._comparing = False
            self._compare_later(now)
            return
        self.error = error
        self._move(MirrorOn.FAILED)

    def tick(self, now: Instant) -> None:
        """A deadline passed."""
        deadline = self.next_deadline
        if deadline is None or deadline > now.mono:
            return
        if self.state is MirrorState.SETTLING:
            self._adopt(now)
            return
        if self._comparing:
            self._take_over(now)
            return
        self._generation += 1
        self._kept = []
        if self.state is MirrorState.LIVE:
            self._comparing = True
        else:
            self._reason, self._stale = self._stale or self._reason, None
            self._move(MirrorOn.DUE)
        self.effects.append(Fetch(self._generation))

    def close(self, error: RealtimeError | None = None) -> None:
        """For good; the copy stays as it is."""
        self.error = error or self.error
        self._abandon()
        self._move(MirrorOn.CLOSE)

    # --- internal

    def _follow(self, op: Put | Drop) -> None:
        """Apply a change to the copy that users see."""
        if self._copy is None or (self._torn and isinstance(op, Put) and op.unsent):
            return
        odd = self._compare(op, self._copy) if isinstance(op, Put) and not self._compared else None
        delta = self._copy.follow(op)
        if isinstance(delta, Undecidable):
            if self.state is MirrorState.LIVE:  # else it will be replaced anyway
                self.mark_stale(f"row: {delta.why}")
        elif delta is not None:
            self.effects.append(Emit(delta))
        if odd is not None:
            self.effects.append(ReportError(odd))

    def _settle(self, copy: TableCopy, op: Put | Drop) -> None:
        """Apply a change to the new copy."""
        unclear = copy.replay(op)
        if unclear is not None:
            self.mark_stale(f"row: {unclear.why}")

    def _await_older(self, change: Change[Any], now: Instant) -> None:
        """A server that tells of what was committed before the answer is behind: more of it may come."""
        try:
            committed = change.commit_timestamp
        except RowError:
            return
        if committed is not None and committed < self._answered_at.at():
            longest = self._answered_at.mono + LONGEST * self.settings.settle
            self._settled_at = max(self._settled_at, min(now.mono + self.settings.settle, longest))

    def _adopt(self, now: Instant) -> None:
        """The new copy takes the place of the old one."""
        assert self._next is not None
        reason = self._reason if self._copy is not None else "first"
        before, self._copy, self._next = self.rows, self._next, None
        self._torn, self._not_before = False, now.mono + PAUSE
        if self._stale is None:
            self.error = None
            self._move(MirrorOn.SETTLED)
        else:
            self._move(MirrorOn.UNSETTLED)
        self._compare_later(now)
        self.effects.append(Emit(Resynced(reason, before, dict(self._copy.rows), self._shown)))

    def _take_over(self, now: Instant) -> None:
        """Apply and tell what differs between the copy and the rows that were fetched to compare it with."""
        assert self._next is not None
        before, after = self.rows, self._next
        self._next, self._comparing = None, False
        self._compare_later(now)
        if before.keys() != after.rows.keys() or not all(same_row(row, after.rows[key]) for key, row in before.items()):
            self._copy = after
            self.effects.append(Emit(Resynced("compared", before, dict(after.rows), self._shown)))

    def _compare_later(self, now: Instant) -> None:
        """Compare after `refresh_every`, counted from the end of the last fetch, and not with all other clients."""
        every = self.settings.refresh_every
        if every is not None:
            self._compare_at = max(now.mono + every * self._random.uniform(*_JITTER), self._not_before)

    def _compare(self, op: Put, copy: TableCopy) -> InvalidArgumentError | None:
        """Once: rows of both sources must be of one make, or values would change their type with the first change."""
        old = copy.rows.get(op.old_key)
        difference = None if old is None else unlike(op.row, old, op.columns)
        self._compared = old is not None
        if difference is None:
            return None
        hint = (
            "Leave plain=True out, or let fetch give JSON values as PostgREST does."
            if self.settings.plain
            else "With rows of PostgREST or supabase-py say plain=True; or give a model=."
        )
        return InvalidArgumentError(f"of one row, {difference}", hint=hint)

    def _overflow(self, now: Instant) -> None:
        error = SlowConsumerError(
            f"more than {self.settings.buffer} changes came while the rows of {self.settings.table} were fetched",
            hint="Raise buffer=, or make fetch quicker; it is tried again.",
        )
        self.effects.append(Abandon(self._generation))
        self.failed(self._generation, error, now)

    def _abandon(self) -> None:
        """Whatever a fetch has given, or will give, counts no more."""
        if self.state is MirrorState.FETCHING or (self._comparing and self._next is None):
            self.effects.append(Abandon(self._generation))
        self._kept, self._next, self._comparing = [], None, False

    def _is_current(self, generation: int) -> bool:
        fetches = self.state is MirrorState.FETCHING or (self._comparing and self._next is None)
        return fetches and generation == self._generation

    def _move(self, on: MirrorOn) -> None:
        move = MIRROR.get((self.state, on))
        if move is None:
            raise LocalProtocolError(f"the mirror is {self.state.name}; {on.name} is no move from there")
        self.state = move.next  # the only assignment of a mirror's state
