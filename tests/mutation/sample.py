"""Choose mutants of a cosmic-ray session at random, and report: `sample.py choose FILE COUNT SEED`, `report FILE`.

Runs in the environment of cosmic-ray, see noxfile.py.
"""

import random
import re
import sys
from typing import Any

from cosmic_ray.work_db import WorkDB, use_db  # pyright: ignore[reportMissingImports]
from cosmic_ray.work_item import WorkerOutcome, WorkResult  # pyright: ignore[reportMissingImports]

EQUIVALENT = re.compile(r"BitOr_|_Is_Eq|_IsNot_NotEq")
"""Operators whose mutants are mostly equivalent: `|` is used in types, and `is` compares enum members or None."""


def choose(database: Any, count: int, seed: int) -> None:
    """Mark all mutants but some as skipped."""
    pending = sorted(database.pending_work_items, key=lambda item: str(item.mutations))
    random.Random(seed).shuffle(pending)
    candidates = [item for item in pending if not any(EQUIVALENT.search(one.operator_name) for one in item.mutations)]
    chosen = {item.job_id for item in candidates[:count]}
    print(f"{len(chosen)} of {len(candidates)} mutants are tried")
    for item in pending:
        if item.job_id not in chosen:
            database.set_result(item.job_id, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))


def report(database: Any) -> None:
    """Print how many were detected, and the difference of each one that was not."""
    tried = [(item, result) for item, result in database.completed_work_items if result.test_outcome is not None]
    survived = [(item, result) for item, result in tried if not result.is_killed]
    print(f"{len(tried)} tried, {len(tried) - len(survived)} detected, {len(survived)} survived")
    for _, result in survived:
        print(result.diff or "", "", sep="\n")


if __name__ == "__main__":
    with use_db(sys.argv[2], WorkDB.Mode.open) as opened:
        if sys.argv[1] == "choose":
            choose(opened, int(sys.argv[3]), int(sys.argv[4]))
        else:
            report(opened)
