"""Broken set-ups are named with the right remedy, and healthy ones give no false alarm."""

import re
from collections.abc import Iterator
from typing import LiteralString, cast

import pytest

pytest.importorskip("psycopg")
pytest.importorskip("trustme")

import psycopg
from psycopg import conninfo

from supawire.doctor import Outcome, diagnose_async
from supawire.doctor.problems import PROBLEMS

from .setups import SECRET, SET_UPS, SetUp
from .world import World, world

TIME_LIMIT = 5.0


@pytest.fixture(scope="module", name="shared")
def _shared() -> Iterator[World]:
    """What the set-ups share."""
    with world() as started:
        yield started


@pytest.mark.parametrize("setup", SET_UPS, ids=lambda setup: setup.name)
async def test_a_set_up_is_diagnosed(setup: SetUp, shared: World):
    """Exactly the expected problems are found, with the right remedy, in time, and no secret is in the report."""
    async with setup.start(shared) as arguments:
        report = await diagnose_async(**arguments)
    assert {finding.name for finding in report.findings} == setup.expected, str(report)
    assert report.seconds < TIME_LIMIT
    assert report.healthy is not any(finding.outcome is Outcome.FAIL for finding in report.findings)
    texts = [text for finding in report.findings for text in (finding.problem, finding.remedy, finding.sql or "")]
    assert not any("\n" in text or re.search(r"\{\w+\}", text) for text in texts)
    assert any(setup.remedy in text for text in texts) or not setup.expected
    text = f"{report}{report.to_dict()}{report!r}"
    url = arguments.get("database_url")
    password = SECRET if url is None else str(conninfo.conninfo_to_dict(url).get("password") or SECRET)
    secrets = [arguments["key"], arguments.get("token") or SECRET, SECRET, password]
    assert not any(secret in text for secret in secrets)


NOT_AT_ONCE = {
    "wal-level": "it takes effect after a restart",
    "rows-no-policy": "the condition has to be written",
}
"""Findings whose SQL does not help at once, and why."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "setup",
    [one for one in SET_UPS if one.expected & {row.name for row in PROBLEMS if row.sql}],
    ids=lambda one: one.name,
)
async def test_the_sql_of_a_remedy_helps(setup: SetUp, shared: World):
    """After the SQL of a finding was run by the owner of the database, the finding is gone."""
    async with setup.start(shared) as arguments:
        report = await diagnose_async(**arguments)
        remedies = [one for one in report.findings if one.sql is not None and one.name not in NOT_AT_ONCE]
        with psycopg.connect(arguments["database_url"], autocommit=True) as sql:
            for finding in remedies:
                sql.execute(cast("LiteralString", finding.sql))
        left = {finding.name for finding in (await diagnose_async(**arguments)).findings}
    assert not left & {finding.name for finding in remedies}


def test_there_are_enough_set_ups():
    """At least forty are broken and ten healthy, and no name is used twice."""
    names = [setup.name for setup in SET_UPS]
    assert len(names) == len(set(names))
    assert sum(bool(setup.expected) for setup in SET_UPS) >= 40
    assert sum(not setup.expected for setup in SET_UPS) >= 10
