"""Budgets for the measured figures.

The best turn of each is compared: the CPU time of an undisturbed turn is the cost of the code, and everything above it
comes from other work of the machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.scenarios import BARE, FAST, NODE, OURS, PYTHON, SECTIONS, SERVER, SYNC, TCP, TLS

Run = dict[str, Any]
"""`machine`, `versions`, `rounds`, and `scenarios` (over TLS `tls`): by name, client, measure one figure per round."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Identifies a figure of a run."""

    scenario: str
    client: str = OURS
    measure: str = "cpu"
    carrier: str = TCP

    def of(self, run: Run) -> float | None:
        """Return the best turn, or None if it was not measured."""
        measured: dict[str, Any] = run.get(SECTIONS[self.carrier], {})
        turns: list[float] | None = measured.get(self.scenario, {}).get(self.client, {}).get(self.measure)
        if not turns:
            return None
        return max(turns) if self.measure == "rate" else min(turns)


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper or lower limit for one figure, or for its ratio to another figure."""

    says: str
    figure: Figure
    limit: float
    times: Figure | None = None
    least: bool = False
    unit: str = "×"

    def measured(self, run: Run) -> float | None:
        """Return the value in this run, or None if it was not measured."""
        one = self.figure.of(run)
        if self.times is None or one is None:
            return one
        other = self.times.of(run)
        return None if other is None else one / other

    def met(self, value: float) -> bool:
        """Return whether the value is within the limit."""
        return value >= self.limit if self.least else value <= self.limit


def _loop(
    says: str, scenario: str, limit: float, against: str = "", measure: str = "cpu", carrier: str = TCP
) -> Budget:
    return Budget(
        f"{says}: bare loop",
        Figure(scenario, OURS, measure, carrier),
        limit,
        Figure(against or scenario, BARE, measure, carrier),
    )


def _peer(says: str, scenario: str, client: str, limit: float) -> Budget:
    return Budget(f"{client} : {says}", Figure(scenario, client), limit, Figure(scenario), least=True)


BUDGETS: Final = (
    _loop("broadcast, text", "broadcast", 1.4),
    _peer("broadcast, text", "broadcast", PYTHON, 17),
    _peer("broadcast, text", "broadcast", NODE, 1),
    _loop("broadcast, binary", "binary", 1.3),
    _loop("change, record read", "change", 1.4),
    _peer("change, record read", "change", PYTHON, 22),
    _loop("change, record not read", "change-unread", 0.9, "change"),
    _loop("change, each column read", "change-typed", 1.5, "change"),
    _loop("broadcast, `async for`", "broadcast-iterated", 1.7, "broadcast"),
    _loop("change, `async for`", "change-iterated", 1.4, "change"),
    Budget("change as an object : record read", Figure("change-model"), 1.0, Figure("change")),
    Budget("one message per wake-up, above the bare loop", Figure("wake", OURS, "above"), 3, unit="µs"),
    Budget("the same with the sync client", Figure("wake", SYNC, "above"), 60, unit="µs"),
    *(
        Budget(f"{count} {what} : 1", Figure(f"{what}-{count}"), 1.15, Figure(f"{what}-1"))
        for what in ("channels", "bindings")
        for count in (10, 100)
    ),
    _loop("presence diff among 10,000", "diff", 3.5),
    Budget("presence diff among 10,000 : among 100", Figure("diff"), 1.15, Figure("diff-100")),
    _loop("presence diff, number of members and one member read", "diff-read", 4.5, "diff"),
    Budget("the same among 10,000 : among 100", Figure("diff-read"), 1.15, Figure("diff-read-100")),
    _loop("presence state of 10,000", "state", 1.64),
    _loop("send without ack", "send", 1.4),
    _loop("broadcast, text, over TLS", "broadcast", 1.4, carrier=TLS),
    _loop("change, record read, over TLS", "change", 1.4, carrier=TLS),
    Budget(
        f"{NODE} : broadcast, text, over TLS",
        Figure("broadcast", NODE, carrier=TLS), 1, Figure("broadcast", carrier=TLS), least=True,
    ),
    Budget(
        f"send without ack over TLS, {FAST} : {OURS}",
        Figure("send", FAST, carrier=TLS), 0.9, Figure("send", carrier=TLS),
    ),
    _loop("acked send", "ack", 1.25),
    _loop("acked round trip, p50", "ack", 1.25, measure="p50"),
    Budget(f"{NODE} : acked round trip, p50", Figure("ack", NODE, "p50"), 1, Figure("ack", OURS, "p50"), least=True),
    _loop("connect and join 100 channels", "join", 3.7, measure="wall"),
    Budget("memory of a channel", Figure("memory-channel", OURS, "traced"), 4, unit="KiB"),
    Budget("memory of a client with one channel", Figure("memory-client", OURS, "traced"), 28, unit="KiB"),
    _loop("`import supawire`", "import", 0.34),
    _loop("import and first connection", "start", 1.3),
    Budget(
        "handler of the sync client : async client", Figure("broadcast-sync", SYNC), 1.3, Figure("broadcast")
    ),
    Budget(
        "stream of the sync client : async client",
        Figure("broadcast-iterated", SYNC), 1.4, Figure("broadcast-iterated"),
    ),
    Budget("local server, CPU per delivery", Figure("fan-out", SERVER), 8, unit="µs"),
    Budget(
        "local server, deliveries per second to separate receivers",
        Figure("fan-out-separate", SERVER, "rate"), 100_000, least=True, unit="/s",
    ),
)  # fmt: skip
"""From the design of the project; limits given there in milliseconds are multiples of the bare loop here."""


def judged(run: Run) -> Iterator[tuple[Budget, float]]:
    """Yield each budget whose figure the run contains, and the value."""
    for budget in BUDGETS:
        value = budget.measured(run)
        if value is not None:
            yield budget, value


def table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of the table: budget, limit, measured value, whether it is met."""
    lines = [
        [
            budget.says,
            f"{'≥' if budget.least else '≤'} {budget.limit:,g} {budget.unit}",
            f"{value:,.0f} {budget.unit}" if value >= 1000 else f"{value:.2f} {budget.unit}",
            "met" if budget.met(value) else "**not met**",
        ]
        for budget, value in judged(run)
    ]
    return ["budget", "limit", "measured", ""], lines
