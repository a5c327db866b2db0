"""Verification of a live mirror: find the rows that differ from the table, without fetching the rows.

The server may lose changes silently. A *verifier*, which queries the user's database, helps to find the rows of which
that is true. What is compared is the *version* of each row: the value of a column that each UPDATE changes, such as
`updated_at`. It is part of the row, so the mirror knows it too, and as text it is the same in PostgreSQL and in Python,
which is not true of every column.

1. The verifier returns a summary: for each bucket of keys (a hash of the key, modulo their number) the number of rows
   and the sum of a hash of key and version. It is a few kilobytes.
2. The summary is compared `settle` seconds later, when the changes that it includes have arrived. Buckets that differ
   may contain lost changes, or only rows that have changed since the summary was made.
3. Of these buckets the verifier returns the keys and versions. Again `settle` seconds later, a row whose version
   differs has lost a change, if no change of it has arrived since this request. If one has, the row is left for the
   next verification.

So a difference counts only if the changes that could explain it would have arrived. Rows that differ are fetched.

Without such a column, a verifier summarizes something else that changes with each change of a row, such as `xmin` of
PostgreSQL, which the mirror does not know. Then a summary only tells whether the table has changed since the copy was
last compared with fetched rows. If it has, the rows are fetched and compared.

A change may omit a large value that did not change; it is taken from the known row. If an earlier change of this value
was lost, the row has the right version and a wrong value. So after such changes the rows are fetched and compared too.

A row that differs again with the same version after it was fetched is reported and left out: verifier and fetch do not
see the same table.
"""

import enum
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Any, Final, Literal
from uuid import UUID

from msgspec import Struct

from supawire._mirror_events import Row, Rows
from supawire.core.table_copy import Key
from supawire.errors import RowError
from supawire.events import Instant

VersionKind = Literal["time", "text"]
"""How a version becomes text: "time": as microseconds since 1970; "text": as it is."""

ROWS_PER_BUCKET: Final = 64
MAX_BUCKETS: Final = 4096

MAX_DISPUTED: Final = 1000
"""Maximum number of rows about which verifier and fetch disagree that are remembered."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Summary(Struct, frozen=True):
    """A verifier's summary. buckets: rows and sum of hashes, by bucket; without the empty ones."""

    buckets: dict[int, tuple[int, int]]
    kind: VersionKind = "text"


class Summarize(Struct, frozen=True):
    """Let the verifier summarize the table. The result, a `Summary`, comes back with the number of the effect."""

    buckets: int


class CompareSummary(Struct, frozen=True):
    """Compare the summary with these rows, which must not be changed. The result is `Differing`."""

    summary: Summary
    buckets: int
    rows: Rows


class Differing(Struct, frozen=True):
    """The buckets that differ, and the keys of the rows of the copy in them."""

    buckets: tuple[int, ...]
    keys: frozenset[Key]


class ListVersions(Struct, frozen=True):
    """Let the verifier list the rows of these buckets. The result is a dict from canonical key to version as text."""

    buckets: int
    chosen: tuple[int, ...]


Request = Summarize | CompareSummary | ListVersions


class Verify(Struct, frozen=True):
    """Carry out a request on a thread. The result comes back with this number."""

    number: int
    request: Request


class AbandonVerification(Struct, frozen=True):
    """Drop the result of the request with this number."""

    number: int


class Differences(Struct, frozen=True):
    """The rows that differ, by key in canonical form, and those that still differ after they were fetched."""

    keys: frozenset[Key]
    disputed: frozenset[Key]


class Changed(Struct, frozen=True):
    """The table has changed since the copy was last compared with fetched rows."""


Finding = Differences | Changed


class _Phase(enum.Enum):
    IDLE = enum.auto()
    SUMMARIZING = enum.auto()
    SETTLING_SUMMARY = enum.auto()
    COMPARING = enum.auto()
    LISTING = enum.auto()
    SETTLING_LIST = enum.auto()


_REQUESTED: Final = (_Phase.SUMMARIZING, _Phase.COMPARING, _Phase.LISTING)


class Verification:
    """The verification of one mirror, one at a time.

    Args: version: the column that has the version of a row, None if the mirror does not know versions. key: the key
        columns. settle: seconds to wait after an answer for changes that it includes; longest: if the server is late.
        max_changes: the most changed rows that are remembered meanwhile; above it, the verification is abandoned.
    """

    def __init__(
        self, version: str | None, key: tuple[str, ...], settle: float, longest: float, max_changes: int
    ) -> None:
        self._version: Final = version
        self._key: Final = key
        self._settle: Final = settle
        self._longest: Final = longest
        self._max_changes: Final = max_changes
        self._phase = _Phase.IDLE
        self._number = 0
        self._buckets = 1
        self._summary: Summary | None = None
        self._confirmed: Summary | None = None
        """The summary of a table without known versions when it was last compared with fetched rows."""
        self._merged = self._confirmed_merged = 0
        """Number of changes that omitted values, and how many of them the last fetch included."""
        self._at_fetch: tuple[Summary | None, int] = (None, 0)
        """The last summary and the number of merged changes when the last fetch began."""
        self._kind: VersionKind = "text"
        self._candidates: frozenset[Key] = frozenset()
        self._listed: dict[Key, str] = {}
        self._touched: set[Key] = set()
        """Keys of the rows that have changed since the list was requested."""
        self._answered_at = Instant(0.0, 0.0)
        self._due_at = 0.0
        self._fetched: dict[Key, str | None] = {}
        """The versions of rows that were fetched because they differed, None for one that was not listed.

        A row is removed when a change of it arrives, and all when copy and table were found equal.
        """
        self.effects: list[Verify | AbandonVerification] = []
        """What the mirror has to do next; it empties the list."""

    @property
    def running(self) -> bool:
        """Whether a verification is running."""
        return self._phase is not _Phase.IDLE

    @property
    def next_deadline(self) -> float | None:
        """Time at which `tick` must be called, None for never."""
        return self._due_at if self._phase in (_Phase.SETTLING_SUMMARY, _Phase.SETTLING_LIST) else None

    def begin(self, rows: int) -> None:
        """Begin; `rows`: the size of the copy, which determines the number of buckets."""
        if self._version is not None:
            wanted = max(1, rows // ROWS_PER_BUCKET)
            self._buckets = min(MAX_BUCKETS, 1 << (wanted - 1).bit_length())
        self._request(_Phase.SUMMARIZING, Summarize(self._buckets))

    def stop(self) -> None:
        """Abandon a running verification."""
        if self._phase in _REQUESTED:
            self.effects.append(AbandonVerification(self._number))
        self._reset()

    def changed(self, keys: Iterable[Key]) -> None:
        """Record that a change of these rows has arrived."""
        keys = tuple(keys)
        for key in keys:
            self._fetched.pop(key, None)
        if self._phase in (_Phase.LISTING, _Phase.SETTLING_LIST):
            self._touched.update(keys)
            if len(self._touched) > self._max_changes:
                self.stop()

    def await_older(self, committed: Any, now: Instant) -> None:
        """Wait longer if a change arrives only now that was committed before the answer: the server is late."""
        if self.next_deadline is not None and committed < self._answered_at.at():
            latest = self._answered_at.mono + self._longest
            self._due_at = max(self._due_at, min(now.mono + self._settle, latest))

    def failed(self, number: int) -> bool:
        """End after an error of the verifier. Return False if it is not running."""
        if number != self._number or self._phase not in _REQUESTED:
            return False
        self._reset()
        return True

    def answered(self, number: int, answer: Any, now: Instant) -> Finding | None:
        """Handle the result of a request. Results of abandoned requests are dropped."""
        if number != self._number or self._phase not in _REQUESTED:
            return None
        self._answered_at, self._due_at = now, now.mono + self._settle
        match self._phase:
            case _Phase.SUMMARIZING if self._version is None:
                return self._end_unversioned(answer)
            case _Phase.SUMMARIZING:
                self._summary, self._kind, self._phase = answer, answer.kind, _Phase.SETTLING_SUMMARY
                return None
            case _Phase.COMPARING if answer.buckets:
                self._candidates = answer.keys
                self._touched.clear()
                self._request(_Phase.LISTING, ListVersions(self._buckets, answer.buckets))
                return None
            case _Phase.COMPARING:
                self._reset()
                self._fetched.clear()
                return Differences(frozenset(), frozenset())
            case _:
                self._listed, self._phase = answer, _Phase.SETTLING_LIST
                return None

    def tick(self, rows: Rows, incomplete: Mapping[Key, Row], now: Instant) -> Finding | None:
        """Handle the deadline if it has passed. `rows`: the copy; `incomplete`: its rows that are being fetched."""
        if self.next_deadline is None or self._due_at > now.mono:
            return None
        if self._phase is _Phase.SETTLING_SUMMARY:
            assert self._summary is not None
            self._request(_Phase.COMPARING, CompareSummary(self._summary, self._buckets, dict(rows)))
            return None
        return self._end(rows, incomplete)

    @property
    def has_merged(self) -> bool:
        """Whether changes have omitted values since the rows were last fetched."""
        return self._merged != self._confirmed_merged

    def merged(self) -> None:
        """Record that a change omitted values, which are taken from the known row."""
        self._merged += 1

    def fetch_began(self) -> None:
        """Record that all rows are being fetched."""
        self._at_fetch = None if self._version is not None else self._summary, self._merged

    def confirm(self) -> None:
        """Record that the copy equals the rows of the last fetch, with the changes since then."""
        self._confirmed, self._confirmed_merged = self._at_fetch

    def compare(self, request: CompareSummary) -> Differing:
        """Compare a summary with rows. May run on any thread, because it may take long."""
        ours: dict[int, tuple[int, int]] = {}
        buckets: dict[int, list[Key]] = {}
        for key, row in request.rows.items():
            text = key_text(row, self._key)
            bucket = bucket_of(text, request.buckets)
            count, total = ours.get(bucket, (0, 0))
            ours[bucket] = count + 1, total + digest_of(text, self._text(row, request.summary.kind))
            buckets.setdefault(bucket, []).append(key)
        theirs = request.summary.buckets
        ours = {bucket: (count, total % 2**64) for bucket, (count, total) in ours.items()}
        differing = tuple(sorted(one for one in ours.keys() | theirs.keys() if ours.get(one) != theirs.get(one)))
        return Differing(differing, frozenset(key for one in differing for key in buckets.get(one, ())))

    # --- internal

    def _text(self, row: Row, kind: VersionKind) -> str:
        assert self._version is not None
        return version_text(row.get(self._version), kind)

    def _request(self, phase: _Phase, request: Request) -> None:
        self._number += 1
        self._phase = phase
        self.effects.append(Verify(self._number, request))

    def _reset(self) -> None:
        self._phase = _Phase.IDLE
        self._listed, self._candidates = {}, frozenset()
        self._touched.clear()

    def _end_unversioned(self, summary: Summary) -> Finding:
        self._reset()
        self._summary = summary
        if self._confirmed is not None and self._confirmed.buckets == summary.buckets:
            return Differences(frozenset(), frozenset())
        return Changed()

    def _end(self, rows: Rows, incomplete: Mapping[Key, Row]) -> Differences:
        """Return the rows that differ, except those that have changed since the list was requested."""
        differing: dict[Key, str | None] = {}
        listed: set[Key] = {*self._candidates, *self._listed}
        for key in listed - self._touched - incomplete.keys():
            row, theirs = rows.get(key), self._listed.get(key)
            ours = None if row is None else self._text(row, self._kind)
            if ours != theirs:
                differing[key] = theirs
        disputed = {key: version for key, version in differing.items() if self._fetched.get(key, ...) == version}
        self._reset()
        fresh = {key: version for key, version in differing.items() if key not in disputed}
        self._fetched = dict([*fresh.items(), *disputed.items()][:MAX_DISPUTED])
        return Differences(frozenset(fresh), frozenset(disputed))


def key_text(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Return a key as text; PostgreSQL has the same text for these types. Raises: RowError: for other types."""
    parts = [_part_text(row[name], name) for name in names]
    return parts[0] if len(parts) == 1 else "".join(f"{len(part)}:{part}" for part in parts)


def _part_text(value: Any, name: str) -> str:
    match value:
        case str():
            return value
        case int() if not isinstance(value, bool):
            return str(value)
        case UUID():
            return str(value)
        case _:
            raise RowError(
                f"a mirror can be verified if its key is of integers, text or UUIDs; {name} is {type(value).__name__}"
            )


def version_text(value: Any, kind: VersionKind) -> str:
    """Return a version as text. Raises: RowError: the value cannot be a version."""
    if value is None:
        return ""
    if kind == "text":
        return str(value)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise RowError(f"{value!r:.80} in the column of the version is not a time") from error
    if not isinstance(value, datetime):
        raise RowError(f"the version of a row must be a time, a number or a text, not a {type(value).__name__}")
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return str((aware - _EPOCH) // _MICROSECOND)


def bucket_of(text: str, buckets: int) -> int:
    """Return the bucket of a key: the first 28 bits of its MD5, modulo the number of buckets."""
    return int(_md5(text)[:7], 16) % buckets


def digest_of(key: str, version: str) -> int:
    """Return the hash of a row: 64 bits of the MD5 of key and version, as a signed number, as PostgreSQL has them."""
    return int.from_bytes(bytes.fromhex(_md5(f"{len(key)}:{key}{version}")[:16]), signed=True)


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()
