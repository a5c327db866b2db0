"""A guard against slow-downs: `python -m benchmarks.guard`.

What a message costs in memory, as so many times what a plain loop needs for the same frames, is compared with what is
kept in `guard.json`. Each is the smallest of many short turns, interleaved, so a busy machine changes little. The exit
status is 1 when something costs 25 % more than it did; everything is then measured once more, for longer.
`--write` keeps the figures, as after a change that is worth its price, or on another machine or Python.
"""

import argparse
import asyncio
import gc
import json
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from benchmarks.frames import plain
from benchmarks.lanes import LANES, TOPIC, bare_turn

KEPT: Final = Path(__file__).resolve().parent / "guard.json"
ALLOWED: Final = 1.25
"""So many times the kept ratio is still taken for noise."""
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


def slower(found: dict[str, float]) -> list[str]:
    """Which lanes cost too much more than what is kept."""
    kept: dict[str, float] = json.loads(KEPT.read_text(encoding="utf-8"))
    return [name for name in LANES if name not in kept or found[name] > kept[name] * ALLOWED]


def main() -> int:
    """Measure, then keep or compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures")
    if parser.parse_args().write:
        found = asyncio.run(ratios(LONGER))
        KEPT.write_text(json.dumps({name: round(ratio, 3) for name, ratio in found.items()}, indent=1) + "\n")
        print(found)
        return 0
    found = asyncio.run(ratios(SECONDS))
    if slower(found):
        print("once more, for longer:", ", ".join(slower(found)))
        again = asyncio.run(ratios(LONGER))
        found = {name: min(ratio, again[name]) for name, ratio in found.items()}
    kept: dict[str, float] = json.loads(KEPT.read_text(encoding="utf-8"))
    for name, ratio in found.items():
        print(f"{name}: {ratio:.2f} plain loops, {ratio / kept.get(name, ratio):.2f} times what is kept")
    if missed := slower(found):
        print(f"slower than it was, by more than {ALLOWED - 1:.0%}: {', '.join(missed)}")
    return bool(slower(found))


if __name__ == "__main__":
    sys.exit(main())
