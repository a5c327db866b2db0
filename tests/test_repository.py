"""What is committed belongs to any machine: no paths of one, no addresses of package indexes."""

import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

PATHS = ["/" + folder + "/" for folder in ("home", "root", "Users", "opt")]
INDEXES = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"))]
LOCKS_WITH_ADDRESSES = {"uv.lock", "poetry.lock", "yarn.lock", "pnpm-lock.yaml"}


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not run: this is no checkout of the repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def test_nothing_names_a_machine_or_an_index(tracked: list[Path]):
    """No committed file names a folder of somebody's machine or the host of a package index."""
    found = [
        f"{path.relative_to(ROOT).as_posix()}: {word}"
        for path in tracked
        for word in (*PATHS, *INDEXES)
        if word in text_of(path)
    ]
    assert found == []


def test_the_source_distribution_has_what_the_repository_has(tracked: list[Path]):
    """Its tests can only be collected and pass there with every folder that they use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    names = {path.relative_to(ROOT).parts[0] for path in tracked}
    assert names - {name.removeprefix("/") for name in included} <= {".gitignore", "pyproject.toml"}


def test_no_lock_file_holds_addresses(tracked: list[Path]):
    """Lock files whose format writes addresses stay out, and npm's has none in it."""
    assert [path.name for path in tracked if path.name in LOCKS_WITH_ADDRESSES] == []
    assert [path.name for path in tracked if path.name == "package-lock.json" and '"resolved"' in text_of(path)] == []
