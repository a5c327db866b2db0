"""What three clients deliver for each type of PostgreSQL, as the last measurement found it."""

import json

from docs.tables import ROOT, rows, table
from tests.interop.rowtypes.cases import CASES
from tests.interop.rowtypes.measuring import Got

MEASURED = ROOT / "tests" / "interop" / "rowtypes" / "measured.json"


@table("client-types")
def client_types() -> str:
    """Each type with a value, its JSON on the wire, and what the handlers of each client get."""
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
