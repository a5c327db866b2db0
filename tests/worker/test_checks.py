"""What a worker refuses before it starts, with the SQL that mends it; and the migration."""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL

from supawire import Backoff, InvalidArgumentError, SetupError, StateError, col
from supawire.worker import NOW, REASON, Job, Worker

Make = Callable[..., Worker]
Sql = psycopg.Connection[Any]
PENDING = col("status") == "pending"
URL = "postgresql://postgres:topsecret@127.0.0.1:1/postgres"


async def work(job: Job[Any]) -> None:
    """Do nothing."""


def start(make: Make, table: str = "orders", **options: Any) -> None:
    """Start a worker for a table, and stop it when nothing is left to do."""
    app = make()
    chosen: dict[str, Any] = {"where": PENDING} | options
    app.job(table, **chosen)(work)
    app.run(until_idle=True)


def refusal(make: Make, table: str = "orders", **options: Any) -> SetupError:
    """Return the error with which a worker refuses to start."""
    with pytest.raises(SetupError) as raised:
        start(make, table, **options)
    return raised.value


def test_the_side_table_is_missing(sql: Sql, database: str):
    """Without the side table, the error has the migration, after which the worker starts."""
    sql.execute("create table orders (id int primary key, status text)")
    error = refusal(lambda: Worker(database=database))
    assert "is missing" in error.message and "supawire worker init" in str(error)
    assert error.sql is not None and error.sql in str(error)
    sql.execute(error.sql.encode())
    start(lambda: Worker(database=database))


def test_the_side_table_belongs_to_something_else(orders: Make, sql: Sql):
    """A table of the same name without the columns is not touched; the error names another way."""
    sql.execute("alter table supawire.jobs drop column holder")
    error = refusal(orders)
    assert "has no column holder" in error.message and "jobs_schema=" in str(error) and error.sql is None


def test_a_table_that_does_not_exist(orders: Make):
    """A misspelt table is refused."""
    assert refusal(orders, "ordres").message == 'there is no table "public"."ordres" in this database'


def test_a_view_is_refused(orders: Make, sql: Sql):
    """Rows of a view cannot be locked."""
    sql.execute("create view shown as select * from orders")
    assert "is not a table" in refusal(orders, "shown").message


def test_columns_that_do_not_exist_are_listed_with_their_sql(orders: Make, sql: Sql):
    """The SQL adds all columns that conditions, values and order name; with it, the worker starts."""
    sql.execute("create table bare (id int primary key)")
    options: dict[str, Any] = {
        "claim": {"status": "running", "started": NOW},
        "failed": {"status": "failed", "why": REASON},
        "done": {"status": "done", "ok": True},
        "group": "customer",
    }
    error = refusal(orders, "bare", **options)
    assert error.message == '"public"."bare" has no column status, started, ok, why, customer'
    assert error.sql is not None and "add column \"status\" text not null default 'pending'" in error.sql
    sql.execute(error.sql.encode())
    start(orders, "bare", **options)


def test_a_table_without_primary_key(orders: Make, sql: Sql):
    """Jobs are told apart by the primary key; the SQL adds one."""
    sql.execute("create table keyless (status text)")
    error = refusal(orders, "keyless")
    assert "has no primary key" in error.message and error.sql is not None
    sql.execute(error.sql.encode())
    start(orders, "keyless")


@pytest.mark.parametrize(
    ("options", "which"),
    [
        ({"claim": {"note": "x"}}, "claim={'note': 'x'}"),
        ({"claim": {"status": "pending"}}, "claim={'status': 'pending'}"),
        ({"done": {"status": "pending"}}, "done={'status': 'pending'}"),
        ({"failed": {"status": "pending"}}, "failed={'status': 'pending'}"),
        ({"where": ~col("status").in_(["done"]) & (col("total") > 5)}, "claim={'status': 'running'}"),
        ({"where": col("at").is_(None)}, "claim={'status': 'running'}"),
    ],
)
def test_a_condition_that_never_changes_is_refused(orders: Make, options: dict[str, Any], which: str):
    """A row that would match again after a change is refused: it would be claimed again and again."""
    error = refusal(orders, **options)
    assert which in error.message and "would be claimed again and again" in error.message


@pytest.mark.parametrize(
    "options",
    [
        {"where": col("at").is_(None), "claim": {"at": NOW}, "done": {}, "failed": {}},
        {"where": (col("status") == "pending") & (col("total") >= 100)},
        {"where": col("total") < 0, "claim": {"total": 1}, "done": {"total": 2}, "failed": {"total": 3}},
    ],
)
def test_conditions_that_change_are_accepted(orders: Make, sql: Sql, options: dict[str, Any]):
    """Conditions of other kinds work: null and a time, several columns, numbers."""
    sql.execute("insert into orders (total) values (-1), (100), (null)")
    start(orders, **options)
    assert sql.execute("select count(*) from supawire.jobs where state = 'done'").fetchone() != (0,)


def test_values_that_do_not_fit_their_columns(orders: Make):
    """A value of another type than its column is refused with PostgreSQL's text."""
    error = refusal(orders, where=col("total") == "much", claim={"total": 1})
    assert 'invalid input syntax for type numeric: "much"' in error.message


def test_an_order_with_null_is_refused(orders: Make, sql: Sql):
    """Groups need an order of columns that are never null."""
    error = refusal(orders, group="customer", order_by="at")
    assert error.sql == 'alter table "public"."orders" alter column "at" set not null;'


# --- roles


@pytest.fixture(name="limited")
def _limited(database: str, orders: Make, sql: Sql) -> Iterator[Make]:
    """A function that creates workers which connect as a role without rights."""
    sql.execute("create role limited login password 'pass'")
    try:
        yield lambda **more: Worker(database=make_conninfo(database, user="limited", password="pass"), **more)
    finally:
        sql.execute("drop owned by limited")
        sql.execute("drop role limited")


def test_a_role_gets_the_grants_that_it_needs(limited: Make, sql: Sql):
    """Each refusal of a role has the grants that it lacks; after them, the worker starts and works."""
    sql.execute("insert into orders default values")
    given: list[str] = []
    for _ in range(5):
        try:
            start(limited)
            break
        except SetupError as error:
            given.append(error.sql or "")
            sql.execute(given[-1].encode())
    assert given == [
        'grant select, update on "public"."orders" to "limited";',
        """grant usage on schema "supawire" to "limited";
grant select, insert, update, delete on "supawire"."jobs" to "limited";""",
    ]
    assert sql.execute("select status from orders").fetchall() == [("done",)]


def test_row_security_that_hides_all_rows_is_refused(limited: Make, sql: Sql, caplog: pytest.LogCaptureFixture):
    """Row level security without a policy for the role is refused with a policy; with one, it is a warning."""
    sql.execute("alter table orders enable row level security")
    sql.execute("grant select, update on orders to limited; grant usage on schema supawire to limited")
    sql.execute("grant select, insert, update, delete on supawire.jobs to limited")
    error = refusal(limited)
    assert "row level security hides the rows" in error.message and error.sql is not None
    sql.execute(error.sql.encode())
    with caplog.at_level(logging.WARNING, "supawire.worker"):
        start(limited)
    assert "row level security applies to the role limited" in caplog.text


# --- warnings


def test_a_table_that_is_not_published_is_a_warning(orders: Make, sql: Sql, caplog: pytest.LogCaptureFixture):
    """Without the publication the worker starts, and the log has the SQL."""
    sql.execute("alter publication supabase_realtime drop table orders")
    with caplog.at_level(logging.WARNING, "supawire.worker"):
        start(orders)
        assert 'alter publication supabase_realtime add table "public"."orders";' in caplog.text
        sql.execute("drop publication supabase_realtime")
        start(orders)
    assert 'create publication supabase_realtime for table "public"."orders";' in caplog.text


def test_a_large_table_without_index_is_a_warning(orders: Make, sql: Sql, caplog: pytest.LogCaptureFixture):
    """The index of the migration is missed when a table is large."""
    sql.execute("insert into orders (status) select 'done' from generate_series(1, 11000)")
    sql.execute("analyze orders")
    start(orders)
    assert "no index for claims" not in caplog.text
    start(orders, order_by="at")
    assert 'no index for claims: create index if not exists "orders_worker_' in caplog.text


# --- the migration


def test_the_migration_can_be_run_again(orders: Make, sql: Sql):
    """Running the migration again changes nothing and keeps the jobs."""
    sql.execute("insert into orders default values")
    start(orders)
    app = orders()
    app.job("orders", where=PENDING, group="customer")(work)
    text = asyncio.run(app.apply_migration())
    assert asyncio.run(app.apply_migration()) == text
    sql.execute(text.encode())
    assert sql.execute("select count(*) from supawire.jobs").fetchone() == (1,)


@pytest.mark.parametrize("options", [{}, {"order_by": "-at"}, {"group": "customer"}])
def test_a_claim_is_an_index_scan(orders: Make, sql: Sql, options: dict[str, Any]):
    """In a large table, claiming reads the rows by the index of the migration, and not the whole table."""
    from supawire.worker.statements import Statements
    from supawire.worker.table import TableSource

    sql.execute("insert into orders (status, customer) select 'done', n % 97 from generate_series(1, 20000) n")
    sql.execute("insert into orders (customer) select n % 97 from generate_series(1, 2000) n")
    app = orders()
    app.job("orders", where=PENDING, **options)(work)
    asyncio.run(app.apply_migration())
    sql.execute("analyze orders; analyze supawire.jobs")

    async def plan() -> str:
        async with app._open_database() as database:
            (definition,) = app._definitions.values()
            source = cast("TableSource", definition.make(app._settings.context(database)))
            statement = Statements((await source.describe()).shape).claim(8)
            async with database.connection() as connection:
                explained = SQL("explain {}").format(statement)
                rows = await (
                    await connection.execute(explained, {"lease": 60, "holder": "test", "after": None})
                ).fetchall()
                return "\n".join(row[0] for row in rows)

    text = asyncio.run(plan())
    assert "Seq Scan on orders" not in text, text
    assert "using orders_worker_" in text, text


# --- arguments


def test_mistakes_in_arguments_are_refused_at_once():
    """Each wrong argument is refused where it is written."""
    app = Worker(database=URL)
    job = app.job
    for call, words in (
        (lambda: Worker("http://127.0.0.1:1"), "url and key belong together"),
        (lambda: Worker(database="postgresql://u:p@ss/w:x@h:y/z"), "not a valid URL"),
        (lambda: Worker(database=""), "must be the URL"),
        (lambda: Worker(database=URL, poll=0), "poll must be"),
        (lambda: Worker(database=URL, lease=0.1), "lease must be"),
        (lambda: Worker(database=URL, colour="red"), "no such option"),
        (lambda: Worker().job("orders", where=PENDING), "needs the URL of its database"),
        (lambda: job("orders", where=cast("Any", "status = 1")), "where must be a condition"),
        (lambda: job("orders", where=PENDING, claim={}), "at least one column"),
        (lambda: job("orders", where=PENDING, claim=cast("Any", "running")), "claim must be a dict"),
        (lambda: job("orders", where=PENDING, claim={"note": REASON}), "must not be REASON"),
        (lambda: job("orders", where=PENDING, concurrency=0), "concurrency must be"),
        (lambda: job("orders", where=PENDING, max_attempts=0), "max_attempts must be"),
        (lambda: job("orders", where=PENDING, order_by=""), "order_by must be"),
        (lambda: job("orders", where=PENDING, retry=cast("Any", 5)), "retry must be"),
        (lambda: job("orders", where=PENDING)(lambda: None), "must be a function of one job"),
        (lambda: job("orders", where=PENDING, model=cast("Any", int)), "model must be"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            call()
    job("orders", where=PENDING)(work)
    with pytest.raises(InvalidArgumentError, match=r"there is a job 'public\.orders' already"):
        job("orders", where=col("note") == "x", retry=Backoff())(work)
    with pytest.raises(StateError, match="no job"):
        Worker(database=URL).run()


def test_an_annotation_that_cannot_be_resolved_is_refused():
    """When the class in `Job[…]` is not defined yet, the error says so, also where annotations are evaluated late."""
    early = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"
    names: dict[str, Any] = {"Job": Job}
    exec(early + "async def work(job: Job[Missing]) -> None: ...", names)
    with pytest.raises(InvalidArgumentError, match="the annotation of work cannot be resolved"):
        Worker(database="postgresql://127.0.0.1/x").job("orders", where=col("status") == "new")(names["work"])


def test_the_password_is_never_shown(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Neither representations nor errors nor logs contain the password of the database."""
    from supawire.worker import serving

    monkeypatch.setattr(serving, "START_TIMEOUT", 0.1)
    app = Worker(database=URL)
    app.job("orders", where=PENDING)(work)
    with caplog.at_level(logging.DEBUG), pytest.raises(Exception, match="cannot be reached") as raised:
        app.run()
    with pytest.raises(InvalidArgumentError) as wrong:
        Worker(database="postgresql://postgres:topsecret#1@h:topsecret/x")
    texts = [
        repr(app),
        str(app),
        repr(app._settings),
        str(raised.value),
        repr(raised.value),
        str(wrong.value),
        caplog.text,
    ]
    assert wrong.value.__cause__ is None
    assert [text for text in texts if "topsecret" in text] == []
