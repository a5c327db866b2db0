"""A live copy of a table: subscribe, wait until changes are live, fetch the rows, and apply changes to them.

Why the copy ends up correct:

* Changes arrive in commit order, and from *ready* on none is missing outside a gap. After a gap everything is fetched
  again, and also after a repeated *ready*: the server's worker may have been replaced, and a new one does not know
  what was committed before it started.
* A fetch sees the table at some commit after it began. Changes received before it began are included in it. Changes
  received later are buffered and applied to the fetched rows in order. The fetch may include some of those already,
  and nothing says which, so a row may go back to an older state until the following changes arrive. Once the last
  change that the fetch includes has arrived, every row is as fetched, or newer.
* Therefore the new copy is built separately and replaces the old one after `settle` seconds, since the server may
  deliver changes up to 0.5 s late; longer while it still sends commits from before the answer. Only then is the
  mirror *live*. Meanwhile the old copy follows the changes, so that users never see a row go back.
* After an incomplete change, such as a row over a megabyte, the copy is stale until a fetch that begins later. If it
  arrives during a fetch, that fetch is not interrupted: each result is shown, but does not make the mirror live. If the
  user can fetch single rows (`by_row`), only that row is fetched, see `row_fetch`; the mirror is not live until then.
* The server may lose changes silently, for example when its database restarts. With `refresh_every`, a live copy is
  compared with newly fetched rows at intervals, or with the help of a verifier, see `verification`. The mirror stays
  live meanwhile, and only differences are applied and reported. If the copy becomes stale, the comparison is abandoned,
  since a new fetch is needed anyway.

The shell reports events with their time, performs the effects in order, and calls `tick` at the deadline. Like the
rest of the core, this module does no I/O, never blocks and calls no user code.

See docs/protocol.md, Delivery of changes.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, cast

from msgspec import Struct
from msgspec.structs import replace

from supawire._mirror_events import (
    MirrorEvent,
    MirrorState,
    Resynced,
    Row,
    RowDeleted,
    RowInserted,
    Rows,
    RowUpdated,
    RowView,
    same_row,
)
from supawire._server_errors import SUBSCRIBED
from supawire.core.frames import POSTGRES_CHANGES
from supawire.core.listeners import Listener
from supawire.core.pacing import Uniform, delay
from supawire.core.row_fetch import AbandonRow, Answer, FetchRow, RowFetches
from supawire.core.states import MIRROR, MirrorTrigger
from supawire.core.table_copy import (
    ChangeReader,
    Delta,
    Drop,
    Incomplete,
    Key,
    KeyColumns,
    Put,
    TableCopy,
    Undecidable,
    read_rows,
    type_difference,
)
from supawire.core.verification import (
    AbandonVerification,
    Changed,
    Differences,
    Finding,
    Verification,
    Verify,
)
from supawire.errors import InvalidArgumentError, LocalProtocolError, RealtimeError, RowError, SlowConsumerError
from supawire.events import Change, Gap, Instant, System
from supawire.options import Backoff
from supawire.selectors import ChangesSelector


class MirrorSettings(Struct, frozen=True):
    """Settings of a mirror.

    filter: None for all rows. narrow: subscribe only to changes that match the filter. plain: rows as plain JSON.
    settle: seconds to wait after a fetch for changes that it already includes. backoff: between failed fetches.
    buffer: maximum number of changes buffered during a fetch. refresh_every: seconds between comparisons of a live copy
    with the table, None for none; verified: with a verifier; version: the column with the version of each row, None if
    there is none. save_every: seconds between saves of the copy, None for none. by_row: fetch single rows that came
    incomplete, at most `most_rows` at once. pause: minimum seconds from one fetch result to the next fetch, so that
    several stale rows share one fetch.
    """

    table: str
    key: tuple[str, ...]
    schema: str = "public"
    filter: str | None = None
    filter_columns: frozenset[str] = frozenset()
    select: tuple[str, ...] | None = None
    narrow: bool = False
    plain: bool = False
    has_model: bool = False
    settle: float = 1.0
    backoff: Backoff = Backoff(initial=1.0)
    buffer: int = 10_000
    refresh_every: float | None = None
    verified: bool = False
    version: str | None = None
    save_every: float | None = None
    by_row: bool = False
    most_rows: int = 10
    pause: float = 1.0


class Fetch(Struct, frozen=True):
    """Fetch the rows. The result comes back with this generation."""

    generation: int


class Abandon(Struct, frozen=True):
    """Cancel the fetch of this generation."""

    generation: int


class Emit(Struct, frozen=True):
    """Report a change of the copy, which already contains the changes of all `Emit` that follow in the queue."""

    event: MirrorEvent[Any]


class ReportError(Struct, frozen=True):
    """Report an error that no caller is waiting for."""

    error: RealtimeError


class SaveCopy(Struct, frozen=True):
    """Save the copy: these rows by key, None for one that is gone; whole: these are all rows. Report it by `saved`."""

    rows: Mapping[Key, Row | None]
    whole: bool


class MirrorCounts(Struct):
    """Counters of one mirror; see `MirrorStats`."""

    changes: int = 0
    fetches: int = 0
    row_fetches: int = 0
    verifications: int = 0
    differences: int = 0
    verified_at: float | None = None


MirrorEffect = Fetch | Abandon | FetchRow | AbandonRow | Verify | AbandonVerification | SaveCopy | Emit | ReportError


class ChangeCallback(Protocol):
    """Callback for the changes from a mirror's listeners."""

    def __call__(self, change: Change[dict[str, Any]], *, inside: bool) -> None: ...


MAX_SETTLE_FACTOR: Final = 10
"""Maximum multiple of `settle` to wait for a lagging server. Its clock may differ from ours, hence the limit."""


_JITTER: Final = (0.9, 1.1)
"""Factors of `refresh_every` between which the time of the next comparison is drawn."""


class MirrorCore:
    """One live copy without I/O.

    Args: shown: how rows are presented to users. random: source of the jitter.
    """

    def __init__(self, settings: MirrorSettings, shown: RowView, random: Uniform) -> None:
        self.settings = settings
        self.state: MirrorState = MirrorState.JOINING
        self.error: RealtimeError | None = None
        """Why the mirror is not live, if known."""
        self.effects: Final[deque[MirrorEffect]] = deque()
        self.key: Final = KeyColumns(settings.key)
        filter_columns = frozenset[str]() if settings.narrow else settings.filter_columns
        self._reader = ChangeReader(settings.schema, settings.table, self.key, filter_columns, settings.plain)
        self._shown = shown
        self._random = random
        self._copy: TableCopy | None = None
        """The copy that users see, None before the first."""
        self._next: TableCopy | None = None
        """The new copy, not yet settled."""
        self._buffered: list[Put | Drop | Incomplete] = []
        self._generation = 0
        self._attempt = 0
        self._not_before = 0.0
        self._answered_at = Instant(0.0, 0.0)
        self._settled_at = 0.0
        self._compare_at = 0.0
        self._comparing = False
        """Whether a comparison is running while the mirror is live. Its rows settle once `_next` is set."""
        self._missed_changes = False
        """Whether changes were missed, so that values omitted from a change cannot be taken from the copy."""
        self._stale: str | None = None
        """Why the latest fetch may be incomplete; None if it is not."""
        self._reason = "first"
        """Why the latest fetch was started."""
        self._types_checked = settings.has_model
        self._row_fetches: Final = RowFetches(settings.settle, MAX_SETTLE_FACTOR * settings.settle, settings.pause)
        """The fetches of the incomplete rows of the copy, while it is otherwise live."""
        self.verification: Final = Verification(
            settings.version, settings.key, settings.settle, MAX_SETTLE_FACTOR * settings.settle, settings.buffer
        )
        self.counts: Final = MirrorCounts()
        self.is_cached: bool = False
        """Whether the copy is that of an earlier run, as it was saved."""
        self._unsaved: set[Key] | None = None
        """The keys of the rows that have changed since the copy was saved, None if all must be saved."""
        self._saving = False
        self._save_at = 0.0

    @property
    def rows(self) -> Rows:
        """The rows of the copy; must not be modified."""
        return self._copy.rows if self._copy is not None else {}

    @property
    def has_copy(self) -> bool:
        """Whether a first copy exists."""
        return self._copy is not None

    @property
    def next_deadline(self) -> float | None:
        """Time at which `tick` must be called, None for never."""
        match self.state:
            case MirrorState.WAITING:
                return self._not_before
            case MirrorState.SETTLING:
                return self._settled_at
            case MirrorState.LIVE | MirrorState.REFETCHING:
                deadlines = (self._compare_deadline, self._row_fetches.next_deadline, self._save_deadline)
                return min((one for one in deadlines if one is not None), default=None)
            case _:
                return None

    @property
    def _compare_deadline(self) -> float | None:
        """When the next comparison begins, or when the running one ends; None if not known."""
        if self._comparing:
            return None if self._next is None else self._settled_at
        if self.verification.running:
            return self.verification.next_deadline
        return None if self.settings.refresh_every is None else self._compare_at

    @property
    def _save_deadline(self) -> float | None:
        """When the copy is saved, None if it need not be."""
        is_due = self.settings.save_every is not None and not self._saving and self._unsaved != set()
        return self._save_at if is_due else None

    @property
    def incomplete(self) -> tuple[Row, ...]:
        """The known values of the rows that are being fetched, in the state `REFETCHING`."""
        copy = self._copy
        return tuple(copy.incomplete.values()) if copy is not None and self.state is MirrorState.REFETCHING else ()

    def listeners(self, report: ChangeCallback) -> tuple[Listener, ...]:
        """Return the listeners to register; `report` gets each change once, and whether it matches the filter.

        With a filter, changes of the whole table are requested too, because the server does not report rows that leave
        the filter, nor most deletes, to a filtered subscription. Both subscriptions arrive in one frame, and their
        listeners are called in this order.
        """
        settings = self.settings
        whole: ChangesSelector[Any] = ChangesSelector(settings.schema, settings.table, select=settings.select)
        part = replace(whole, filter=settings.filter)
        if settings.filter is None or settings.narrow:
            return (Listener((part,), lambda change: report(change, inside=True)),)
        fitting: list[Any] = [None]

        def fits(change: Any) -> None:
            fitting[0] = change

        return Listener((part,), fits), Listener((whole,), lambda change: report(change, inside=fitting[0] is change))

    # --- inputs

    def changes_live(self) -> None:
        """Record that all commits from now on will be delivered."""
        if self.state is MirrorState.CLOSED:
            return
        if self.state is MirrorState.JOINING:
            self.error = None
        self._move(MirrorTrigger.READY)

    def changes_lost(self, error: RealtimeError | None) -> None:
        """Record that changes are no longer delivered."""
        if self.state is MirrorState.CLOSED:
            return
        self.error = error or self.error
        self._missed_changes, self._reason = True, "gap"
        self._abandon()
        self._stop_verification()
        self._clear_row_fetches()
        self._move(MirrorTrigger.LOST)

    def gap(self, gap: Gap) -> None:
        """Mark the copy as stale, because changes may have been missed."""
        if "changes" in gap.lost:
            self.mark_stale(f"gap: {gap.reason}")

    def system_message(self, message: System) -> None:
        """Mark the copy as stale when "subscribed" is repeated: the server's worker or our permissions are new."""
        again = self.state is not MirrorState.JOINING
        if again and (message.extension, message.status, message.message) == (POSTGRES_CHANGES, "ok", SUBSCRIBED):
            self.mark_stale("subscribed anew")

    def mark_stale(self, why: str) -> None:
        """Mark the copy as stale until a fetch that begins later."""
        if self.state is MirrorState.CLOSED:
            return
        self._stale = self._stale or why
        if self._comparing:
            self._abandon()
        self._stop_verification()
        self._clear_row_fetches()
        self._move(MirrorTrigger.DOUBT)

    def row_changed(self, change: Change[dict[str, Any]], now: Instant, *, inside: bool = True) -> None:
        """Process a change of a row; `inside`: whether it matches the filter, according to the server."""
        if self.state is MirrorState.CLOSED:
            return
        op = self._reader.read(change, inside=inside)
        if op is None:
            return
        self.counts.changes += 1
        if isinstance(op, Undecidable) or (isinstance(op, Incomplete) and not self.settings.by_row):
            self._fetch_all_because(op)
            return
        was_running = self.verification.running
        self.verification.changed((op.key, op.moved_to) if isinstance(op, Drop) else (op.key, op.old_key))
        if was_running:
            self._forward_verification()
            if not self.verification.running:  # too many rows have changed meanwhile
                self._compare_later(now)
        if self._next is not None or self._row_fetches or self.verification.running:
            self._await_older(change, now)
        self._follow(op)
        if self._next is not None:
            self._replay(self._next, op)
        elif self.state is MirrorState.FETCHING or self._comparing:
            self._buffered.append(op)
            if len(self._buffered) > self.settings.buffer:
                self._overflow(now)

    def read(self, given: Iterable[Any]) -> Rows:
        """Convert a fetch result for `fetched`. May run on any thread, because it may take long.

        Raises: RowError: the result does not consist of rows.
        """
        select = self.settings.select
        return read_rows(given, self.key, None if select is None else frozenset((*select, *self.key.names)))

    def fetched(self, generation: int, rows: Rows, now: Instant) -> None:
        """Handle the fetched rows. Results of older generations are dropped."""
        if not self._is_current(generation):
            return
        self._attempt = 0
        self._answered_at = now
        self._settled_at = now.mono + self.settings.settle
        if not self._comparing:
            self._move(MirrorTrigger.FETCHED)
        kept, self._buffered = self._buffered, []
        self._next = copy = TableCopy(rows, self._shown)
        for op in kept:
            self._replay(copy, op)

    def failed(self, generation: int, error: RealtimeError, now: Instant) -> None:
        """Handle that the fetch raised an error or timed out."""
        if not self._is_current(generation):
            return
        self._buffered = []
        self._not_before = now.mono + delay(self.settings.backoff, self._attempt, self._random)
        self._attempt += 1
        self.effects.append(ReportError(error))
        if self._comparing:  # the copy is as good as before
            self._comparing = False
            self._compare_later(now)
            return
        self.error = error
        self._move(MirrorTrigger.FAILED)

    def read_row(self, key: Row, given: Any) -> Row | None:
        """Convert the row fetched for a key, for `row_fetched`. May run on any thread.

        Raises: RowError: the result is not a row, or a row with another key.
        """
        if given is None:
            return None
        if not isinstance(given, Mapping):
            raise RowError(
                f"fetch_row must return a row, which is a mapping from column to value, or None, not {type(given)!r}",
                hint="An answer of supabase-py has a list of rows in `.data`; return the only one, or None.",
            )
        ((found, row),) = self.read((cast("Any", given),)).items()
        if found != self.key.of(key):
            raise RowError(f"fetch_row returned the row with the key {found!r} when it was called with {key!r}")
        return row

    def row_fetched(self, number: int, row: Row | None, now: Instant) -> None:
        """Handle the fetched row, None if there is none with its key. Results of abandoned fetches are dropped."""
        self._show(self._row_fetches.answered(number, row, now))

    def row_failed(self, number: int, error: RealtimeError) -> None:
        """Fetch all rows, because the fetch of a single row raised an error or timed out."""
        if self._row_fetches.failed(number):
            self.effects.append(ReportError(error))
            self.error = error
            self.mark_stale("row: it could not be fetched")

    def restore(self, rows: Rows) -> None:
        """Show the rows of an earlier run, unless there are newer ones already. They are not live."""
        if self._copy is None and self.state is not MirrorState.CLOSED:
            self.is_cached = self._missed_changes = True
            self._copy = TableCopy(rows, self._shown)
            self.effects.append(Emit(Resynced("cache", {}, dict(rows), self._shown)))

    def save(self, now: Instant) -> None:
        """Save what has changed, if the copy is live and is not being saved."""
        if self._save_deadline is None or not self._is_followed or self._copy is None:
            return
        rows, keys = self._copy.rows, self._unsaved
        changed = dict(rows) if keys is None else {key: rows.get(key) for key in keys}
        self._unsaved, self._saving = set(), True
        self._save_at = now.mono + (self.settings.save_every or 0.0)
        self.effects.append(SaveCopy(changed, keys is None))

    def saved(self, *, complete: bool) -> None:
        """Record that the copy was saved; complete: False if it was not, and all rows must be saved the next time."""
        self._saving = False
        if not complete:
            self._unsaved = None

    def verified(self, number: int, answer: Any, now: Instant) -> None:
        """Handle the result of a request to the verifier. Results of abandoned requests are dropped."""
        finding = self.verification.answered(number, answer, now)
        self._forward_verification()
        self._apply_finding(finding, now)

    def verification_failed(self, number: int, error: RealtimeError, now: Instant) -> None:
        """Verify later, because the verifier raised an error or timed out; the copy is as good as before."""
        if self.verification.failed(number):
            self.effects.append(ReportError(error))
            self._compare_later(now)

    def tick(self, now: Instant) -> None:
        """Handle the deadline if it has passed."""
        deadline = self.next_deadline
        if deadline is None or deadline > now.mono:
            return
        match self.state:
            case MirrorState.SETTLING:
                self._adopt(now)
            case MirrorState.WAITING:
                self._reason, self._stale = self._stale or self._reason, None
                self._move(MirrorTrigger.DUE)
                self._fetch()
            case _:
                self._tick_live(now)

    def _tick_live(self, now: Instant) -> None:
        """Handle the deadlines of the fetches of single rows and of the comparison."""
        for answer in self._row_fetches.due(now):
            self._show(answer)
            self._complete(answer)
        self._fetch_incomplete()
        if (save_at := self._save_deadline) is not None and save_at <= now.mono:
            self.save(now)
        deadline = self._compare_deadline
        if not self._is_followed or deadline is None or deadline > now.mono:
            return
        if self._comparing:
            self._finish_comparison(now)
        elif self.verification.running:
            assert self._copy is not None
            finding = self.verification.tick(self._copy.rows, self._copy.incomplete, now)
            self._forward_verification()
            self._apply_finding(finding, now)
        elif self.settings.verified:
            self.verification.begin(len(self.rows))
            self._forward_verification()
        else:
            self._compare()

    def close(self, error: RealtimeError | None = None) -> None:
        """Close permanently. The copy keeps its last state."""
        self.error = error or self.error
        self._abandon()
        self._stop_verification()
        self._clear_row_fetches()
        self._move(MirrorTrigger.CLOSE)

    # --- internal

    @property
    def _is_followed(self) -> bool:
        """Whether the copy equals the table, except for single rows that are being fetched."""
        return self.state in (MirrorState.LIVE, MirrorState.REFETCHING)

    def _fetch(self) -> None:
        self._generation += 1
        self._buffered = []
        self.counts.fetches += 1
        self.verification.fetch_began()
        self.effects.append(Fetch(self._generation))

    def _compare(self) -> None:
        """Fetch the rows to compare them with the copy, which stays live."""
        self._comparing = True
        self._fetch()

    def _follow(self, op: Put | Drop | Incomplete) -> None:
        """Apply a change to the copy that users see."""
        copy = self._copy
        is_whole = isinstance(op, Drop) or (isinstance(op, Put) and not op.unsent)
        if copy is None or (self._missed_changes and not is_whole):
            return
        odd = self._check_types(op, copy) if isinstance(op, Put) and not self._types_checked else None
        if not is_whole:
            self.verification.merged()
        result = op if isinstance(op, Incomplete) else copy.follow(op)
        if isinstance(result, Incomplete) and self.settings.by_row:
            again = self._row_fetches.changed(result.key) if result.key in self._row_fetches else None
            self._emit(copy.mark_incomplete(result))
            self._show(again)
        elif isinstance(result, Incomplete | Undecidable):
            if self._is_followed:  # otherwise it will be replaced anyway
                self.mark_stale(f"row: {result.why}")
        else:
            self._emit(result)
        if self._is_followed and (copy.incomplete or self._row_fetches):
            self._fetch_incomplete()
        if odd is not None:
            self.effects.append(ReportError(odd))

    def _replay(self, copy: TableCopy, op: Put | Drop | Incomplete) -> None:
        """Apply a change to the new copy."""
        unclear = op if isinstance(op, Incomplete) else copy.replay(op)
        if unclear is None:
            return
        if self.settings.by_row:
            copy.mark_incomplete(unclear)
        else:
            self.mark_stale(f"row: {unclear.why}")

    def _emit(self, delta: Delta | None) -> None:
        if delta is None:
            return
        self.effects.append(Emit(delta))
        if self._unsaved is not None and self.settings.save_every is not None:
            match delta:
                case RowInserted(row):
                    self._unsaved.add(self.key.of(row))
                case RowUpdated(row, old):
                    self._unsaved.update((self.key.of(row), self.key.of(old)))
                case RowDeleted(old):
                    self._unsaved.add(self.key.of(old))
            if len(self._unsaved) > self.settings.buffer:
                self._unsaved = None

    def _fetch_all_because(self, op: Incomplete | Undecidable) -> None:
        """Fetch all rows, because a change did not tell the whole row."""
        if isinstance(op, Incomplete) and self._copy is not None:
            self._copy.incomplete[op.key] = op.row  # later changes without all values cannot be applied to it either
        elif isinstance(op, Undecidable) and op.error is not None and self._stale is None:
            self.effects.append(ReportError(op.error))  # one until the next fetch
        self.mark_stale(f"row: {op.why}")

    # --- internal: single rows

    def _fetch_incomplete(self) -> None:
        """Fetch the incomplete rows of the copy one by one, or all rows if there are too many."""
        assert self._copy is not None
        incomplete = self._copy.incomplete
        if len(incomplete) > self.settings.most_rows:
            self.mark_stale(f"row: more than {self.settings.most_rows} are incomplete")
            return
        self._row_fetches.keep({key: self.key.values(row) for key, row in incomplete.items()})
        self._forward_row_fetches()
        if incomplete and self.state is MirrorState.LIVE:
            self._move(MirrorTrigger.INCOMPLETE)
        elif not incomplete and self.state is MirrorState.REFETCHING:
            self._move(MirrorTrigger.COMPLETE)

    def _show(self, answer: Answer | None) -> None:
        """Show a fetched row in the copy."""
        if answer is not None and self._copy is not None:
            self._emit(self._copy.show_fetched(*answer))

    def _complete(self, answer: Answer) -> None:
        """Record that a shown row is the current one."""
        if self._copy is not None:
            self._copy.incomplete.pop(answer[0], None)

    def _clear_row_fetches(self) -> None:
        self._row_fetches.clear()
        self._forward_row_fetches()

    def _forward_row_fetches(self) -> None:
        self.counts.row_fetches += sum(isinstance(effect, FetchRow) for effect in self._row_fetches.effects)
        self.effects.extend(self._row_fetches.effects)
        self._row_fetches.effects.clear()

    # --- internal: verification

    def _apply_finding(self, finding: Finding | None, now: Instant) -> None:
        """Fetch the rows that differ one by one, or all rows if there are too many; or compare all."""
        match finding:
            case Changed():
                self._compare()
            case Differences(keys, disputed):
                if not keys and self.verification.has_merged:
                    self._compare()
                else:
                    self._count_verification(len(keys), now)
                    self._compare_later(now)
                if disputed:
                    self.effects.append(ReportError(_dispute(disputed)))
                if len(keys) > (self.settings.most_rows if self.settings.by_row else 0):
                    self.mark_stale(f"verify: {len(keys)} rows differ")
                elif keys:
                    assert self._copy is not None
                    for key in keys:
                        self._copy.incomplete[key] = self._copy.rows.get(key) or self.key.values_of(key)
                    self._fetch_incomplete()
            case None:
                pass

    def _count_verification(self, differences: int, now: Instant) -> None:
        self.counts.verifications += 1
        self.counts.differences += differences
        self.counts.verified_at = now.wall

    def _stop_verification(self) -> None:
        self.verification.stop()
        self._forward_verification()

    def _forward_verification(self) -> None:
        self.effects.extend(self.verification.effects)
        self.verification.effects.clear()

    # --- internal: all rows

    def _await_older(self, change: Change[Any], now: Instant) -> None:
        """Extend the settle time if the change was committed before the fetch result: the server is lagging."""
        try:
            committed = change.commit_timestamp
        except RowError:
            return
        if committed is None:
            return
        self._row_fetches.await_older(committed, now)
        self.verification.await_older(committed, now)
        if self._next is not None and committed < self._answered_at.at():
            longest = self._answered_at.mono + MAX_SETTLE_FACTOR * self.settings.settle
            self._settled_at = max(self._settled_at, min(now.mono + self.settings.settle, longest))

    def _adopt(self, now: Instant) -> None:
        """Replace the old copy with the new one."""
        assert self._next is not None
        reason = self._reason if self._copy is not None and not self.is_cached else "first"
        before, self._copy, self._next = self.rows, self._next, None
        self._missed_changes, self._not_before = False, now.mono + self.settings.pause
        self.is_cached, self._unsaved = False, None
        if self._stale is None:
            self.error = None
            self.verification.confirm()
            self._move(MirrorTrigger.SETTLED)
        else:
            self._move(MirrorTrigger.UNSETTLED)
        self._compare_later(now)
        self.effects.append(Emit(Resynced(reason, before, dict(self._copy.rows), self._shown)))
        if self._is_followed and self._copy.incomplete:
            self._fetch_incomplete()

    def _finish_comparison(self, now: Instant) -> None:
        """Apply and report the differences between the copy and the rows fetched for comparison."""
        assert self._next is not None
        assert self._copy is not None
        copy, after = self._copy, self._next
        self._next, self._comparing = None, False
        self._compare_later(now)
        self.verification.confirm()
        after.keep_incomplete(copy)
        before, self._copy = copy.rows, after
        differing = before.keys() ^ after.rows.keys()
        differing |= {key for key, row in before.items() if key in after.rows and not same_row(row, after.rows[key])}
        self._count_verification(len(differing - copy.incomplete.keys()), now)
        if differing:
            self._unsaved = None
            self.effects.append(Emit(Resynced("compared", before, dict(after.rows), self._shown)))
        if copy.incomplete:
            self._fetch_incomplete()

    def _compare_later(self, now: Instant) -> None:
        """Schedule the next comparison, `refresh_every` after the last fetch, with jitter to spread out clients."""
        every = self.settings.refresh_every
        if every is not None:
            self._compare_at = max(now.mono + every * self._random.uniform(*_JITTER), self._not_before)

    def _check_types(self, op: Put, copy: TableCopy) -> InvalidArgumentError | None:
        """Return an error, once, if fetched rows and changes differ in type: values would change type with a change."""
        old = copy.rows.get(op.old_key)
        difference = None if old is None else type_difference(op.row, old, op.columns)
        self._types_checked = old is not None
        if difference is None:
            return None
        hint = (
            "Omit plain=True, or let fetch return JSON values as PostgREST does."
            if self.settings.plain
            else "For rows of PostgREST or supabase-py pass plain=True; or pass a model=."
        )
        return InvalidArgumentError(f"the types of one row differ: {difference}", hint=hint)

    def _overflow(self, now: Instant) -> None:
        error = SlowConsumerError(
            f"more than {self.settings.buffer} changes arrived while the rows of {self.settings.table} were fetched",
            hint="Increase buffer=, or make fetch faster; it is tried again.",
        )
        self.effects.append(Abandon(self._generation))
        self.failed(self._generation, error, now)

    def _abandon(self) -> None:
        """Cancel a running fetch and discard its results."""
        if self.state is MirrorState.FETCHING or (self._comparing and self._next is None):
            self.effects.append(Abandon(self._generation))
        self._buffered, self._next, self._comparing = [], None, False

    def _is_current(self, generation: int) -> bool:
        fetches = self.state is MirrorState.FETCHING or (self._comparing and self._next is None)
        return fetches and generation == self._generation

    def _move(self, on: MirrorTrigger) -> None:
        move = MIRROR.get((self.state, on))
        if move is None:
            raise LocalProtocolError(f"the mirror is {self.state.name} and cannot handle {on.name}")
        self.state = move.next  # the only assignment of a mirror's state


def _dispute(keys: Iterable[Any]) -> RowError:
    """Return the error for rows that differ from the table again, although they were fetched."""
    some = ", ".join(sorted(map(repr, keys))[:5])
    return RowError(
        f"rows differ from the verifier's although they were fetched: {some}",
        hint="Both must see the same rows: the same filter, rights and table. Each UPDATE must change the version.",
    )
