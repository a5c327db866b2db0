"""Table of what failures do to the official client and to supawire, from the recorded run of the matrix."""

import json
from typing import Any

from docs.tables import ROOT, rows, table
from tests.faults.matrix.cases import CASES

RESULTS = ROOT / "tests" / "faults" / "matrix" / "results.json"


@table("fault-matrix")
def fault_matrix() -> str:
    """Return the table of all cases with the outcome for both clients."""
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return rows(
        ["failure", "supawire", "`realtime` 2.34.1"],
        [[one.title, *(_outcome(found[one.name][side]) for side in ("ours", "theirs"))] for one in CASES],
    )


def _outcome(result: dict[str, Any]) -> str:
    return f"{'✓' if result['good'] else '✗'} {result['says']}"
