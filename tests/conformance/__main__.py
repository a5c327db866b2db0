"""Let the judge play against the local server: `python -m tests.conformance`.

Says what differs from the verdicts that are kept and what has no reason; its exit status is 1 then. With `--write` the
verdicts are kept as they are now, and `python -m docs.tables` brings them into the page.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from .judge import REPLAY, ROOT, play_all
from .verdicts import changed, known, load, save, unexplained, unneeded, verdict_of

LEVEL = "memory"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the verdicts")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "conformance.json", help="where the results go")
    options = parser.parse_args()
    if not REPLAY.exists():
        print("not run: the judge is not beside this repository, in ../shared/conformance")
        return 0
    started = time.monotonic()
    results = play_all()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({LEVEL: results}, indent=1), encoding="utf-8")
    verdicts, reasons = [verdict_of(result) for result in results], known(LEVEL)
    if options.write:
        save(LEVEL, verdicts)
    complaints = [
        *changed(load(LEVEL), verdicts),
        *(
            f"{one.scenario} {one.vsn}: {one.result}, and known.toml has no reason"
            for one in unexplained(verdicts, reasons)
        ),
        *(f"{pattern}: its reason in known.toml is not needed" for pattern in unneeded(verdicts, reasons)),
    ]
    print(*complaints, sep="\n")
    counts = {word: sum(one.result == word for one in verdicts) for word in ("identical", "differs", "not playable")}
    said = ", ".join(f"{count} {word}" for word, count in counts.items())
    print(f"{len(verdicts)} scenarios in {time.monotonic() - started:.0f} s: {said}")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
