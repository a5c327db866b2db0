"""The threads and open files of this process, as a set that can be compared.

Others' things may end while a test looks: Trio, for one, lets go of an idle thread after ten seconds.
"""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OPEN_FILES: Final = Path("/proc/self/fd")
"""Lists what is open, where the system has it; elsewhere only threads are seen."""

PATIENCE: Final = 10.0
"""Seconds within which the other end of a closed connection must be gone."""


@dataclass(frozen=True)
class Held:
    """Threads, and file descriptors with what they refer to."""

    threads: frozenset[threading.Thread]
    files: frozenset[tuple[str, str]]

    @classmethod
    def now(cls) -> "Held":
        """Return what is held at this moment."""
        return cls(frozenset(threading.enumerate()), frozenset(_open_files()))

    def since(self, before: "Held") -> list[str]:
        """Return what was not held before."""
        threads = [thread.name for thread in self.threads - before.threads]
        return sorted(threads + [f"{number} {target}" for number, target in self.files - before.files])


def left_since(before: Held) -> list[str]:
    """Return what is still held and was not before; waits, since a server in this process closes its ends later."""
    deadline = time.monotonic() + PATIENCE
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
        except FileNotFoundError:  # the listing itself, and what closed meanwhile
            continue
        if target != os.devnull:  # uvloop puts it in the place of a socket that it is about to close
            found.append((entry.name, target))
    return found
