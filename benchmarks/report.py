"""Figures of a run as ratios and as a table."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.budgets import Run
from benchmarks.scenarios import BARE, CLIENTS, OURS, SCENARIOS

KEPT: Final = Path(__file__).resolve().parent / "results.json"
"""The run that the page about performance shows."""

_SAYS: Final = {
    "cpu": "", "wall": ", by the clock", "p50": ", half of the round trips", "p99": ", 99 of 100",
    "traced": ", counted by Python", "rss": ", of the process", "above": "",
}  # fmt: skip
_KIB: Final = ("traced", "rss")
_ARRAY: Final = re.compile(r"\[[^\[\]{}]*\]")


def load() -> Run:
    """The run that is kept."""
    return json.loads(KEPT.read_text(encoding="utf-8"))


def save(run: Run, path: Path) -> None:
    """Write a run, each list of figures in a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _ARRAY.sub(lambda found: " ".join(found[0].split()), json.dumps(run, indent=1))
    path.write_text(text + "\n", encoding="utf-8")


def table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Head and lines: a line a figure, what each client needs at its best, and how supawire compares."""
    head = ["scenario", *CLIENTS, f"{OURS} : {BARE}"]
    return head, [line for name in run["scenarios"] if name in SCENARIOS for line in lines(run, name)]


def lines(run: Run, name: str) -> Iterator[list[str]]:
    """The lines of one scenario."""
    scenario, figures = SCENARIOS[name], run["scenarios"][name]
    for measure in scenario.shows:
        bare = run["scenarios"].get(scenario.against or name, {}).get(BARE, {}).get(measure)
        ours = figures.get(OURS, {}).get(measure)
        costs = [_shown(figures.get(client, {}).get(measure), measure) for client in CLIENTS]
        yield [scenario.says + _SAYS[measure], *costs, _spread(ours, bare)]


def markdown(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def _shown(turns: list[float] | None, measure: str) -> str:
    if not turns:
        return "–"
    best = min(turns)
    if measure in _KIB:
        return f"{best:.1f} KiB"
    return f"{best:.2f} µs" if best < 1000 else f"{best / 1000:.1f} ms"


def _spread(ours: list[float] | None, bare: list[float] | None) -> str:
    if not ours or not bare:
        return "–"
    ratios: list[Any] = [one / other for one, other in zip(ours, bare, strict=True)]
    return f"{min(ours) / min(bare):.2f} ({median(ratios):.2f})"
