"""The lock files are complete, pinned by hash, and say nothing about where packages come from."""

import re
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from requirements import lock
from tests.conftest import ROOT

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def shown(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", LOCKS, ids=shown)
def test_locks_name_no_index(path: Path):
    """A lock file has no address and no option but hashes, so that it works with every mirror."""
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


def test_the_newest_lock_holds_what_the_package_asks_for():
    """Each requirement of pyproject.toml, for users and developers, is met by dev.txt (R47)."""
    pinned = lock.pins(ROOT / "requirements" / "dev.txt")
    asked = [line for lines in lock.extras().values() for line in lines if line.name != "supawire"]
    unmet = [str(line) for line in asked if pinned.get(canonicalize_name(line.name), "0") not in line.specifier]
    assert unmet == []


def test_the_test_lock_is_a_part_of_the_newest():
    """test.txt pins nothing differently from dev.txt."""
    newest = lock.pins(ROOT / "requirements" / "dev.txt")
    assert lock.pins(ROOT / "requirements" / "test.txt").items() <= newest.items()


def test_the_lowest_lock_is_the_lower_bounds():
    """lowest.txt pins for each package of the users the version that pyproject.toml names as the oldest (R47)."""
    pinned = lock.pins(ROOT / "requirements" / "lowest.txt")
    for line in lock.users_requirements():
        (bound,) = line.specifier
        assert bound.operator == ">=", f"{line}: a lower bound and nothing else"
        assert Version(pinned[canonicalize_name(line.name)]) == Version(bound.version), line.name
