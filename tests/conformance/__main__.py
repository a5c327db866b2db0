"""Compare the local server with the recordings of the real one: `python -m tests.conformance`.

Prints verdicts that differ from the recorded ones and verdicts without a reason; the exit status is 1 if there are any.
With `--write` the verdicts are recorded, and `python -m docs.tables` writes them into the page.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .judge import REPLAY, ROOT, play_all
from .verdicts import LEVELS, Verdict, changed, known, load, save, unexplained, unneeded, verdict_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the verdicts")
    parser.add_argument("--level", choices=LEVELS, help="run only this backend")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "conformance.json", help="file for the results")
    options = parser.parse_args()
    if not REPLAY.exists():
        print("not run: the judge is not in ../shared/conformance")
        return 0
    levels = [options.level] if options.level else list(LEVELS)
    started = time.monotonic()
    with ThreadPoolExecutor(len(levels)) as pool:  # most of the time is waiting
        results = dict(zip(levels, pool.map(play_all, levels), strict=True))
    problems: list[str] = []
    for level in levels:
        verdicts = [verdict_of(result) for result in results[level]]
        if options.write:
            save(level, verdicts)
        problems += _problems(level, verdicts)
        counts = {
            result: sum(one.result == result for one in verdicts) for result in ("identical", "differs", "not playable")
        }
        summary = ", ".join(f"{count} {result}" for result, count in counts.items())
        print(f"{level}: {len(verdicts)} scenarios: {summary}")
    print(f"{time.monotonic() - started:.0f} s")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(*problems, sep="\n")
    return bool(problems)


def _problems(level: str, verdicts: list[Verdict]) -> list[str]:
    reasons = known(level)
    return [
        *(f"{level}: {line}" for line in changed(load(level), verdicts)),
        *(
            f"{level}: {one.scenario} {one.vsn}: {one.result}, and known.toml has no reason"
            for one in unexplained(verdicts, reasons)
        ),
        *(f"{level}: {pattern}: its reason in known.toml applies nowhere" for pattern in unneeded(verdicts, reasons)),
    ]


if __name__ == "__main__":
    sys.exit(main())
