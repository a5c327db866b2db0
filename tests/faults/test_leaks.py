"""Clients leave no resources when they are closed."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.leaks import CYCLES, measure, separate_server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="not run: memory is read from /proc"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    """Run a server; yields its URL and key."""
    with separate_server() as found:
        yield found


@pytest.mark.parametrize("kind", CYCLES)
@pytest.mark.parametrize("count", [30, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
async def test_cycles_of_every_kind_leave_no_resources(kind: str, count: int, server: tuple[str, str]):
    """Repeated opening and closing leaves tasks, threads and descriptors unchanged, and the number of objects flat."""
    logging.disable(logging.CRITICAL)  # or what is kept of the log would be counted
    try:
        left = await measure(kind, count, *server)
    finally:
        logging.disable(logging.NOTSET)
    assert (left["tasks"], left["threads and files"]) == (0, 0), left
    assert left["objects"] < 50, left
    assert left["kib"] < 8192, left
