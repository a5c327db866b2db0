"""Judge facts about the database: pure functions, one for each step."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from supawire.doctor.facts import DatabaseFacts, Facts, MessagesFacts, PolicyFacts, RowsFacts, TableFacts, Target
from supawire.doctor.problems import found
from supawire.doctor.report import Finding
from supawire.doctor.verdict import Verdict, ok, skip

KEPT_LOG: Final = 1_000_000_000
"""Bytes of log that an unread slot may keep without a warning."""
SERVER_SLOTS: Final = "supabase_realtime"
"""How the names of the Realtime server's own slots begin."""
MAX_COLUMNS: Final = 20
"""Most columns that a text lists."""
MAX_NAME: Final = 63
"""Bytes of a name in PostgreSQL."""
KINDS: Final = {"v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence", "c": "type", "i": "index"}
OPERATIONS: Final = ("insert", "update", "delete")
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_$]*")
_BOUNDS: Final = re.compile(r"FROM \('([^']+)'\) TO \('([^']+)'\)")


def quoted(name: str) -> str:
    """Return a name for SQL, in quotation marks where necessary."""
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def qualified(target: Target) -> str:
    """Return schema and table for SQL."""
    return f"{quoted(target.schema)}.{quoted(target.table or '')}"


def _judge_database(facts: Facts) -> Verdict:
    target, database = facts.target, facts.database
    if database is None:
        return skip("no database URL given" if not target.database else "not reached")
    seconds = database.durations.get("database", database.seconds)
    if database.no_answer and not database.version:
        return Verdict.of(
            found("database-unreachable", reason=f"no answer within {database.seconds:.1f} s"), seconds=seconds
        )
    if database.problem is not None:
        return Verdict.of(found(f"database-{database.problem}", reason=database.error), seconds=seconds)
    findings: list[Finding] = []
    other = target.database_project
    if other is not None and target.project is not None and other != target.project:
        findings.append(found("database-other-project", other=other, project=target.project))
    if database.replica:
        findings.append(found("database-replica"))
    if database.incomplete is not None:
        findings.append(found("database-incomplete", reason=database.incomplete))
    return Verdict.of(*findings, seconds=seconds) if findings else ok(f"PostgreSQL {database.version}", seconds=seconds)


def _judge_wal(facts: Facts) -> Verdict:
    database = _connected(facts)
    if isinstance(database, Verdict):
        return database
    seconds = database.durations.get("wal", 0.0)
    findings: list[Finding] = []
    if database.wal_level != "logical":
        findings.append(found("wal-level", level=database.wal_level))
    used = len(database.slots)
    if used >= database.max_slots and not any(slot.name.startswith(SERVER_SLOTS) for slot in database.slots):
        unused = next((slot.name for slot in database.slots if not slot.active), "name")
        names = ", ".join(slot.name for slot in database.slots[:10]) or "none is allowed"
        findings.append(found("slots-used", total=database.max_slots, names=names, unused=unused))
    for slot in database.slots:
        if slot.lost:
            findings.append(found("slot-lost", slot=slot.name))
        elif not slot.active and slot.kept > KEPT_LOG:
            findings.append(found("slot-behind", slot=slot.name, megabytes=slot.kept / 1e6))
    if findings:
        return Verdict.of(*findings, seconds=seconds)
    return ok(f"logical, {used} of {database.max_slots} slots used", seconds=seconds)


def _judge_schema(facts: Facts) -> Verdict:
    database = _connected(facts)
    if isinstance(database, Verdict):
        return database
    seconds = database.durations.get("schema", 0.0)
    if database.missing:
        return Verdict.of(found("schema-missing", missing=_listed(database.missing)), seconds=seconds)
    findings: list[Finding] = []
    today = datetime.fromtimestamp(facts.now, UTC)
    if database.partitioned and not any(_contains(bounds, today) for bounds in database.partitions):
        day = today.date()
        findings.append(
            found("partition-missing", day=day, name=day.strftime("%Y_%m_%d"), next=day + timedelta(days=1))
        )
    if database.old:
        findings.append(found("schema-old", missing=_listed(database.old)))
    return Verdict.of(*findings, seconds=seconds) if findings else ok("prepared", seconds=seconds)


def _contains(bounds: str, now: datetime) -> bool:
    """Return whether a partition has these bounds, as PostgreSQL shows them, around the time; timestamps are in UTC."""
    if bounds == "DEFAULT":
        return True
    match = _BOUNDS.search(bounds[:200])
    if match is None:
        return False
    try:
        start, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in match.groups())
    except ValueError:
        return False
    return start <= now < end


def _judge_table(facts: Facts) -> Verdict:
    target, database = facts.target, _connected(facts)
    if isinstance(database, Verdict):
        return database
    if target.table is None:
        return skip("no table given")
    table, seconds, name = database.table, database.durations.get("table", 0.0), qualified(target)
    if table is None and not database.table_read:
        return skip("it could not be read")
    if table is None:
        near = f"; did you mean {_listed(database.near, 'or')}?" if database.near else ""
        return Verdict.of(found("table-missing", table=name, near=near), seconds=seconds)
    findings = list(_about_table(table))
    return Verdict.of(*findings, seconds=seconds) if findings else ok(_shape(table), seconds=seconds)


def _about_table(table: TableFacts) -> Iterator[Finding]:
    if table.kind in KINDS:
        bases = f": {_listed(table.bases)}" if table.bases else ""
        yield found("table-view", table=table.quoted, kind=KINDS[table.kind], bases=bases)
        return
    if table.kind == "p":
        partitions = f" ({_listed(table.partitions)})" if table.partitions else ""
        yield found("table-partitioned", table=table.quoted, partitions=partitions)
    if table.persistence != "p":
        kind = "temporary" if table.persistence == "t" else "unlogged"
        yield found("table-unlogged", table=table.quoted, kind=kind)
    if not table.key:
        names = [column.name for column in table.columns]
        column = "id" if "id" in names or not names else names[0]
        yield found("key-missing", table=table.quoted, column=quoted(column))


def _shape(table: TableFacts) -> str:
    return f"{table.quoted}, {_counted(len(table.columns))}, key ({', '.join(table.key)})"


def _counted(columns: int) -> str:
    return "1 column" if columns == 1 else f"{columns} columns"


def _judge_publication(facts: Facts) -> Verdict:
    target, database = facts.target, _connected(facts)
    if isinstance(database, Verdict):
        return database
    seconds, table = database.durations.get("table", 0.0), database.table
    if not database.publication:
        if target.table is None:
            return skip("there is none, and no table given")
        listed = f" for table {qualified(target)}" if table is not None and table.kind not in KINDS else ""
        return Verdict.of(found("publication-missing", for_table=listed), seconds=seconds)
    findings: list[Finding] = []
    if table is not None and not table.published and table.kind == "r":
        findings.append(found("table-unpublished", table=table.quoted))
    missing = [name for name in OPERATIONS if name not in database.operations]
    if missing and target.event != "*":
        missing = [name for name in missing if name == target.event.lower()]
    if missing:
        findings.append(found("publication-operations", missing=_listed(missing)))
    if table is not None and table.published and table.narrowed:
        findings.append(found("publication-narrowed", what=table.narrowed, table=table.quoted))
    if findings:
        return Verdict.of(*findings, seconds=seconds)
    return ok("exists" if table is None else f"contains {table.quoted}", seconds=seconds)


def _judge_identity(facts: Facts) -> Verdict:
    target, table = facts.target, _table(facts)
    if isinstance(table, Verdict):
        return table
    if table.kind in KINDS:
        return skip("not a table")
    if table.published and (table.identity == "n" or (table.identity == "d" and not table.key)):
        return Verdict.of(found("identity-nothing", table=table.quoted, identity="default" if table.key else "full"))
    names = {"d": "default (primary key)", "f": "full", "i": "index", "n": "nothing"}
    unseen = [name for name in _filtered(target) if name not in (table.identity_columns or table.key)]
    if target.event in ("*", "DELETE") and unseen and table.identity != "f":
        return Verdict.of(found("identity-filter", columns=_listed(unseen), table=table.quoted))
    hidden = [name for name in _filtered(target) if name not in table.key]
    if target.event in ("*", "DELETE") and hidden and table.row_security:
        return Verdict.of(found("identity-filter-security", columns=_listed(hidden)))
    return ok(names.get(table.identity, table.identity))


def _judge_grants(facts: Facts) -> Verdict:
    target, database = facts.target, _connected(facts)
    if isinstance(database, Verdict):
        return database
    role, seconds = target.role, database.durations.get("table", 0.0)
    if not database.role_exists:
        what = "key" if target.user is target.key else "token"
        return Verdict.of(found("role-missing", role=role, what=what, quoted=quoted(role)), seconds=seconds)
    table = database.table
    if table is None:
        return skip("no table given" if target.table is None else _no_table(database))
    values = {"role": role, "quoted": quoted(role), "table": table.quoted, "schema": quoted(target.schema)}
    findings: list[Finding] = []
    if not table.may_use_schema:
        findings.append(found("grant-schema", **values))
    readable = [column.name for column in table.columns if column.readable]
    if not readable:
        findings.append(found("grant-table", **values))
    else:
        key = [quoted(name) for name in table.key if name not in readable]
        if key:
            findings.append(found("grant-key", **values, columns=", ".join(key)))
        names = {column.name for column in table.columns}
        unread = [quoted(name) for name in _filtered(target) if name in names and name not in readable]
        if unread:
            findings.append(found("grant-filter", **values, columns=", ".join(unread)))
    if findings:
        return Verdict.of(*findings, seconds=seconds)
    hidden = len(table.columns) - len(readable)
    others = f", and not {_counted(hidden)}" if hidden else ""
    return ok(f"{role} may read {_counted(len(readable))}{others}", seconds=seconds)


def _judge_filter(facts: Facts) -> Verdict:
    target = facts.target
    if target.filter_error is not None:
        return Verdict.of(found("filter-invalid", reason=target.filter_error.rstrip(".")))
    if not target.conditions:
        return skip("no filter given")
    table = _table(facts)
    if isinstance(table, Verdict):
        return table
    database = facts.database
    assert database is not None  # else `_table` returns a verdict
    types = {column.name: column.type for column in table.columns}
    findings: list[Finding] = []
    for name in _filtered(target):
        if name not in types:
            listed = _listed(list(types)[:MAX_COLUMNS])
            findings.append(found("filter-column", table=table.quoted, column=name, columns=listed))
        elif name in database.bad_values:
            findings.append(found("filter-value", column=name, type=types[name], reason=database.bad_values[name]))
    return Verdict.of(*findings) if findings else ok("accepted")


def _judge_rows(facts: Facts) -> Verdict:
    target, table = facts.target, _table(facts)
    if isinstance(table, Verdict):
        return table
    database, role = facts.database, target.role
    assert database is not None
    if table.kind in KINDS or not database.role_exists:
        return skip("not a table" if table.kind in KINDS else "the role does not exist")
    if not table.row_security:
        return ok("off: the role sees every row that its privileges allow")
    if table.bypass:
        return ok(f"does not apply to {role}, which sees every row")
    if not any(policy.permissive for policy in _reading(table)):
        return Verdict.of(
            found(
                "rows-no-policy", table=table.quoted, role=role, quoted=quoted(role), policy=_policy(role, "may read")
            )
        )
    return _judge_evaluation(table, role, database.rows)


def _reading(table: TableFacts) -> list[PolicyFacts]:
    return [policy for policy in table.policies if policy.command in ("*", "r")]


def _judge_evaluation(table: TableFacts, role: str, rows: RowsFacts | None) -> Verdict:
    """Judge what the role sees of a table whose policies apply to it."""
    if rows is None or rows.skipped:
        return skip("not evaluated" if rows is None else rows.skipped)
    values = {"table": table.quoted, "role": role, "seconds": rows.seconds}
    if rows.no_answer:
        return Verdict.of(found("rows-slow", **values), timed=rows)
    if rows.error is not None:
        return Verdict.of(found("rows-policy-raises", **values, reason=rows.error), timed=rows)
    names = _listed([policy.name for policy in _reading(table)])
    if rows.visible:
        return ok(f"on; {role} sees rows", rows)
    if rows.exist:
        return Verdict.of(found("rows-all-hidden", **values, policies=names), timed=rows)
    return ok(f"on; the table seems to be empty, policies: {names}", rows)


def _judge_policies(facts: Facts) -> Verdict:
    target, database = facts.target, _connected(facts)
    if isinstance(database, Verdict):
        return database
    if target.topic is None:
        return skip("no topic given")
    messages = database.messages
    if messages is None or messages.skipped:
        return skip("not evaluated" if messages is None else messages.skipped)
    role = target.role
    if messages.bypass and not messages.missing:
        return ok(f"do not apply to {role}", messages)
    findings = list(_about_messages(target, messages))
    if findings:
        return Verdict.of(*findings, timed=messages)
    return ok(f"{role} may read and send broadcasts and presence", messages)


def _policy(*words: str) -> str:
    """Return the name of a policy for SQL; PostgreSQL cuts names at 63 bytes."""
    return quoted(" ".join(words).encode()[:MAX_NAME].decode(errors="ignore"))


def _about_messages(target: Target, messages: MessagesFacts) -> Iterator[Finding]:
    role, topic = target.role, target.topic or ""
    values = {"role": role, "quoted": quoted(role), "topic": topic, "literal": literal(topic)}
    if messages.missing:
        yield found("policies-grant", **values, missing=_listed(messages.missing))
        return
    if not messages.row_security:
        yield found("policies-open")
        return
    for error in messages.errors:
        yield found("policies-raise", policy=error.policy, reason=error.error)
    if messages.errors:
        return
    access = messages.access
    readable = [name for name in _EXTENSIONS if access.get((name, "read"))]
    if not readable:
        yield found("policies-read", **values, policy=_policy(role, "may read", topic))
        return
    for name, word in _EXTENSIONS.items():
        if name not in readable:
            policy = _policy(role, "may read", word, "of", topic)
            yield found("policies-read-one", **values, extension=name, word=word, policy=policy)
    denied = [name for name in _EXTENSIONS if not access.get((name, "write"))]
    if denied:
        consequences = {"broadcast": "broadcasts are dropped without an answer", "presence": "track is refused"}
        yield found(
            "policies-write",
            **values,
            policy=_policy(role, "may send to", topic),
            words=_listed([_EXTENSIONS[name] for name in denied], "or"),
            consequence=_listed([consequences[name] for name in denied]),
            extensions=", ".join(map(literal, denied)),
        )


_EXTENSIONS: Final = {"broadcast": "broadcasts", "presence": "presence"}
"""The extensions of private channels, with their names in texts."""


def _connected(facts: Facts) -> DatabaseFacts | Verdict:
    database = facts.database
    if database is None:
        return skip("no database URL given" if not facts.target.database else "not reached")
    if database.problem is not None or not database.version:
        return skip("not reached")
    return database


def _table(facts: Facts) -> TableFacts | Verdict:
    database = _connected(facts)
    if isinstance(database, Verdict):
        return database
    if facts.target.table is None:
        return skip("no table given")
    return database.table or skip(_no_table(database))


def _no_table(database: DatabaseFacts) -> str:
    return "there is no such table" if database.table_read else "it could not be read"


def _filtered(target: Target) -> list[str]:
    return list(dict.fromkeys(condition.column for condition in target.conditions))


def _listed(names: "tuple[str, ...] | list[str]", word: str = "and") -> str:
    """Return names as words: a, b and c."""
    return ", ".join(names[:-1]) + f" {word} {names[-1]}" if len(names) > 1 else "".join(names)


DATABASE_JUDGES: Final[dict[str, Callable[[Facts], Verdict]]] = {
    "database": _judge_database,
    "wal": _judge_wal,
    "schema": _judge_schema,
    "table": _judge_table,
    "publication": _judge_publication,
    "identity": _judge_identity,
    "grants": _judge_grants,
    "filter": _judge_filter,
    "rows": _judge_rows,
    "policies": _judge_policies,
}
