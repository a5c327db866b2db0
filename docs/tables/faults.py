"""What faults do to the official client and to ours, as the last run of the matrix found it."""

import json
from typing import Any

from docs.tables import ROOT, rows, table
from tests.faults.matrix.cases import CASES

RESULTS = ROOT / "tests" / "faults" / "matrix" / "results.json"


@table("fault-matrix")
def fault_matrix() -> str:
    """Each case, and what became of either client."""
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return rows(
        ["what happens", "supawire", "`realtime` 2.34.1"],
        [[one.title, *(_said(found[one.name][side]) for side in ("ours", "theirs"))] for one in CASES],
    )


def _said(result: dict[str, Any]) -> str:
    return f"{'✓' if result['good'] else '✗'} {result['says']}"
