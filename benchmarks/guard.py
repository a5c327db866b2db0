"""A guard against slow-downs: `python -m benchmarks.guard`.

The cost of a message in memory, as a ratio to a plain loop with the same frames, is compared with the recorded figure
in `guard.json`. Both are the CPU time of the smallest of many short, interleaved turns, so a busy machine changes
little. The exit status is 1 when a case costs 15 % more than recorded, also in a second, longer measurement. It is 1 as
well when one costs 15 % less, since a figure that is too high would hide slow-downs. `--write` records the figures (the
median of five runs), after a change that is worth its cost, or on another machine.
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
"""The factor by which a ratio may differ from the recorded one, in both directions."""
RUNS: Final = 5
"""Number of runs whose median is recorded."""
SECONDS: Final = 4.0
LONGER: Final = 15.0

_BARE: Final = "plain loop"
_FRAMES: Final = {
    **dict.fromkeys(("change", "change, columns read", "change, dataclass"), "change"),
    "presence diff, state read": "diff",
}
"""The kind of frames of a case; broadcasts in text frames for the others."""


async def ratios(seconds: float) -> dict[str, float]:
    """Measure for this many seconds; returns the cost of each case as a multiple of a plain loop."""
    bare = {kind: bare_turn(plain(kind, "2.0.0", TOPIC)) for kind in ("broadcast", "change", "diff")}
    async with AsyncExitStack() as stack:
        turns = {(_BARE, kind): turn for kind, turn in bare.items()}
        turns |= {("lane", name): await stack.enter_async_context(make()) for name, make in LANES.items()}
        best = dict.fromkeys(turns, float("inf"))
        until = time.monotonic() + seconds
        gc.collect()
        gc.disable()  # a collection at a random time would change the figures
        try:
            while time.monotonic() < until:
                for name, turn in turns.items():
                    best[name] = min(best[name], await turn())
                gc.collect(0)
        finally:
            gc.enable()
    return {name: best["lane", name] / best[_BARE, _FRAMES.get(name, "broadcast")] for name in LANES}


def allowed(name: str) -> float:
    """Return the factor by which this case may differ; the one with two threads varies by a third between runs."""
    return 1.4 if name == "sync client" else ALLOWED


def slower(found: dict[str, float], kept: dict[str, float]) -> list[str]:
    """Return the cases that cost too much more than recorded, or that have no recorded figure."""
    return [name for name, ratio in found.items() if name not in kept or ratio > kept[name] * allowed(name)]


def stale(found: dict[str, float], kept: dict[str, float]) -> list[str]:
    """Return the cases whose recorded figure is too high, so that it would hide a slow-down, and removed cases."""
    return [name for name, ratio in kept.items() if name not in found or found[name] * allowed(name) < ratio]


def main() -> int:
    """Measure, then record or compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--write", action="store_true", help="record the figures")
    if parser.parse_args().write:
        runs = [asyncio.run(ratios(SECONDS)) for _ in range(RUNS)]
        found = {name: round(median(run[name] for run in runs), 3) for name in LANES}
        KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(found)
        return 0
    kept: dict[str, float] = json.loads(KEPT.read_text(encoding="utf-8"))
    found = asyncio.run(ratios(SECONDS))
    if missed := slower(found, kept):
        print("measuring again, for longer:", ", ".join(missed))
        again = asyncio.run(ratios(LONGER))
        found = {name: min(ratio, again[name]) for name, ratio in found.items()}
    for name, ratio in found.items():
        print(f"{name}: {ratio:.2f} plain loops, {ratio / kept.get(name, ratio):.2f} times the recorded figure")
    if missed := slower(found, kept):
        print(f"slower than recorded, by more than {ALLOWED - 1:.0%}: {', '.join(missed)}")
    if old := stale(found, kept):
        print(f"faster than recorded, which would hide a slow-down; record it with --write: {', '.join(old)}")
    return bool(missed or old)


if __name__ == "__main__":
    sys.exit(main())
