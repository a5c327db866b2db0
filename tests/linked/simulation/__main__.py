"""Play random schedules on all cores.

`python -m tests.linked.simulation [--world database] [--schedules 20000] [--start N]`.
"""

import argparse
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from .play import PLAIN, STEPS, WORLDS, Failure, play, play_many, shrink


def main() -> int:
    """Return exit status 0 when all schedules hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", choices=WORLDS, default=PLAIN, help="database: a server that queries a database")
    parser.add_argument("--schedules", type=int, default=20_000)
    parser.add_argument("--start", type=int, help="first seed; random when left out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="play this one, shrink it, and print its trace")
    args = parser.parse_args()
    if args.seed is not None:
        failure = play(args.seed, world=args.world)
        print(shrink(failure) if failure else f"seed {args.seed} holds in the {args.world} world")
        return 1 if failure else 0
    start = random.SystemRandom().randrange(10**9) if args.start is None else args.start
    chunk = 50
    end = start + args.schedules
    seeds = [range(begin, min(begin + chunk, end)) for begin in range(start, end, chunk)]
    begun = time.monotonic()
    failures: list[Failure] = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for found in pool.map(partial(play_many, world=args.world), seeds):
            failures += found
            for failure in found:
                print(f"{failure.command}: {failure.message}", flush=True)
            if len(failures) > 20:
                pool.shutdown(cancel_futures=True)
                break
    seconds = time.monotonic() - begun
    for failure in failures[:3]:
        print(shrink(failure))
    rate = args.schedules * STEPS / seconds
    result = f"{len(failures)} failed" if failures else "all hold"
    played = f"{args.schedules} schedules of the {args.world} world from seed {start}"
    print(f"{played}: {result}; {rate:.0f} steps a second, {seconds:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
