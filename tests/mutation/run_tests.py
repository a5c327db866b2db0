"""Run tests until one fails, those first that are named like the changed module: `run_tests.py ORIGINAL FOLDER ...`.

The current folder is a copy of the repository in which one module differs from the original.
"""

import os
import subprocess
import sys
from pathlib import Path


def changed(original: Path) -> list[Path]:
    """Return the modules that differ from the original."""
    return [file for file in sorted(Path("src").rglob("*.py")) if file.read_bytes() != (original / file).read_bytes()]


def main() -> int:
    """Return what pytest says."""
    folders = sys.argv[2:]
    first = [
        str(test)
        for module in changed(Path(sys.argv[1]))
        for folder in folders
        if Path(folder).is_dir()
        for test in sorted(Path(folder).glob(f"test_{module.stem}*.py"))
    ]
    # tests with a database are all marked slow, and are the ones that look at it
    marks = [] if all(folder.startswith("tests/postgres") for folder in folders) else ["-m", "not slow"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *marks, "-p", "no:randomly", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(Path("src").resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*command, *first, *folders], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
