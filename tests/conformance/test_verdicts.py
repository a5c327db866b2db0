"""The verdicts of the judge, the reasons beside them, and what stands in for a database."""

import random
from collections import Counter

import pytest

from supawire.events import Instant
from supawire.server import Hub, HubOptions

from .database import Database, policy
from .verdicts import IDENTICAL, LEVELS, Known, Verdict, changed, known, load, unexplained, unneeded

LEAST = {"memory": 65, "postgres": 79}
NOW = Instant(1000.0, 1_764_000_000.0)


@pytest.mark.parametrize("level", LEVELS)
def test_whatever_is_not_identical_has_one_reason(level: str):
    """Each scenario that differs or is not played stands in known.toml once, and nothing else stands there."""
    verdicts, reasons = load(level), known(level)
    assert unexplained(verdicts, reasons) == []
    assert unneeded(verdicts, reasons) == []
    for verdict in verdicts:
        assert sum(reason.explains(verdict) for reason in reasons) == (verdict.result != IDENTICAL), verdict


@pytest.mark.parametrize("level", LEVELS)
def test_every_recorded_scenario_has_a_verdict(level: str):
    """All 83 scenarios of both wire versions are there, and most of them identical; 80 can be played at best."""
    verdicts = load(level)
    assert Counter(one.vsn for one in verdicts) == {"1.0.0": 45, "2.0.0": 37, "1.0.0 and 2.0.0": 1}
    assert sum(one.result == IDENTICAL for one in verdicts) >= LEAST[level]


def test_a_reason_that_is_not_needed_is_found():
    """The list of reasons cannot grow stale: one that explains nothing is named, and so is a difference without one."""
    verdicts = [Verdict("a", "1.0.0", "differs", 3, ("x",)), Verdict("b", "1.0.0", IDENTICAL, 1, ())]
    assert unneeded(verdicts, [Known(("a", "b"), "differs", "why")]) == ["b"]
    assert unexplained(verdicts, [Known(("a",), "not playable", "why")]) == verdicts[:1]


def test_a_verdict_that_changed_is_found():
    """The same scenarios with another result, other differences, or one missing are told apart."""
    one = Verdict("a", "1.0.0", IDENTICAL, 3, ())
    assert changed([one], [one]) == []
    assert changed([one], [one._replace(result="differs", differences=("x",))])
    assert changed([one._replace(differences=("x",))], [one._replace(differences=("y",))])
    assert changed([one], []) and changed([], [one])


def test_a_statement_that_nothing_stands_in_for_is_refused():
    """SQL that the stand-in does not know raises, so that a new scenario of the judge cannot pass in silence."""
    database = Database(Hub(HubOptions(secret="s" * 32), random.Random(1)), lambda: NOW)
    database.run("truncate public.todos;\nselect setval('public.todos_id_seq', 5, false);\n")
    with pytest.raises(ValueError, match="drop table"):
        database.run("drop table public.todos;\n")


@pytest.mark.parametrize(
    ("role", "topic", "action", "allowed"),
    [
        ("authenticated", "room-1", "read", True),
        ("authenticated", "room-1", "write", True),
        ("authenticated", "ro-1", "read", True),
        ("authenticated", "ro-1", "write", False),
        ("authenticated", "other", "read", False),
        ("anon", "room-1", "read", False),
    ],
)
def test_the_policy_is_that_of_the_recorded_database(role: str, topic: str, action: str, *, allowed: bool):
    """Rooms are read and written by who is signed in, `ro-…` only read, and nothing by anybody else."""
    assert policy({"role": role}, topic, "broadcast", action) is allowed
