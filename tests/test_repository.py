"""The repository: committed files, lock files, the audit of packages and the guard of the benchmarks."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from benchmarks.guard import ALLOWED, KEPT, slower, stale
from benchmarks.lanes import LANES
from requirements import lock
from tests.conftest import ROOT

PATHS = ["/" + folder + "/" for folder in ("home", "root", "Users", "opt")]
INDEXES = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"))]
LOCKS_WITH_ADDRESSES = {"uv.lock", "poetry.lock", "yarn.lock", "pnpm-lock.yaml"}


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not run: not a checkout of the repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def test_no_file_contains_paths_of_a_machine_or_hosts_of_an_index(tracked: list[Path]):
    """No committed file contains a folder of a certain machine or the host of a package index."""
    found = [
        f"{path.relative_to(ROOT).as_posix()}: {word}"
        for path in tracked
        for word in (*PATHS, *INDEXES)
        if word in text_of(path)
    ]
    assert found == []


def test_the_source_distribution_is_complete(tracked: list[Path]):
    """The source distribution contains every folder of the repository, so that the tests can run in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    names = {path.relative_to(ROOT).parts[0] for path in tracked}
    assert names - {name.removeprefix("/") for name in included} <= {".gitignore", "pyproject.toml"}


def test_lock_files_contain_no_addresses(tracked: list[Path]):
    """Formats of lock files that contain addresses are not committed, and the one of npm has none."""
    assert [path.name for path in tracked if path.name in LOCKS_WITH_ADDRESSES] == []
    assert [path.name for path in tracked if path.name == "package-lock.json" and '"resolved"' in text_of(path)] == []


LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def shown(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", LOCKS, ids=shown)
def test_locks_contain_no_index(path: Path):
    """A lock file has no address and no option except hashes, so that it works with every mirror."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "://" in line or " @ " in line or line.startswith("-")] == []


@pytest.mark.parametrize("path", LOCKS, ids=shown)
def test_locks_pin_by_hash(path: Path):
    """Each package of a lock file has one exact version and at least one SHA-256."""
    blocks = re.split(r"\n(?=\S)", path.read_text(encoding="utf-8").strip())
    assert len(blocks) > 10
    assert [
        block for block in blocks if not re.match(r"[\w.-]+==[^\s;]+( ; .+)? \\\n    --hash=sha256:[0-9a-f]{64}", block)
    ] == []


def test_the_newest_lock_meets_every_requirement():
    """Each requirement of pyproject.toml, for users and developers, is met by dev.txt (R47)."""
    pinned = lock.pins(ROOT / "requirements" / "dev.txt")
    requirements = [line for lines in lock.extras().values() for line in lines if line.name != "supawire"]
    unmet = [str(line) for line in requirements if pinned.get(canonicalize_name(line.name), "0") not in line.specifier]
    assert unmet == []


def test_the_extra_all_contains_every_extra_for_users():
    """`supawire[all]` installs each extra except those for the development of supawire."""
    extras = lock.extras()
    (every,) = extras["all"]
    assert every.name == "supawire"
    assert every.extras == extras.keys() - {"", "all", "test", "dev"}


def test_the_test_lock_is_a_subset_of_the_newest():
    """test.txt pins the same versions as dev.txt."""
    newest = lock.pins(ROOT / "requirements" / "dev.txt")
    assert lock.pins(ROOT / "requirements" / "test.txt").items() <= newest.items()


def test_the_lowest_lock_pins_the_lower_bounds():
    """lowest.txt pins for each runtime requirement the lower bound of pyproject.toml."""
    pinned = lock.pins(ROOT / "requirements" / "lowest.txt")
    for line in lock.users_requirements():
        (bound,) = line.specifier
        assert bound.operator == ">=", f"{line}: expected a lower bound only"
        assert Version(pinned[canonicalize_name(line.name)]) == Version(bound.version), line.name


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
def test_the_audit_reports_how_many_packages_it_checked(tmp_path: Path, packages: list[Any], says: str, status: int):
    """Skipped packages do not count as checked, and a known vulnerability fails the step."""
    report = tmp_path / "audit"
    report.write_text(json.dumps({"dependencies": packages, "fixes": []}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "audited.py"), str(report)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == (says, status)


def test_the_guard_reports_lanes_above_the_limit():
    """The limit is the documented one; a lane without a stored figure counts as slower."""
    kept = {"text": 2.0, "send": 6.0}
    assert ALLOWED == 1.15
    assert slower({"text": 2.31, "send": 6.0, "new": 1.0}, kept) == ["text", "new"]
    assert slower({"text": 2.29, "send": 6.89}, kept) == []


def test_the_guard_reports_stored_figures_that_are_too_high():
    """A figure that is no longer reached would hide the next slow-down, so it must be updated."""
    kept = {"text": 2.0, "send": 6.0, "gone": 1.0}
    assert stale({"text": 1.7, "send": 5.9}, kept) == ["text", "gone"]
    assert stale({"text": 1.75, "send": 5.3, "gone": 1.0}, kept) == []


def test_every_lane_has_a_stored_figure():
    """The stored figures are those of the existing lanes."""
    assert json.loads(KEPT.read_text(encoding="utf-8")).keys() == LANES.keys()
