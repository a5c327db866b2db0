"""The recorded verdicts of the judge, their reasons, and the emulated database."""

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
def test_every_difference_has_one_reason(level: str):
    """known.toml has one reason for each scenario that differs or is not played, and no other reasons."""
    verdicts, reasons = load(level), known(level)
    assert unexplained(verdicts, reasons) == []
    assert unneeded(verdicts, reasons) == []
    for verdict in verdicts:
        assert sum(reason.explains(verdict) for reason in reasons) == (verdict.result != IDENTICAL), verdict


@pytest.mark.parametrize("level", LEVELS)
def test_every_recorded_scenario_has_a_verdict(level: str):
    """All 83 scenarios of both wire versions have a verdict, and most are identical; at most 80 can be played."""
    verdicts = load(level)
    assert Counter(one.vsn for one in verdicts) == {"1.0.0": 45, "2.0.0": 37, "1.0.0 and 2.0.0": 1}
    assert sum(one.result == IDENTICAL for one in verdicts) >= LEAST[level]


def test_a_reason_that_is_not_needed_is_found():
    """A reason that applies to no verdict is reported, and so is a difference without a reason."""
    verdicts = [Verdict("a", "1.0.0", "differs", 3, ("x",)), Verdict("b", "1.0.0", IDENTICAL, 1, ())]
    assert unneeded(verdicts, [Known(("a", "b"), "differs", "why")]) == ["b"]
    assert unexplained(verdicts, [Known(("a",), "not playable", "why")]) == verdicts[:1]


def test_a_verdict_that_changed_is_found():
    """Another result, other differences and a missing scenario are each reported as a change."""
    one = Verdict("a", "1.0.0", IDENTICAL, 3, ())
    assert changed([one], [one]) == []
    assert changed([one], [one._replace(result="differs", differences=("x",))])
    assert changed([one._replace(differences=("x",))], [one._replace(differences=("y",))])
    assert changed([one], []) and changed([], [one])


def test_an_unknown_statement_is_refused():
    """Unknown SQL raises an error, so that a new scenario of the judge cannot pass unnoticed."""
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
    """Authenticated users may read and write `room-…` and read `ro-…`; all else is denied."""
    assert policy({"role": role}, topic, "broadcast", action) is allowed
