"""Figures of a run as ratios and as a table."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.budgets import Run
from benchmarks.scenarios import BARE, CLIENTS, FAST, NODE, OURS, PYTHON, SCENARIOS, SECTIONS, TCP, TLS

KEPT: Final = Path(__file__).resolve().parent / "results.json"
"""The recorded run that the page of performance shows."""

_SAYS: Final = {
    "cpu": "", "wall": ", wall-clock time", "p50": ", median round trip", "p99": ", 99th percentile",
    "traced": ", as counted by Python", "rss": ", as resident memory of the process", "above": "",
}  # fmt: skip
_KIB: Final = ("traced", "rss")
_TLS_LINES: Final = ("broadcast", "binary", "change", "send", "ack", "join", "memory-client", "start")
_ARRAY: Final = re.compile(r"\[[^\[\]{}]*\]")


def load() -> Run:
    """Return the recorded run."""
    return json.loads(KEPT.read_text(encoding="utf-8"))


def save(run: Run, path: Path) -> None:
    """Write a run, with each list of figures on one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _ARRAY.sub(lambda found: " ".join(found[0].split()), json.dumps(run, indent=1))
    path.write_text(text + "\n", encoding="utf-8")


def table(run: Run, carrier: str = TCP) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of the table: per figure, the best turn of each client and supawire's ratio."""
    head = ["scenario", *CLIENTS, f"{OURS} : {BARE}"]
    measured = run.get(SECTIONS[carrier], {})
    return head, [line for name in SCENARIOS if name in measured for line in lines(run, name, carrier)]


def lines(run: Run, name: str, carrier: str = TCP) -> Iterator[list[str]]:
    """Yield the lines of one scenario."""
    measured = run.get(SECTIONS[carrier], {})
    if name not in measured:
        return
    scenario, figures = SCENARIOS[name], measured[name]
    for measure in scenario.shows:
        bare = measured.get(scenario.against or name, {}).get(BARE, {}).get(measure)
        ours = figures.get(OURS, {}).get(measure)
        costs = [_shown(figures.get(client, {}).get(measure), measure) for client in CLIENTS]
        over = ", over TLS" if carrier == TLS else ""
        yield [scenario.says + _SAYS[measure] + over, *costs, _spread(ours, bare)]


TLS_SHOWN: Final = (OURS, FAST, BARE, PYTHON, NODE)


def tls_table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of the table of what TLS adds: the best turn over TLS, and its ratio to TCP.

    There is no ratio if the run did not measure both together, since the machine may have been slower for one of them.
    """
    together: bool = run.get("together", False)
    found: list[list[str]] = []
    for name in _TLS_LINES:
        tcp, tls = run["scenarios"].get(name, {}), run.get("tls", {}).get(name, {})
        for measure in SCENARIOS[name].shows if tls else ():
            cells: list[str] = []
            for client in TLS_SHOWN:
                over, plain = tls.get(client, {}).get(measure), tcp.get(client, {}).get(measure)
                ratio = f" ({min(over) / min(plain):.2f})" if together and over and plain else ""
                cells.append(_shown(over, measure) + ratio)
            found.append([SCENARIOS[name].says + _SAYS[measure], *cells])
    return ["scenario", *TLS_SHOWN], found


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
