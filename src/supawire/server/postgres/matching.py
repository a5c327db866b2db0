"""The table of subscriptions, and the frames for committed changes, computed as on the real server.

For each change and role: check the primary key and the privileges, find the subscriptions whose filters hold and the
identities that can see the row, and write one text for each list of columns. Database queries: table facts unless
cached, one for filters that only PostgreSQL can evaluate, and one per identity for tables with row level security.
See docs/protocol.md, Delivery of changes.

`Polls` simulates the polls of the real server, where one policy that raises makes a whole poll fail. Then no client
receives any change of any table, and no frame reports it. This lasts until the policy no longer raises for the same
rows or its subscriber has left, and for as long again, up to five seconds, because the real server polls less and less
often. Changes committed meanwhile are lost. Developers see it in the log and in the inspector of the local server. See
docs/protocol.md, How the server polls.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from msgspec.json import decode

from supawire.server.app import HubCall
from supawire.server.bindings import ANY
from supawire.server.changes import Delivery
from supawire.server.hub import Hub
from supawire.server.postgres import filtering, row_data, visibility
from supawire.server.postgres.binding_checks import Identity, TableSubscription
from supawire.server.postgres.catalog import Catalog, Facts
from supawire.server.postgres.database import Database
from supawire.server.postgres.filtering import PendingCheck
from supawire.server.postgres.pgoutput import UNCHANGED, CommittedChange, Relation
from supawire.server.postgres.row_data import EncodedChange, RowLayout
from supawire.server.postgres.values import Writers
from supawire.server.postgres.visibility import Failure, Key, PolicyFailed, VisibleRows

Select: TypeAlias = tuple[str, ...] | None
NO_ROWS: Final = VisibleRows(frozenset(), frozenset())
MAX_WARNINGS: Final = 1_000
"""Maximum number of columns for which a warning is logged."""

logger: Final = logging.getLogger("supawire.server")


ChangeKind: TypeAlias = tuple[int, str]
"""The oid of a table, and INSERT, UPDATE or DELETE."""
SubscriptionsByRole: TypeAlias = list[tuple[str, list[TableSubscription]]]


class SubscriptionTable:
    """Subscriptions by table and by channel."""

    def __init__(self) -> None:
        self._tables: dict[int, list[TableSubscription]] = {}
        self._channels: dict[int, frozenset[int]] = {}
        self._identities: dict[int, Identity] = {}
        self.replaced: Final[set[int]] = set()
        """Channels whose claims were replaced since this set was last cleared."""

    @property
    def channels(self) -> Collection[int]:
        """The channels that have subscriptions."""
        return self._channels.keys()

    def __contains__(self, channel: object) -> bool:
        return channel in self._channels

    def select(
        self, kinds: Iterable[ChangeKind], only: frozenset[int] | None
    ) -> Mapping[ChangeKind, SubscriptionsByRole]:
        """Return the subscriptions to each of these kinds of changes; kinds without any have no entry.

        only: the channels to include; None for all.
        """
        found: dict[ChangeKind, SubscriptionsByRole] = {}
        for kind in kinds:
            table, event = kind
            by_role: dict[str, list[TableSubscription]] = {}
            for one in self._tables.get(table, ()):
                if one.event in (ANY, event) and (only is None or one.channel in only):
                    by_role.setdefault(one.identity.role, []).append(one)
            if by_role:
                found[kind] = sorted(by_role.items())
        return found

    def put(self, channel: int, subscriptions: Iterable[tuple[int, TableSubscription]]) -> None:
        """Set a channel's subscriptions, each with its table; replaces earlier ones."""
        former = self._identities.get(channel)
        self.remove(channel)
        tables: set[int] = set()
        for oid, subscription in subscriptions:
            tables.add(oid)
            self._tables.setdefault(oid, []).append(subscription)
            self._identities[channel] = subscription.identity
            if former is not None and subscription.identity != former:
                self.replaced.add(channel)
        self._channels[channel] = frozenset(tables)

    def remove(self, channel: int) -> None:
        """Remove a channel's subscriptions."""
        self._identities.pop(channel, None)
        for oid in self._channels.pop(channel, ()):
            left = [subscription for subscription in self._tables[oid] if subscription.channel != channel]
            if left:
                self._tables[oid] = left
            else:
                del self._tables[oid]

    def identities(self) -> set[Identity]:
        """Return the identities of all subscriptions."""
        return set(self._identities.values())


class _Match(NamedTuple):
    """A subscription that matches a change, provided that its pending checks hold and its identity can see the row."""

    subscription: TableSubscription
    checks: tuple[PendingCheck, ...]


class _Case(NamedTuple):
    """One change for one role. error: why the role's subscriptions receive no data."""

    number: int
    row: EncodedChange
    facts: Facts
    error: str | None
    matches: list[_Match]


class Matcher:
    """Computes the deliveries for changes.

    limit: maximum bytes of a change; larger ones are sent without data. See docs/protocol.md, Payload size.
    isolate: a row policy that raises hides rows from its identity only; otherwise it makes the whole batch fail.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        subscriptions: SubscriptionTable,
        *,
        limit: int | None = None,
        isolate: bool = False,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._subscriptions = subscriptions
        self._limit = limit
        self._isolate = isolate
        self._writers: Final = Writers(catalog.types)
        self._layouts: dict[int, RowLayout] = {}
        self._warned: set[tuple[int, str]] = set()

    async def deliveries(
        self, changes: Iterable[CommittedChange], only: frozenset[int] | None = None
    ) -> list[Delivery]:
        """Return the deliveries for these changes, in order, to the channels in `only` or to all.

        Raises: PolicyFailed, DatabaseError.
        """
        changes = list(changes)
        subscribed = self._subscriptions.select({(one.relation.oid, one.type) for one in changes}, only)
        wanted = [one for one in changes if (one.relation.oid, one.type) in subscribed]
        if not wanted:
            return []
        await self._prepare_layouts(wanted)
        roles = {role for by_role in subscribed.values() for role, _ in by_role}
        xids = {change.begin.xid for change in wanted}
        facts = await self._catalog.facts({oid for oid, _ in subscribed}, roles, xids)
        if computed := [change for change in wanted if self._layouts[change.relation.oid].computed]:
            await row_data.compute_json(self._database, self._catalog.types, self._writers, computed)
        cases = self._cases(wanted, facts, subscribed)
        results: Mapping[PendingCheck, bool] = {}
        if checks := [check for case in cases for match in case.matches for check in match.checks]:
            results = await filtering.evaluate(self._database, checks)
        visible: Mapping[Identity, VisibleRows] = {}
        if keys := _keys(cases, results):
            visible = await visibility.find_visible_rows(
                self._database,
                {identity: list(numbered.items()) for identity, numbered in keys.items()},
                xids,
                isolate=self._isolate,
            )
        return _deliveries(cases, results, visible)

    async def _prepare_layouts(self, changes: Sequence[CommittedChange]) -> None:
        """Load the types of each new table version in the stream."""
        new = {
            id(change.relation): change.relation
            for change in changes
            if (layout := self._layouts.get(change.relation.oid)) is None or layout.relation is not change.relation
        }
        if new:
            await self._catalog.load_types(column.type for relation in new.values() for column in relation.columns)
            for relation in new.values():
                self._layout(relation)

    def _layout(self, relation: Relation) -> RowLayout:
        layout = self._layouts.get(relation.oid)
        if layout is None or layout.relation is not relation:
            layout = self._layouts[relation.oid] = RowLayout.of(relation, self._catalog.types, self._writers)
        return layout

    def _cases(
        self,
        changes: Sequence[CommittedChange],
        facts: Mapping[tuple[int, str], Facts],
        subscribed: Mapping[ChangeKind, SubscriptionsByRole],
    ) -> list[_Case]:
        cases: list[_Case] = []
        for number, change in enumerate(changes):
            row = EncodedChange(change, self._layout(change.relation), self._limit)
            if row.failed:
                self._warn(change.relation, row.failed)
            for role, subscriptions in subscribed[change.relation.oid, change.type]:
                known = facts.get((change.relation.oid, role))
                if known is not None:
                    error = row_data.error_of(row, known)
                    matches = [found for one in subscriptions if (found := _match(one, row, error)) is not None]
                    cases.append(_Case(number, row, known, error, matches))
        return cases

    def _warn(self, relation: Relation, columns: Collection[str]) -> None:
        """Log each column that had a value without JSON once."""
        for name in columns:
            place = relation.oid, name
            if place not in self._warned and len(self._warned) < MAX_WARNINGS:
                self._warned.add(place)
                logger.warning(
                    "a value of column %s of table %s.%s cannot be written as JSON and is left out; on the real server "
                    "all changes that are polled together with it are lost",
                    *(name, relation.schema, relation.table),
                )


def _match(subscription: TableSubscription, row: EncodedChange, error: str | None) -> _Match | None:
    if error is not None or not subscription.conditions:
        return _Match(subscription, ())
    checks: list[PendingCheck] = []
    for condition in subscription.conditions:
        written = row.filtered.get(condition.column)
        if written is None:
            return None
        value, kind = filtering.text_of(written), row.layout.type_of(condition.column)
        verdict = filtering.decide(condition, kind, value)
        if verdict is False:
            return None
        if verdict is None and value is not None:
            checks.append(PendingCheck(condition, kind, value))
    return _Match(subscription, tuple(checks))


def _holds(match: _Match, results: Mapping[PendingCheck, bool]) -> bool:
    return not match.checks or all(results[check] for check in match.checks)


def _needs_visibility_check(case: _Case) -> bool:
    return case.error is None and case.facts.row_security and case.row.new is not None


def _keys(cases: Iterable[_Case], results: Mapping[PendingCheck, bool]) -> dict[Identity, dict[int, Key]]:
    """Return by identity the rows whose visibility must be checked, without duplicates."""
    wanted: dict[Identity, dict[int, Key]] = {}
    for case in cases:
        if not _needs_visibility_check(case):
            continue
        key = _key(case)
        for match in case.matches:
            if key is not None and _holds(match, results):
                wanted.setdefault(match.subscription.identity, {})[case.number] = key
    return wanted


def _key(case: _Case) -> Key | None:
    """Return the primary key of the row; None when the change does not contain it."""
    change, layout = case.row.change, case.row.layout
    names = tuple(sorted(case.facts.key))
    values: list[str] = []
    for name in names:
        place = layout.names.index(name) if name in layout.names else -1
        value = change.new[place] if change.new is not None and place >= 0 else None
        if value is UNCHANGED and change.old is not None:
            value = change.old[place]
        if value is None or value is UNCHANGED:
            return None
        values.append(value.decode())
    types = tuple(layout.type_of(name).whole for name in names)
    return Key(case.facts.sql, names, types, tuple(values))


def _deliveries(
    cases: Iterable[_Case], results: Mapping[PendingCheck, bool], visible: Mapping[Identity, VisibleRows]
) -> list[Delivery]:
    deliveries: list[Delivery] = []
    for case in cases:
        receivers, failed = _receivers(case, results, visible)
        for select in sorted(receivers, key=_sort_key):
            error = case.error
            data = (
                row_data.data(case.row, case.facts, select)
                if error is None
                else row_data.data_without_row(case.row, error)
            )
            deliveries += _frames(case, receivers[select], data)
        for select in sorted(failed, key=_sort_key):
            deliveries += _frames(case, failed[select], row_data.data_without_row(case.row, row_data.POLICY_FAILED))
    return deliveries


def _receivers(
    case: _Case, results: Mapping[PendingCheck, bool], visible: Mapping[Identity, VisibleRows]
) -> tuple[dict[Select, list[TableSubscription]], dict[Select, list[TableSubscription]]]:
    """Return by list of columns: the subscriptions that receive the row, and those for which a policy failed."""
    receivers: dict[Select, list[TableSubscription]] = {}
    failed: dict[Select, list[TableSubscription]] = {}
    check_visibility = _needs_visibility_check(case)
    for match in case.matches:
        subscription = match.subscription
        if not _holds(match, results):
            continue
        found = visible.get(subscription.identity, NO_ROWS) if check_visibility else None
        if found is None or case.number in found.visible:
            receivers.setdefault(subscription.select, []).append(subscription)
        elif case.number in found.failed:
            failed.setdefault(subscription.select, []).append(subscription)
    return receivers, failed


def _sort_key(select: Select) -> str:
    return ",".join(select or ())


def _frames(case: _Case, subscriptions: Iterable[TableSubscription], data: bytes) -> list[Delivery]:
    """Return one delivery per channel, with the ids of all its matching bindings."""
    ids: dict[int, list[int]] = {}
    for subscription in subscriptions:
        ids.setdefault(subscription.channel, []).append(subscription.id)
    return [Delivery(channel, tuple(own), case.row.change.type, data) for channel, own in ids.items()]


MAX_POLL_INTERVAL: Final = 5.0
"""Maximum seconds between two polls of the real server."""
MAX_SHOWN_TEXT: Final = 200
"""Maximum characters shown of a database message or a claim."""

POLICY_RAISED: Final = (
    "changes of rows are lost: a row policy raised %s, so every poll of the real server fails, no client receives any "
    "change of any table and clients are not informed, until that client leaves or the policy is corrected. This "
    "server does the same, unless it is started with isolate_policy_errors=True (--isolate-policy-errors)."
)
CHANGES_RESUMED: Final = "changes of rows are sent again; %d were lost since a row policy raised"


class Polls:
    """Computes the deliveries of each batch; none while a policy raises.

    max_pause: maximum seconds without changes after the cause is gone.
    """

    def __init__(
        self,
        matcher: Matcher,
        subscriptions: SubscriptionTable,
        database: Database,
        call_hub: HubCall,
        *,
        max_pause: float = MAX_POLL_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._matcher: Final = matcher
        self._subscriptions: Final = subscriptions
        self._database: Final = database
        self._call_hub: Final = call_hub
        self._max_pause: Final = max_pause
        self._clock: Final = clock
        self._failing: dict[Identity, Failure] = {}
        self._failing_since = 0.0
        self._resume_at: float | None = None
        """When the next poll succeeds, once the cause is gone."""
        self._lost = 0

    async def deliveries(
        self, changes: Sequence[CommittedChange], only: frozenset[int] | None = None
    ) -> list[Delivery]:
        """Return the deliveries of these changes to the channels in `only`, or all. Raises: DatabaseError."""
        if self._failing:
            await self._retry()
        if not self._failing and (self._resume_at is None or self._clock() >= self._resume_at):
            self._resume()
            try:
                return await self._matcher.deliveries(changes, only)
            except PolicyFailed as failed:
                self._stop(failed.failures)
        self._count_lost(changes)
        return []

    def forget_absent(self) -> None:
        """Drop failures of subscribers that have left; called when a channel ends or subscribes again."""
        if self._failing:
            present = self._subscriptions.identities()
            self._keep({identity: failure for identity, failure in self._failing.items() if identity in present})

    async def _retry(self) -> None:
        self.forget_absent()
        if self._failing:
            self._keep(await visibility.still_failing(self._database, self._failing))

    def _keep(self, failing: dict[Identity, Failure]) -> None:
        if self._failing and not failing:
            now = self._clock()
            self._resume_at = now + min(self._max_pause, now - self._failing_since)
        self._failing = failing

    def _stop(self, failures: Mapping[Identity, Failure]) -> None:
        self._failing, self._failing_since, self._resume_at = dict(failures), self._clock(), None
        what = "; ".join(_describe(identity, failure) for identity, failure in list(failures.items())[:3])
        logger.error(POLICY_RAISED, what)
        problem = f"changes of rows are lost: a row policy raised {what}"
        self._call_hub(Hub.set_changes_problem, problem)

    def _resume(self) -> None:
        if self._resume_at is not None:
            logger.warning(CHANGES_RESUMED, self._lost)
            self._resume_at, self._lost = None, 0
            self._call_hub(Hub.set_changes_problem, None)

    def _count_lost(self, changes: Sequence[CommittedChange]) -> None:
        self._lost += len(changes)
        kinds = {(one.relation.schema, one.relation.table, one.type) for one in changes}
        self._call_hub(Hub.changes_lost, sorted(kinds))


def _describe(identity: Identity, failure: Failure) -> str:
    """Describe the failure: role, claims and error message."""
    claims: Mapping[str, object] = decode(identity.claims)
    subject = f" with sub {repr(claims['sub'])[:MAX_SHOWN_TEXT]}" if "sub" in claims else ""
    return f"for role {identity.role}{subject}: {' '.join(failure.error.split())[:MAX_SHOWN_TEXT]}"
