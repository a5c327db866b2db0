"""Write the lock files beside this one again, from pyproject.toml: `python requirements/lock.py`.

dev.txt     the newest versions of everything, for the set-up command of README.md and for CI
test.txt    of these, what the tests need, for runs on other versions of Python
lowest.txt  the lowest versions that pyproject.toml allows of what users install, with the test tools of dev.txt
interop.txt the official Python clients (interop.in) and what they need, for an environment of their own
frameworks.txt
            what examples/frameworks needs (frameworks.in), for an environment of its own
queues.txt  the queues that benchmarks/queues compares with (queues.in), for an environment of their own

All are pinned by hash and name no index, so they work with every mirror. They hold for each supported Python.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def extras() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = {name: [Requirement(line) for line in lines] for name, lines in project["optional-dependencies"].items()}
    return {"": [Requirement(line) for line in project["dependencies"]], **every}


def users_requirements() -> list[Requirement]:
    """What is installed for users, with all extras; not what tests and checks need besides."""
    known = extras()
    (every,) = known["all"]
    return [line for name in ("", *sorted(every.extras)) for line in known[name] if line.name != "supawire"]


def pins(lock: Path) -> dict[str, str]:
    """Name and version of each line of a lock file."""
    lines = [line.partition(";")[0].rstrip(" \\") for line in lock.read_text(encoding="utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if line and line[0].isalnum()]
    return {canonicalize_name(name): version for name, version in pairs}


def compile_lock(target: str, *source_and_options: str) -> None:
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
        *("--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
        *("--upgrade", "--output-file", f"requirements/{target}", *source_and_options),
    ]
    subprocess.run(command, cwd=ROOT, check=True)


def main() -> None:
    project = ("pyproject.toml", "--extra")
    compile_lock("dev.txt", *project, "dev")
    compile_lock("test.txt", *project, "test", "--constraint", "requirements/dev.txt")
    compile_lock("interop.txt", "requirements/interop.in")
    compile_lock("frameworks.txt", "requirements/frameworks.in")
    compile_lock("queues.txt", "requirements/queues.in")
    newest = pins(HERE / "dev.txt")
    users = {canonicalize_name(line.name) for line in users_requirements()}
    tools = {canonicalize_name(line.name) for line in extras()["test"]} - users - {"supawire"}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.writelines(f"{name}=={newest[name]}\n" for name in sorted(tools))
        constraints.flush()
        source = (*project, "test", "--extra", "all")
        compile_lock("lowest.txt", *source, "--resolution", "lowest-direct", "--constraint", constraints.name)


if __name__ == "__main__":
    main()
