"""What is wanted of the figures, and whether they are so.

Judged are the best turns: CPU time of a turn that was not disturbed is what the code costs, everything above it is the
machine's other business.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.scenarios import BARE, BLOCKING, NODE, OURS, PYTHON, SERVER

Run = dict[str, Any]
"""`machine`, `versions`, `rounds`, and under `scenarios` by name, client and measure the figures, one a round."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Which figure of a run."""

    scenario: str
    client: str = OURS
    measure: str = "cpu"

    def of(self, run: Run) -> float | None:
        """Its best turn, None when it was not measured."""
        turns: list[float] | None = run["scenarios"].get(self.scenario, {}).get(self.client, {}).get(self.measure)
        if not turns:
            return None
        return max(turns) if self.measure == "rate" else min(turns)


@dataclass(frozen=True, slots=True)
class Budget:
    """One figure, alone or as so many times another, is at most or at least this much."""

    says: str
    figure: Figure
    limit: float
    times: Figure | None = None
    least: bool = False
    unit: str = "×"

    def measured(self, run: Run) -> float | None:
        """What the run says, None when it does not say."""
        one = self.figure.of(run)
        if self.times is None or one is None:
            return one
        other = self.times.of(run)
        return None if other is None else one / other

    def met(self, value: float) -> bool:
        """Whether that is good."""
        return value >= self.limit if self.least else value <= self.limit


def _loop(says: str, scenario: str, limit: float, against: str = "", measure: str = "cpu") -> Budget:
    return Budget(
        f"{says}: bare loop", Figure(scenario, OURS, measure), limit, Figure(against or scenario, BARE, measure)
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
    _loop("change, `async for`", "change-iterated", 1.5, "change"),
    Budget("one message per wake-up, above the bare loop", Figure("wake", OURS, "above"), 3, unit="µs"),
    Budget("the same in the blocking door", Figure("wake", BLOCKING, "above"), 60, unit="µs"),
    *(
        Budget(f"{count} {what} : 1", Figure(f"{what}-{count}"), 1.15, Figure(f"{what}-1"))
        for what in ("channels", "bindings")
        for count in (10, 100)
    ),
    _loop("presence diff among 10,000", "diff", 3.5),
    Budget("presence diff among 10,000 : among 100", Figure("diff"), 1.15, Figure("diff-100")),
    _loop("presence diff, number and one member read", "diff-read", 4.5, "diff"),
    Budget("the same among 10,000 : among 100", Figure("diff-read"), 1.15, Figure("diff-read-100")),
    _loop("presence state of 10,000", "state", 1.64),
    _loop("send without ack", "send", 1.7),
    _loop("acked round trip, p50", "ack", 1.25, measure="p50"),
    _loop("connect and join 100 channels", "join", 3.7, measure="wall"),
    Budget("memory of a channel", Figure("memory-channel", OURS, "traced"), 4, unit="KiB"),
    Budget("memory of a client with one channel", Figure("memory-client", OURS, "traced"), 28, unit="KiB"),
    _loop("`import supawire`", "import", 0.34),
    _loop("import and first connection", "start", 1.3),
    Budget(
        "handlers of the blocking door : async door", Figure("broadcast-blocking", BLOCKING), 1.3, Figure("broadcast")
    ),
    Budget(
        "iterators of the blocking door : async door",
        Figure("broadcast-iterated", BLOCKING), 1.4, Figure("broadcast-iterated"),
    ),
    Budget("local server, CPU of a delivery", Figure("fan-out", SERVER), 8, unit="µs"),
    Budget(
        "local server, deliveries per second to separate receivers",
        Figure("fan-out-separate", SERVER, "rate"), 100_000, least=True, unit="/s",
    ),
)  # fmt: skip
"""From the design of the project; those given there in milliseconds stand here as multiples of the bare loop."""


def judged(run: Run) -> Iterator[tuple[Budget, float]]:
    """Every budget that the run says something about, and what it says."""
    for budget in BUDGETS:
        value = budget.measured(run)
        if value is not None:
            yield budget, value


def table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Head and lines: what is wanted, what was measured, whether it is met."""
    lines = [
        [
            budget.says,
            f"{'≥' if budget.least else '≤'} {budget.limit:,g} {budget.unit}",
            f"{value:,.0f} {budget.unit}" if value >= 1000 else f"{value:.2f} {budget.unit}",
            "met" if budget.met(value) else "**not met**",
        ]
        for budget, value in judged(run)
    ]
    return ["budget", "wanted", "measured", ""], lines
