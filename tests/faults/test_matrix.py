"""The committed fault matrix is complete, and both clients have every program."""

import ast
import json

from tests.faults.matrix.__main__ import HERE, RESULTS, SIDES
from tests.faults.matrix.cases import CASES


def test_every_case_has_results_of_both_clients():
    """The page shows a run of exactly these cases, in which our client passes."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert list(results) == [one.name for one in CASES]
    assert all(set(row) == set(SIDES) for row in results.values())
    assert [name for name, row in results.items() if not row["ours"]["good"]] == []


def test_both_clients_have_the_same_programs():
    """Each program of a case exists for both clients under the same name."""
    programs: dict[str, set[str]] = {}
    for side in SIDES:
        tree = ast.parse((HERE / f"{side}.py").read_text(encoding="utf-8"))
        programs[side] = {part.name for part in tree.body if isinstance(part, ast.AsyncFunctionDef)}
    assert programs["ours"] == programs["theirs"] >= {one.program for one in CASES}
