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
"""The recorded run that the page of performance shows."""

_SAYS: Final = {
    "cpu": "", "wall": ", wall-clock time", "p50": ", median round trip", "p99": ", 99th percentile",
    "traced": ", as counted by Python", "rss": ", as resident memory of the process", "above": "",
}  # fmt: skip
_KIB: Final = ("traced", "rss")
_ARRAY: Final = re.compile(r"\[[^\[\]{}]*\]")


def load() -> Run:
    """Return the recorded run."""
    return json.loads(KEPT.read_text(encoding="utf-8"))


def save(run: Run, path: Path) -> None:
    """Write a run, with each list of figures on one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _ARRAY.sub(lambda found: " ".join(found[0].split()), json.dumps(run, indent=1))
    path.write_text(text + "\n", encoding="utf-8")


def table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of the table: per figure, the best turn of each client and supawire's ratio."""
    head = ["scenario", *CLIENTS, f"{OURS} : {BARE}"]
    return head, [line for name in run["scenarios"] if name in SCENARIOS for line in lines(run, name)]


def lines(run: Run, name: str) -> Iterator[list[str]]:
    """Yield the lines of one scenario."""
    scenario, figures = SCENARIOS[name], run["scenarios"][name]
    for measure in scenario.shows:
        bare = run["scenarios"].get(scenario.against or name, {}).get(BARE, {}).get(measure)
        ours = figures.get(OURS, {}).get(measure)
        costs = [_shown(figures.get(client, {}).get(measure), measure) for client in CLIENTS]
        yield [scenario.says + _SAYS[measure], *costs, _spread(ours, bare)]


def markdown(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
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
