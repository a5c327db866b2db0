"""The values with which the clients are compared come out of PostgreSQL in just this form."""

from decimal import Decimal
from typing import Any, LiteralString, cast

import psycopg
import pytest

from tests.interop.rowtypes.cases import CASES, SETUP

from .listening import Ear, of

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]


def test_the_wire_values_of_the_comparison_are_those_of_postgresql(ear: Ear, sql: Sql):
    """Each value, inserted by SQL, is sent as the JSON and with the type that the page of types shows (R42)."""
    columns = ", ".join(f'"{case.name}" {case.declared}' for case in CASES)
    marks = ", ".join(f"%s::{case.declared}" for case in CASES)
    sql.execute(cast("LiteralString", f"{SETUP}; create table every_type (id int primary key, {columns})"))
    sql.execute("alter publication supabase_realtime add table every_type")
    with ear.listen(of("every_type")) as listener:
        insert = f"insert into every_type values (1, {marks})"
        sql.execute(cast("LiteralString", insert), [case.text for case in CASES])
        sent = listener.change()
    assert {column["name"]: column["type"] for column in sent["columns"][1:]} == {
        case.name: case.kind for case in CASES
    }
    found, wanted = sent["record"], {case.name: case.value for case in CASES}
    assert {name: found[name] for name in wanted} == wanted
    digits = {name: str(value) for name, value in wanted.items() if isinstance(value, Decimal)}
    assert {name: str(found[name]) for name in digits} == digits
