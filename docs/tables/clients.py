"""Table of what three clients deliver for each PostgreSQL type, from the recorded measurement."""

import json

from docs.tables import ROOT, rows, table
from tests.interop.rowtypes.cases import CASES
from tests.interop.rowtypes.measuring import Got

MEASURED = ROOT / "tests" / "interop" / "rowtypes" / "measured.json"


@table("client-types")
def client_types() -> str:
    """Return the table: each type with a value, its JSON on the wire, and what handlers of each client receive."""
    found: dict[str, dict[str, Got]] = json.loads(MEASURED.read_text(encoding="utf-8"))
    lines = [
        [
            f"`{case.declared}`",
            "null" if case.text is None else f"`{case.text}`",
            f"`{case.wire}`",
            *(_shown(found[case.name][side]) for side in ("javascript", "python", "supawire")),
        ]
        for case in CASES
    ]
    return rows(["PostgreSQL", "value", "sent", "`realtime-js` 2.119.1", "`realtime` 2.34.1", "supawire"], lines)


def _shown(got: Got) -> str:
    return f"{'' if got['exact'] else '✗ '}`{got['shown']}`"
