"""Fuzz a target: `python -m tests.fuzz TARGET --seconds 60` uses a new seed each time.

`--inputs N --seed S` runs the same N inputs each time, as CI does; `--input` runs one input again.
"""

import argparse
import base64
import random
import sys
import time

from tests.fuzz.engine import Finding, after_inputs, after_seconds, corpus, fuzz, run_once, shrunk
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Fuzz one target; returns the exit status, 1 when an error was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    bound.add_argument("--inputs", type=int, default=None, help="how many inputs, those of the corpus included")
    parser.add_argument("--seed", type=int, default=None, help="of the random numbers; by default a new one each time")
    parser.add_argument("--input", default=None, help="run only this input, in base64, as a finding prints it")
    options = parser.parse_args()
    target = TARGETS[options.target]()
    if options.input is not None:
        finding = run_once(target, base64.b64decode(options.input))
        print("nothing found" if finding is None else finding.text)
        return finding is not None
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"{options.target}: seed {seed}", flush=True)
    began = time.monotonic()
    if options.inputs is None:
        until = after_seconds(options.seconds)
    else:
        until = after_inputs(options.inputs - len(corpus(target)))
    count, finding = fuzz(target, random.Random(seed), until)
    print(f"{options.target}: {count} inputs in {time.monotonic() - began:.0f} s")
    if finding is None:
        return 0
    report(options.target, shrunk(target, finding, seconds=20.0))
    return 1


def report(name: str, finding: Finding) -> None:
    """Print the finding and the command that repeats it."""
    print(finding.text)
    print(f"input ({len(finding.data)} bytes): {finding.data[:400]!r}")
    print(f"repeat: python -m tests.fuzz {name} --input {base64.b64encode(finding.data).decode()}")


sys.exit(main())
