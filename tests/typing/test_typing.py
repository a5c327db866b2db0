"""The inferred types: files in cases/ state with `assert_type` what three type checkers must infer.

A line that must be refused carries an ignore comment for the first two; a comment that nothing needs is an error. The
third reads no comments, and must find errors in exactly these lines.
"""

import importlib.util
import json
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
    """Under this type checker every `assert_type` holds, and every wrong call is an error."""
    done = run_checker(*CHECKERS[checker])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_third_checker_refuses_the_same_lines():
    """pyrefly in strict mode infers the same types, and reports an error in exactly the expected lines."""
    interpreter = ("--python-interpreter-path", sys.executable, "--python-version", "3.11", "--search-path", "src")
    strict = ("--preset", "strict", "--enabled-ignores", "pyrefly", "--output-format", "json")
    done = run_checker("pyrefly", "check", *interpreter, *strict)
    errors = json.loads(done.stdout)["errors"]
    found = {(Path(error["path"]).name, error["line"]): error["description"] for error in errors}
    refused = {
        (case.name, number)
        for case in CASES.glob("*.py")
        for number, line in enumerate(case.read_text(encoding="utf-8").splitlines(), start=1)
        if "# type: ignore" in line
    }
    assert {place: text for place, text in found.items() if place not in refused} == {}
    assert refused - found.keys() == set()


def run_checker(module: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a type checker on the cases."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"not run: {module} belongs to the extra dev")
    return subprocess.run(
        [sys.executable, "-m", module, *options, str(CASES)], cwd=ROOT, capture_output=True, text=True, check=False
    )
