"""Figures of a run as ratios, as a table, and as a judgement."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.scenarios import BARE, BLOCKING, CLIENTS, OURS, PYTHON, SCENARIOS

KEPT: Final = Path(__file__).resolve().parent / "results.json"
"""The run that the page about performance shows."""

COMPARED: Final = ((OURS, BARE), (PYTHON, OURS), (BLOCKING, OURS))

Run = dict[str, Any]
"""`machine`, `versions`, `rounds`, and under `scenarios` by name and client the lists `cpu` and `wall`."""


def load() -> Run:
    """The run that is kept."""
    return json.loads(KEPT.read_text(encoding="utf-8"))


def save(run: Run, path: Path) -> None:
    """Write a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def ratios(figures: dict[str, Any], one: str, other: str) -> list[float]:
    """CPU of one client over that of another, round by round."""
    return [a / b for a, b in zip(figures[one]["cpu"], figures[other]["cpu"], strict=True)]


def table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Head and lines: a line a scenario, CPU microseconds a message of each client, and how they compare."""
    head = ["scenario", *CLIENTS, *(f"{one} : {other}" for one, other in COMPARED)]
    return head, [_line(name, figures) for name, figures in run["scenarios"].items()]


def markdown(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def _line(name: str, figures: dict[str, Any]) -> list[str]:
    costs = [f"{median(figures[client]['cpu']):.2f}" if client in figures else "–" for client in CLIENTS]
    compared = [
        _spread(ratios(figures, one, other)) if one in figures and other in figures else "–" for one, other in COMPARED
    ]
    return [SCENARIOS[name].says, *costs, *compared]


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def complaints(run: Run, margin: float) -> Iterator[str]:
    """Which ratios miss what is wanted of them by more than a margin, such as 1.5."""
    for name, figures in run["scenarios"].items():
        wanted = SCENARIOS[name]
        for most, one, other in ((wanted.most, OURS, BARE), (wanted.door, BLOCKING, OURS)):
            if most is not None and (times := median(ratios(figures, one, other))) > most * margin:
                yield f"{name}: {one} needs {times:.2f} times as much as {other}, not at most {most * margin:.2f}"
        if wanted.least is None or PYTHON not in figures:
            continue
        under = median(ratios(figures, PYTHON, OURS))
        if under < wanted.least / margin:
            yield f"{name}: realtime-py needs {under:.1f} times as much, not at least {wanted.least / margin:.1f}"
