"""The audit of CI says how many packages it has looked at."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

FINE: dict[str, Any] = {"name": "fine", "version": "1.0", "vulns": []}
WEAK: dict[str, Any] = {"name": "weak", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
SKIPPED: dict[str, Any] = {"name": "skipped", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "says", "status"),
    [
        ([FINE, FINE], "nothing known; 2 of 2 packages looked at\n", 0),
        ([FINE, SKIPPED], "nothing known; 1 of 2 packages looked at, not skipped\n", 0),
        ([SKIPPED, SKIPPED], "not run: none of 2 packages could be looked at\n", 0),
        ([], "not run: none of 0 packages could be looked at\n", 0),
        ([FINE, WEAK], "weak 2.0: PYSEC-1, fixed in 2.1\n1 known; 2 of 2 packages looked at\n", 1),
    ],
)
def test_an_audit_says_what_was_looked_at(tmp_path: Path, packages: list[Any], says: str, status: int):
    """Packages that were skipped do not count as sound, and what is known fails the step."""
    report = tmp_path / "audit"
    report.write_text(json.dumps({"dependencies": packages, "fixes": []}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "audited.py"), str(report)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == (says, status)
