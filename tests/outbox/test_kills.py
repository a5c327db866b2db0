"""A small run of the kills; `python -m tests.outbox.kills` is the large one."""

import os

import pytest

from tests.outbox import kills


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL and the fork server need POSIX")
def test_killed_processes_lose_nothing():
    """Processes that are killed at any point while they add and send lose no message, and none is received twice."""
    ledger = kills.run(6, seed=1)
    assert len(ledger.added) > 6 and not ledger.lost
    assert ledger.doubled == 0
