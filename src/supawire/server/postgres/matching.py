"""Compute the frames for committed changes, one batch at a time, with the real server's algorithm.

For each change and role: check the primary key and the privileges, find the subscriptions whose filters hold and the
identities that can see the row, and write one text for each list of columns. Database queries: table facts unless
cached, one for filters that only PostgreSQL can evaluate, and one per identity for tables with row level security.
See docs/protocol.md, Delivery of changes.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from supawire.server.changes import Delivery
from supawire.server.postgres import filtering, rows, visibility
from supawire.server.postgres.catalog import Catalog, Facts
from supawire.server.postgres.database import Database
from supawire.server.postgres.filtering import PendingCheck
from supawire.server.postgres.pgoutput import UNCHANGED, Relation
from supawire.server.postgres.replication import RowChange
from supawire.server.postgres.rows import Changed, RowLayout, View
from supawire.server.postgres.subscriptions import Identity, SubscriptionTable, TableSubscription
from supawire.server.postgres.values import Writers
from supawire.server.postgres.visibility import CatalogCache, Key, Seen

Select: TypeAlias = tuple[str, ...] | None
NOTHING: Final = Seen(frozenset(), frozenset())
MOST_WARNINGS: Final = 1_000
"""Maximum number of columns for which a warning is logged."""

logger: Final = logging.getLogger("supawire.server")


class _Hit(NamedTuple):
    """A subscription that matches a change, provided that its pending check holds and its identity can see the row."""

    listing: TableSubscription
    doubts: tuple[PendingCheck, ...]


class _Case(NamedTuple):
    """One change for one role. error: why the role's subscriptions receive no data."""

    number: int
    row: Changed
    facts: Facts
    error: str | None
    hits: list[_Hit]


class Matcher:
    """Holds the subscriptions and computes the deliveries for changes."""

    def __init__(self, database: Database, catalog: Catalog, book: SubscriptionTable, *, isolate: bool = False) -> None:
        self._database = database
        self._isolate = isolate
        self._catalog = catalog
        self._facts = CatalogCache(catalog)
        self._book = book
        self.limit: int | None = None
        """Maximum bytes of a change; larger ones are sent without data. See docs/protocol.md, Payload size."""
        self._writers: Final = Writers(catalog.types)
        self._layouts: dict[int, RowLayout] = {}
        self._warned: set[tuple[int, str]] = set()

    async def deliveries(self, changes: Iterable[RowChange], only: frozenset[int] | None = None) -> list[Delivery]:
        """Return the deliveries for these changes, in order. Raises: PolicyFailed, DatabaseError."""
        wanted = [change for change in changes if self._book.of_table(change.relation.oid)]
        if not wanted:
            return []
        await self._know(wanted)
        relations = {change.relation.oid: change.relation for change in wanted}
        roles = {listing.viewer.role for oid in relations for listing in self._book.of_table(oid)}
        xids = {change.begin.xid for change in wanted}
        facts = await self._facts.of(relations.keys(), roles, xids)
        await rows.fill(self._database, self._catalog.types, self._writers, wanted)
        cases = self._cases(wanted, facts, only)
        answers = await filtering.ask(self._database, _doubts(cases))
        keys = _keys(cases, answers)
        looks = {viewer: list(numbered.items()) for viewer, numbered in keys.items()}
        seen = await visibility.seen(self._database, looks, xids, isolate=self._isolate)
        return _told(cases, answers, seen)

    async def _know(self, changes: Sequence[RowChange]) -> None:
        """Load the types of each table version in the stream."""
        new: dict[int, Relation] = {}
        for change in changes:
            layout = self._layouts.get(change.relation.oid)
            if layout is None or layout.relation is not change.relation:
                new[id(change.relation)] = change.relation
        await self._catalog.learn(column.type for relation in new.values() for column in relation.columns)

    def _layout(self, relation: Relation) -> RowLayout:
        layout = self._layouts.get(relation.oid)
        if layout is None or layout.relation is not relation:
            layout = self._layouts[relation.oid] = RowLayout.of(relation, self._catalog.types, self._writers)
        return layout

    def _cases(
        self, changes: Sequence[RowChange], facts: Mapping[tuple[int, str], Facts], only: frozenset[int] | None
    ) -> list[_Case]:
        cases: list[_Case] = []
        wanted: dict[tuple[int, str], list[tuple[str, list[TableSubscription]]]] = {}
        for number, change in enumerate(changes):
            what = change.relation.oid, change.type
            by_role = wanted.get(what)
            if by_role is None:
                by_role = wanted[what] = self._by_role(*what, only)
            if not by_role:
                continue
            row = Changed(change, self._layout(change.relation), self.limit)
            if row.failed:
                self._warn(change.relation, row.failed)
            for role, listings in by_role:
                known = facts.get((change.relation.oid, role))
                if known is not None:
                    error = rows.error_of(row, known)
                    hits = [hit for one in listings if (hit := _match(one, row, error)) is not None]
                    cases.append(_Case(number, row, known, error, hits))
        return cases

    def _warn(self, relation: Relation, columns: Collection[str]) -> None:
        """Log each column that had a value without JSON once."""
        for name in columns:
            place = relation.oid, name
            if place not in self._warned and len(self._warned) < MOST_WARNINGS:
                self._warned.add(place)
                logger.warning(
                    "a value of column %s of table %s.%s cannot be written as JSON and is left out; on the real server "
                    "all changes that are polled together with it are lost",
                    *(name, relation.schema, relation.table),
                )

    def _by_role(self, oid: int, type: str, only: frozenset[int] | None) -> list[tuple[str, list[TableSubscription]]]:
        """Return the subscriptions to changes of this type by role, restricted to the channels in `only` if given."""
        found: dict[str, list[TableSubscription]] = {}
        for listing in self._book.of_table(oid):
            if listing.wants(type) and (only is None or listing.channel in only):
                found.setdefault(listing.viewer.role, []).append(listing)
        return sorted(found.items())


def _match(listing: TableSubscription, row: Changed, error: str | None) -> _Hit | None:
    if error is not None or not listing.conditions:
        return _Hit(listing, ())
    doubts: list[PendingCheck] = []
    for condition in listing.conditions:
        written = row.judged.get(condition.column)
        if written is None:
            return None
        value, kind = filtering.given(written), row.layout.type_of(condition.column)
        verdict = filtering.decide(condition, kind, value)
        if verdict is False:
            return None
        if verdict is None and value is not None:
            doubts.append(PendingCheck(condition, kind, value))
    return _Hit(listing, tuple(doubts))


def _doubts(cases: Iterable[_Case]) -> list[PendingCheck]:
    return [doubt for case in cases for hit in case.hits for doubt in hit.doubts]


def _holds(hit: _Hit, answers: Mapping[PendingCheck, bool]) -> bool:
    return not hit.doubts or all(answers[doubt] for doubt in hit.doubts)


def _secured(case: _Case) -> bool:
    return case.error is None and case.facts.row_security and case.row.new is not None


def _keys(cases: Iterable[_Case], answers: Mapping[PendingCheck, bool]) -> dict[Identity, dict[int, Key]]:
    """Return by identity the rows whose visibility must be checked, without duplicates."""
    wanted: dict[Identity, dict[int, Key]] = {}
    for case in cases:
        if not _secured(case):
            continue
        key = _key(case)
        for hit in case.hits:
            if key is not None and _holds(hit, answers):
                wanted.setdefault(hit.listing.viewer, {})[case.number] = key
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


def _told(
    cases: Iterable[_Case], answers: Mapping[PendingCheck, bool], seen: Mapping[Identity, Seen]
) -> list[Delivery]:
    told: list[Delivery] = []
    views: dict[tuple[int, Select], View] = {}
    for case in cases:
        visible, failed = _sorted(case, answers, seen)
        for select in sorted(visible, key=_place):
            if case.error is not None:
                data = rows.refused(case.row, case.error)
            else:
                view = views.get((id(case.facts), select))
                if view is None:
                    view = views[id(case.facts), select] = View(case.facts, select)
                data = rows.data(case.row, view)
            told += _frames(case, visible[select], data)
        for select in sorted(failed, key=_place):
            told += _frames(case, failed[select], rows.refused(case.row, rows.POLICY_FAILED))
    return told


def _sorted(
    case: _Case, answers: Mapping[PendingCheck, bool], seen: Mapping[Identity, Seen]
) -> tuple[dict[Select, list[TableSubscription]], dict[Select, list[TableSubscription]]]:
    """Return by list of columns: the subscriptions that receive the row, and those for which a policy failed."""
    visible: dict[Select, list[TableSubscription]] = {}
    failed: dict[Select, list[TableSubscription]] = {}
    secured = _secured(case)
    for hit in case.hits:
        listing = hit.listing
        if not _holds(hit, answers):
            continue
        sight = seen.get(listing.viewer, NOTHING) if secured else None
        if sight is None or case.number in sight.visible:
            visible.setdefault(listing.select, []).append(listing)
        elif case.number in sight.failed:
            failed.setdefault(listing.select, []).append(listing)
    return visible, failed


def _place(select: Select) -> str:
    return ",".join(select or ())


def _frames(case: _Case, listings: Iterable[TableSubscription], data: bytes) -> list[Delivery]:
    """Return one delivery per channel, with the ids of all its matching bindings."""
    ids: dict[int, list[int]] = {}
    for listing in listings:
        ids.setdefault(listing.channel, []).append(listing.id)
    return [Delivery(channel, tuple(own), case.row.change.type, data) for channel, own in ids.items()]
