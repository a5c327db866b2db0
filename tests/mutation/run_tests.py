"""Run the tests that can detect a change until one fails: `run_tests.py ORIGINAL FOLDER ...`.

The current folder is a copy of the repository in which one module differs from the original. Without a difference, all
tests of the folders run, and `reach.py` records which of them call which function. After a change in a function,
the tests that call it run, and those that start programs; after any other change, all tests.
"""

import ast
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

REACH = Path("reach.json")
SOURCE = Path("src")


def changed(original: Path) -> Path | None:
    """Return the module that differs from the original."""
    found = (file for file in sorted(SOURCE.rglob("*.py")) if file.read_bytes() != (original / file).read_bytes())
    return next(found, None)


def enclosing(module: Path, original: Path) -> int | None:
    """Return the first line of the function in which the module differs, or None outside functions."""
    before = (original / module).read_text(encoding="utf-8")
    pairs = zip(before.splitlines(), module.read_text(encoding="utf-8").splitlines(), strict=False)
    line = next(number for number, (old, new) in enumerate(pairs, 1) if old != new)
    starts = [
        min((node.lineno, *(decorator.lineno for decorator in node.decorator_list)))
        for node in ast.walk(ast.parse(before))
        # the line of a `def` has default values, which are evaluated when the module is imported
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body[0].lineno <= line <= (node.end_lineno or 0)
    ]
    return max(starts, default=None)


def selected(module: Path, original: Path, folders: list[str]) -> list[str]:
    """Return the arguments of pytest, with the tests that are named like the module first."""
    stem = module.stem.strip("_")
    line = enclosing(module, original)
    if line is None:
        named = [test for folder in folders if Path(folder).is_dir() for test in Path(folder).glob(f"test_{stem}*.py")]
        return [*map(str, sorted(named)), *folders]
    reach: dict[str, list[str]] = json.loads(REACH.read_text(encoding="utf-8"))
    calling = reach.get(f"{module.relative_to(SOURCE).as_posix()}:{line}", [])
    return list(dict.fromkeys([*sorted(calling, key=lambda test: f"/test_{stem}" not in test), *reach[""]]))


def main() -> int:
    """Return the exit status of pytest."""
    original, folders = Path(sys.argv[1]), sys.argv[2:]
    # tests with a database are all marked slow, and are needed for this folder
    marks = [] if all(folder.startswith("tests/postgres") for folder in folders) else ["-m", "not slow"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *marks, "-p", "no:randomly", "-p", "no:cacheprovider"]
    module = changed(original)
    if module is None:
        return run([*command, "-p", "tests.mutation.reach", *folders])
    arguments = selected(module, original, folders)
    if not arguments:
        print("no test calls this function")
        return 0
    tests = Path("selected.txt")
    tests.write_text("\n".join(arguments), encoding="utf-8")
    return run([*command, f"@{tests}"])


def run(command: list[str]) -> int:
    """Run a command on the copy's sources and return its exit status. It is killed when our own parent process ends."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
    parent = os.getppid()
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None:
            if os.getppid() != parent:
                process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
