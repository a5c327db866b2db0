"""Each guarantee has tests that name it."""

from docs.tables.requirements import LATER, PROMISES, held


def test_every_guarantee_has_tests_or_is_open() -> None:
    """Each guarantee is named by a test's docstring or is in the list of open ones, not both."""
    found = held()
    assert set(found) == set(PROMISES)
    assert {number for number, tests in found.items() if not tests} == set(LATER)
