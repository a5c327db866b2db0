"""A small run of the kills; `python -m tests.bridge.kills` is the large one."""

import os

import pytest


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL and the fork server need POSIX")
@pytest.mark.needs("redis-server")
def test_killed_bridges_lose_nothing():
    """Bridges that are killed lose no broadcast and no row, and no id is twice in the broker."""
    pytest.importorskip("psycopg")
    pytest.importorskip("redis")
    from tests.bridge import kills

    outcome = kills.run(4, "redis", seed=2)
    assert not outcome.problems
    assert outcome.broadcasts and outcome.changes
