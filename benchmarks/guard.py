"""A guard against slow-downs: `python -m benchmarks.guard`.

What a message costs in memory, as so many times what a plain loop needs for the same frames, is compared with what is
kept in `guard.json`. Each is the CPU time of the smallest of many short turns, interleaved, so a busy machine changes
little. The exit status is 1 when something costs 15 % more than what is kept; everything is then measured once more,
for longer. It is 1 as well when something costs 15 % less, since a figure that is too high would let slow-downs pass.
`--write` keeps the figures (the median of five runs), as after a change that is worth its price, or on another machine.
"""

import argparse
import asyncio
import gc
import json
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.frames import plain
from benchmarks.lanes import LANES, TOPIC, bare_turn

KEPT: Final = Path(__file__).resolve().parent / "guard.json"
ALLOWED: Final = 1.15
"""So many times the kept ratio, or so many times less, is still taken for noise."""
RUNS: Final = 5
"""Runs whose median is kept."""
SECONDS: Final = 4.0
LONGER: Final = 15.0

_BARE: Final = "plain loop"
_FRAMES: Final = {"change": "change", "change, columns read": "change", "presence diff, state read": "diff"}
"""Which frames a lane is compared on; the others on text."""


async def ratios(seconds: float) -> dict[str, float]:
    """What each lane costs, in plain loops; measured for so long."""
    bare = {kind: bare_turn(plain(kind, "2.0.0", TOPIC)) for kind in ("broadcast", "change", "diff")}
    async with AsyncExitStack() as stack:
        turns = {(_BARE, kind): turn for kind, turn in bare.items()}
        turns |= {("lane", name): await stack.enter_async_context(make()) for name, make in LANES.items()}
        best = dict.fromkeys(turns, float("inf"))
        until = time.monotonic() + seconds
        gc.collect()
        gc.disable()  # it comes when it likes, and is the machine's and the heap's affair
        try:
            while time.monotonic() < until:
                for name, turn in turns.items():
                    best[name] = min(best[name], await turn())
                gc.collect(0)
        finally:
            gc.enable()
    return {name: best["lane", name] / best[_BARE, _FRAMES.get(name, "broadcast")] for name in LANES}


def allowed(name: str) -> float:
    """Return the factor by which this lane may differ; the one of two threads varies by a third from run to run."""
    return 1.4 if name == "sync client" else ALLOWED


def slower(found: dict[str, float], kept: dict[str, float]) -> list[str]:
    """Return the lanes that cost too much more than what is kept, or of which nothing is kept."""
    return [name for name, ratio in found.items() if name not in kept or ratio > kept[name] * allowed(name)]


def stale(found: dict[str, float], kept: dict[str, float]) -> list[str]:
    """Return the lanes whose kept figure is too high, so that it would hide a slow-down, and those that are no more."""
    return [name for name, ratio in kept.items() if name not in found or found[name] * allowed(name) < ratio]


def main() -> int:
    """Measure, then keep or compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures")
    if parser.parse_args().write:
        runs = [asyncio.run(ratios(SECONDS)) for _ in range(RUNS)]
        found = {name: round(median(run[name] for run in runs), 3) for name in LANES}
        KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(found)
        return 0
    kept: dict[str, float] = json.loads(KEPT.read_text(encoding="utf-8"))
    found = asyncio.run(ratios(SECONDS))
    if missed := slower(found, kept):
        print("once more, for longer:", ", ".join(missed))
        again = asyncio.run(ratios(LONGER))
        found = {name: min(ratio, again[name]) for name, ratio in found.items()}
    for name, ratio in found.items():
        print(f"{name}: {ratio:.2f} plain loops, {ratio / kept.get(name, ratio):.2f} times what is kept")
    if missed := slower(found, kept):
        print(f"slower than what is kept, by more than {ALLOWED - 1:.0%}: {', '.join(missed)}")
    if old := stale(found, kept):
        print(f"cheaper than what is kept, which would hide a slow-down; keep it with --write: {', '.join(old)}")
    return bool(missed or old)


if __name__ == "__main__":
    sys.exit(main())
