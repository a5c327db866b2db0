"""What things cost, from the run of the benchmarks that is kept in benchmarks/results.json."""

from benchmarks import budgets
from benchmarks.growth import CURVES
from benchmarks.report import load
from benchmarks.report import table as lines_of
from benchmarks.scenarios import OURS, SERVER
from docs.tables import rows, table


@table("performance")
def performance() -> str:
    """A line a figure."""
    head, lines = lines_of(load())
    return rows(head, lines)


@table("performance-budgets")
def wanted() -> str:
    """A line a budget."""
    head, lines = budgets.table(load())
    return rows(head, lines)


@table("performance-growth")
def growth() -> str:
    """A line a curve: what one more costs when there are few, and when there are many."""
    curves = load()["growth"]
    lines: list[list[str]] = []
    for name, curve in CURVES.items():
        points = curves.get(name, [])
        if not points:
            continue
        shown = ", ".join(f"{count:,.0f}: {cost:.2f}" for count, cost in points)
        costs = [cost for _, cost in points]
        lines.append([curve.says, curve.each, shown, f"{costs[-1] / min(costs):.2f}"])
    return rows(["more of", "µs of", "how many: µs", "most : cheapest"], lines)


@table("performance-server")
def server() -> str:
    """A line each for a loaded server and one that has nothing to join into one write."""
    scenarios = load()["scenarios"]
    says = {"fan-out": "under load", "fan-out-single": "one message after another"}
    return rows(
        ["a message to 100 receivers", "CPU of a delivery", "deliveries a second"],
        [
            [text, f"{min(figures['cpu']):.2f} µs", f"{max(figures['rate']):,.0f}"]
            for name, text in says.items()
            if (figures := scenarios.get(name, {}).get(SERVER))
        ],
    )


@table("performance-core")
def core() -> str:
    """How many of each one core takes."""
    scenarios = load()["scenarios"]
    says = {
        "broadcast": "broadcasts of 200 bytes, payload read",
        "broadcast-iterated": "the same, `async for`",
        "change": "changes of 600 bytes, row read",
        "diff-read": "presence diffs among 10,000, the state read after each",
        "send": "broadcasts sent without an ack",
    }
    return rows(
        ["what", "on one core, each second"],
        [
            [text, f"{rounded(1e6 / min(figures['cpu'])):,}"]
            for name, text in says.items()
            if (figures := scenarios.get(name, {}).get(OURS))
        ],
    )


def rounded(value: float) -> int:
    """With one digit that is not zero."""
    size = 10 ** (len(str(int(value))) - 1)
    return int(value) // size * size


@table("performance-run")
def circumstances() -> str:
    """When and with what it was measured."""
    run = load()
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"Measured on {run['on']}: {run['machine']}; {versions}; {run['rounds']} turns."
