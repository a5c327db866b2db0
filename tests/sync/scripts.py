"""Programs in processes of their own, for tests of interrupts, forks and the exit of the interpreter."""

import os
import signal
import subprocess
import sys
import textwrap
from types import TracebackType
from typing import Final, Self

from supawire import LocalServer
from tests.conftest import ROOT
from tests.faults.misbehaver import Misbehaver

EXIT_TIMEOUT: Final = 30.0
"""Timeout in seconds for the end of a program."""

WARNINGS: Final = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
"""All warnings are errors, except the one of newer versions of Python that a process with threads forks."""

PRELUDE: Final = '''
import os, signal, sys, threading, time
import supawire
from supawire import broadcast, changes, presence

URL, KEY = sys.argv[1:]
MAIN = threading.main_thread().ident

def report(value):
    os.write(1, f"{value}\\n".encode())

def report_when_blocked(module):
    """Report `blocked` when the main thread waits in the function `wait` of this module."""
    def watch_main_thread():
        while True:
            frame = sys._current_frames()[MAIN]
            caller = frame.f_back and frame.f_back.f_back  # the caller of OneShotLock.wait
            code = caller.f_code if caller else None
            blocked = frame.f_code.co_name == "acquire_in_steps" and code.co_name == "wait"
            if blocked and code.co_filename.endswith(f"{module}.py"):
                return report("blocked")
            time.sleep(0.001)
    threading.Thread(target=watch_main_thread, daemon=True).start()

def ours():
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("supawire"))
'''


class Program:
    """A Python program with the functions of `PRELUDE`, the server's URL and key, and warnings as errors."""

    def __init__(self, server: "LocalServer | Misbehaver", source: str) -> None:
        key = server.anon_key if isinstance(server, LocalServer) else "key"
        self._process = subprocess.Popen(
            [sys.executable, *WARNINGS, "-c", PRELUDE + textwrap.dedent(source), server.url, key],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def read_line(self) -> str:
        """Return the next line of its output."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def resume(self) -> None:
        """Let `sys.stdin.readline()` return."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def interrupt(self) -> None:
        """Send the signal of Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, list[str], str]:
        """Wait for its end; return the exit code, the remaining lines of its output, and its error output."""
        out, err = self._process.communicate(timeout=EXIT_TIMEOUT)
        return self._process.returncode, out.split("\n")[:-1], err

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        with self._process:
            pass
