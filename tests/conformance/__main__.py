"""Let the judge play against the local server: `python -m tests.conformance`.

Says what differs from the verdicts that are kept and what has no reason; its exit status is 1 then. With `--write` the
verdicts are kept as they are now, and `python -m docs.tables` brings them into the page.
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
    parser.add_argument("--write", action="store_true", help="keep the verdicts")
    parser.add_argument("--level", choices=LEVELS, help="only this one")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "conformance.json", help="where the results go")
    options = parser.parse_args()
    if not REPLAY.exists():
        print("not run: the judge is not beside this repository, in ../shared/conformance")
        return 0
    levels = [options.level] if options.level else list(LEVELS)
    started = time.monotonic()
    with ThreadPoolExecutor(len(levels)) as pool:  # most of it is waiting
        results = dict(zip(levels, pool.map(play_all, levels), strict=True))
    complaints: list[str] = []
    for level in levels:
        verdicts = [verdict_of(result) for result in results[level]]
        if options.write:
            save(level, verdicts)
        complaints += _complaints(level, verdicts)
        counts = {
            word: sum(one.result == word for one in verdicts) for word in ("identical", "differs", "not playable")
        }
        said = ", ".join(f"{count} {word}" for word, count in counts.items())
        print(f"{level}: {len(verdicts)} scenarios: {said}")
    print(f"{time.monotonic() - started:.0f} s")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(*complaints, sep="\n")
    return bool(complaints)


def _complaints(level: str, verdicts: list[Verdict]) -> list[str]:
    reasons = known(level)
    return [
        *(f"{level}: {line}" for line in changed(load(level), verdicts)),
        *(
            f"{level}: {one.scenario} {one.vsn}: {one.result}, and known.toml has no reason"
            for one in unexplained(verdicts, reasons)
        ),
        *(f"{level}: {pattern}: its reason in known.toml is not needed" for pattern in unneeded(verdicts, reasons)),
    ]


if __name__ == "__main__":
    sys.exit(main())
