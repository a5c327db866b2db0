"""Where clusters live and as whom: the folder of copies, the user in root's stead, programs that user can reach."""

import hashlib
import os
import pwd
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from supawire.errors import StateError
from supawire.server.postgres.binaries import WHEEL, Installation

CACHE: Final = "SUPAWIRE_CACHE"
"""Environment variable: another folder for what is made once, or empty for none."""
ROOTS_CACHE: Final = Path("/var/cache/supawire")
"""What root makes must be reached by another user, and be written by root alone."""
USERS: Final = ("postgres", "nobody", "daemon")


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
    base = _base()
    if base is None:
        return None
    folder = base / "clusters" if user is None else base / f"clusters-{user}"
    try:
        base.mkdir(mode=0o755 if user else 0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
    except OSError:  # a read-only home: it works without, and takes longer
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


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
    base = _base() or Path(tempfile.gettempdir())
    # not the version alone: two wheels may hold the same one, built differently
    built = (found.bin / "postgres").stat()
    mark = hashlib.sha256(f"{package} {built.st_size} {built.st_mtime_ns}".encode()).hexdigest()[:12]
    copy = base / f"postgresql-{found.version}-{mark}"
    if package.name == WHEEL and not copy.is_dir():
        base.mkdir(mode=0o755, parents=True, exist_ok=True)
        _copy(package, copy)
    programs = copy / WHEEL / "pginstall" / "bin"
    if not (copy.is_dir() and _open_to_all(programs / "postgres")):
        raise StateError(
            f"PostgreSQL refuses to run as root, and the user {user} can reach neither {found.bin} nor {copy}",
            hint=f"Set {CACHE} to a folder that everybody can read and only root can write.",
        )
    return Installation(programs, found.version)


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
