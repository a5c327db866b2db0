"""What things cost, from the run of the benchmarks that is kept in benchmarks/results.json."""

from typing import Final

from benchmarks import budgets
from benchmarks.budgets import Figure
from benchmarks.growth import CURVES
from benchmarks.report import load
from benchmarks.report import table as lines_of
from benchmarks.scenarios import BLOCKING, NODE, OURS, PYTHON, SERVER
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
    says = {
        "fan-out": "in bursts, one process with all sockets",
        "fan-out-separate": "in bursts, a process for each socket",
        "fan-out-single": "one message after another, one process with all sockets",
    }
    return rows(
        ["a message to 100 receivers", "CPU of a delivery", "deliveries a second"],
        [
            [text, f"{min(figures['cpu']):.2f} µs", f"{max(figures['rate']):,.0f}"]
            for name, text in says.items()
            if (figures := scenarios.get(name, {}).get(SERVER))
        ],
    )


_CORE: Final = (
    # what, scenario, and that of the blocking door
    ("broadcasts of 200 bytes received, payload read", "broadcast", "broadcast-blocking"),
    ("the same, `async for`, or `for` in the blocking door", "broadcast-iterated", "broadcast-iterated"),
    ("the same, one by one, so that each wakes up the process", "wake", "wake"),
    ("the same in binary frames", "binary", ""),
    ("changes of 600 bytes received, row read", "change", "change-blocking"),
    ("the same as objects of a dataclass", "change-model", ""),
    ("presence diffs among 10,000, their number and one of them read after each", "diff-read", ""),
    ("broadcasts sent without an ack", "send", ""),
    ("broadcasts sent and acked, one after another", "ack", ""),
)


@table("performance-core")
def core() -> str:
    """How many of each one core takes."""
    run = load()
    shown = (OURS, BLOCKING, PYTHON, NODE)
    lines: list[list[str]] = []
    for text, scenario, blocking in _CORE:
        measure = "whole" if scenario == "wake" else "cpu"
        costs = [Figure(blocking if client == BLOCKING else scenario, client, measure).of(run) for client in shown]
        if any(costs):
            lines.append([text, *(f"{rounded(1e6 / cost):,}" if cost else "–" for cost in costs)])
    return rows(["on one core, each second", *shown], lines)


def rounded(value: float) -> int:
    """Down, to two digits that are not zero."""
    size = 10 ** max(0, len(str(int(value))) - 2)
    return int(value) // size * size


@table("performance-run")
def circumstances() -> str:
    """When and with what it was measured."""
    run = load()
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"Measured on {run['on']}: {run['machine']}; {versions}; {run['rounds']} turns."
