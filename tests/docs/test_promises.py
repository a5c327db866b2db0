"""Each promise is held by tests that name it."""

from docs.tables.requirements import LATER, PROMISES, held


def test_every_promise_is_held_or_open() -> None:
    """Each numbered promise is named by a test's docstring, or stands in the list of open ones, not both."""
    found = held()
    assert set(found) == set(PROMISES)
    assert {number for number, tests in found.items() if not tests} == set(LATER)
