"""Types are tested: the files of cases/ say with `assert_type` what two type checkers must infer.

A line that must be refused carries an ignore comment for each checker; a comment that nothing needs is an error.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CASES = Path(__file__).parent / "cases"

CHECKERS = {
    "basedpyright": ("basedpyright", "--warnings"),
    "mypy": ("mypy", "--strict", "--follow-imports=silent", "--no-incremental"),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_types_are_inferred_as_stated(checker: str):
    """Every `assert_type` holds, and every wrong call is refused, under this type checker."""
    module, *options = CHECKERS[checker]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"not run: {module} belongs to the extra dev")
    done = subprocess.run(
        [sys.executable, "-m", module, *options, str(CASES)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
