"""Tables of the page of performance, from the recorded run of the benchmarks in benchmarks/results.json."""

from typing import Final

from benchmarks import budgets
from benchmarks.budgets import Figure
from benchmarks.growth import CURVES
from benchmarks.report import load, tls_table
from benchmarks.report import table as lines_of
from benchmarks.scenarios import FAST, NODE, OURS, PYTHON, SERVER, SYNC, TLS
from docs.tables import rows, table


@table("performance")
def performance() -> str:
    """Return the table with one line per figure."""
    head, lines = lines_of(load())
    return rows(head, lines)


@table("performance-tls")
def over_tls() -> str:
    """Return the table with one line per figure over TLS."""
    head, lines = lines_of(load(), TLS)
    return rows(head, lines)


@table("performance-tls-cost")
def cost_of_tls() -> str:
    """Return the table of what TLS adds to the main scenarios."""
    head, lines = tls_table(load())
    return rows(head, lines)


@table("performance-budgets")
def wanted() -> str:
    """Return the table with one line per budget."""
    head, lines = budgets.table(load())
    return rows(head, lines)


@table("performance-growth")
def growth() -> str:
    """Return the table with one line per curve: the cost of one item for small and large counts."""
    curves = load()["growth"]
    lines: list[list[str]] = []
    for name, curve in CURVES.items():
        points = curves.get(name, [])
        if not points:
            continue
        shown = ", ".join(f"{count:,.0f}: {cost:.2f}" for count, cost in points)
        costs = [cost for _, cost in points]
        lines.append([curve.says, curve.each, shown, f"{costs[-1] / min(costs):.2f}"])
    return rows(["number of", "µs for", "count: µs", "largest count : cheapest"], lines)


@table("performance-server")
def server() -> str:
    """Return the table of the local server: under load, and with one message at a time."""
    scenarios = load()["scenarios"]
    says = {
        "fan-out": "in bursts, one process reads all sockets",
        "fan-out-separate": "in bursts, one process per socket",
        "fan-out-single": "one message at a time, one process reads all sockets",
    }
    return rows(
        ["a message to 100 receivers", "CPU per delivery", "deliveries per second"],
        [
            [text, f"{min(figures['cpu']):.2f} µs", f"{max(figures['rate']):,.0f}"]
            for name, text in says.items()
            if (figures := scenarios.get(name, {}).get(SERVER))
        ],
    )


@table("performance-sockets")
def sockets() -> str:
    """Return the table of many channels on several sockets."""
    return rows(
        [
            "channels",
            "sockets",
            "subscribe all",
            "CPU to join a channel",
            "memory of a channel",
            "a lost socket is back after",
        ],
        [
            [
                f"{case['channels']:,}",
                f"{case['sockets']}",
                f"{case['join_wall']:.1f} s",
                f"{case['join_cpu']:.0f} µs",
                f"{case['memory']:.1f} KiB",
                f"{case['recovery']:.1f} s",
            ]
            for case in load().get("sockets", [])
        ],
    )


_CORE: Final = (
    # text, scenario, scenario of the sync client
    ("broadcasts of 200 bytes received, payload read", "broadcast", "broadcast-sync"),
    ("the same, with `async for`, or `for` in the sync client", "broadcast-iterated", "broadcast-iterated"),
    ("the same, one at a time, so that each wakes up the process", "wake", "wake"),
    ("the same in binary frames", "binary", ""),
    ("changes of 600 bytes received, row read", "change", "change-sync"),
    ("the same as objects of a dataclass", "change-model", ""),
    ("the same in lists of 100 by `batches()`", "change-batches", "change-batches"),
    ("presence diffs among 10,000, number of members and one member read after each", "diff-read", ""),
    ("broadcasts sent without ack", "send", ""),
    ("broadcasts sent with ack, one after another", "ack", ""),
)


@table("performance-core")
def core() -> str:
    """Return the table of operations per second on one core."""
    run = load()
    shown = (OURS, FAST, SYNC, PYTHON, NODE)
    lines: list[list[str]] = []
    for text, scenario, sync_scenario in _CORE:
        measure = "whole" if scenario == "wake" else "cpu"
        costs = [Figure(sync_scenario if client == SYNC else scenario, client, measure).of(run) for client in shown]
        if any(costs):
            lines.append([text, *(f"{rounded(1e6 / cost):,}" if cost else "–" for cost in costs)])
    return rows(["per second on one core", *shown], lines)


def rounded(value: float) -> int:
    """Round down to two significant digits."""
    size = 10 ** max(0, len(str(int(value))) - 2)
    return int(value) // size * size


@table("performance-run")
def circumstances() -> str:
    """Return a sentence about the machine and the versions."""
    run = load()
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"Measured on {run['on']}: {run['machine']}; {versions}; {run['rounds']} turns per client."
