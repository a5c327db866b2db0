"""The structure of the code: imports, clocks in the core, and docstrings of tests."""

import ast
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import structure
from tests.conftest import ROOT

SOURCE = ROOT / "src" / "supawire"

CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter", "uuid1", "uuid4", "urandom"}


def files(folder: Path, pattern: str = "*.py") -> list[tuple[str, Path]]:
    return [(path.relative_to(ROOT).as_posix(), path) for path in sorted(folder.rglob(pattern))]


def test_the_import_contracts_are_kept():
    """Every import-linter contract of pyproject.toml is kept."""
    pytest.importorskip("importlinter", reason="not run: import-linter belongs to the extra dev")
    command = [Path(sysconfig.get_path("scripts"), "lint-imports"), "--no-cache"]
    # in a separate process, because the linter reconfigures logging, which other tests use
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_no_circular_imports():
    """There are no circular imports at run time."""
    modules = structure.modules()
    assert structure.circles(modules, every=False) == []


def called_names(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            yield node.lineno, function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_the_core_reads_no_clock():
    """No module of the core reads a clock or creates a random id, not even through datetime or uuid."""
    core = files(SOURCE / "core")
    assert core
    assert [
        f"{name}:{line} {call}()" for name, path in core for line, call in called_names(path) if call in CLOCKS
    ] == []


def functions_in(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


def test_every_test_has_a_docstring():
    """The docstring of each test ends like a sentence."""
    undocumented = [
        f"{name}::{test.name}"
        for name, path in files(ROOT / "tests", "test_*.py")
        for test in functions_in(path)
        if not (ast.get_docstring(test) or "").rstrip().endswith((".", "!", "?"))
    ]
    assert undocumented == []
