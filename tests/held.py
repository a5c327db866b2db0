"""The threads and open files of this process, as a set that can be compared.

Threads of other libraries may end during a test: Trio, for example, ends an idle thread after ten seconds.
"""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OPEN_FILES: Final = Path("/proc/self/fd")
"""The folder of open files; systems without it are checked for threads only."""

CLOSE_TIMEOUT: Final = 10.0
"""Seconds within which the other end of a closed connection must be gone."""


@dataclass(frozen=True)
class Held:
    """Threads, and file descriptors with what they refer to."""

    threads: frozenset[threading.Thread]
    files: frozenset[tuple[str, str]]

    @classmethod
    def now(cls) -> "Held":
        """Return the current threads and open files."""
        return cls(frozenset(threading.enumerate()), frozenset(_open_files()))

    def since(self, before: "Held") -> list[str]:
        """Return the threads and files that are not in the earlier set."""
        threads = [thread.name for thread in self.threads - before.threads]
        return sorted(threads + [f"{number} {target}" for number, target in self.files - before.files])


def left_since(before: Held) -> list[str]:
    """Return new threads and files after a wait, because a server in this process closes its ends later."""
    deadline = time.monotonic() + CLOSE_TIMEOUT
    while left := Held.now().since(before):
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return left


def _open_files() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for entry in OPEN_FILES.iterdir() if OPEN_FILES.is_dir() else ():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:  # the file of the listing itself, and files closed meanwhile
            continue
        if target != os.devnull:  # uvloop replaces a socket by it just before closing
            found.append((entry.name, target))
    return found
