"""Table of the comparison of queues, from the recorded run in benchmarks/queues/results.json."""

from benchmarks.queues.report import load
from benchmarks.queues.report import table as table_of
from docs.tables import rows, table


@table("queues")
def queues() -> str:
    """Return what was measured of each library."""
    head, *lines = table_of(load())
    return rows(head, lines)
