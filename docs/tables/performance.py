"""What receiving costs, from the run of the benchmarks that is kept in benchmarks/results.json."""

from benchmarks.report import load
from benchmarks.report import table as lines_of
from docs.tables import rows, table


@table("performance")
def performance() -> str:
    """A line a scenario."""
    head, lines = lines_of(load())
    return rows(head, lines)


@table("performance-run")
def circumstances() -> str:
    """When and with what it was measured."""
    run = load()
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"Measured on {run['on']}: {run['machine']}; {versions}; {run['rounds']} turns."
