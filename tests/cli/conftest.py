"""Run commands like a user: the installed script in a separate process."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).parent / "supawire"
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name == "SUPAWIRE_FAST"
    or (not name.startswith(("SUPAWIRE_", "COV_")) and name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM"))
}
DEADLINE = 30.0
"""Seconds for one command."""

SERVES = 300.0
"""Seconds for a server that many tests share, on a busy machine."""


class Done:
    """The output and the exit code of a command."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr


def supawire(*arguments: str, **environment: str) -> Done:
    """Run a command to its end."""
    return Done(
        subprocess.run(
            [SCRIPT, *arguments],
            env=ENVIRONMENT | environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE,
            check=False,
        )
    )


class Serving:
    """A running `supawire serve`, whose banner has been read."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [SCRIPT, "serve", "--port", "0", *arguments],
            env=ENVIRONMENT | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._watchdog = threading.Timer(SERVES, self._process.kill)
        self._watchdog.start()
        try:
            self.banner = "".join(iter(self._line, ""))
        except BaseException:  # the test timed out, or Ctrl-C: end the process before the error continues
            self.end()
            raise

    def _line(self) -> str:
        """Return the next line of the banner, or an empty text after its last line."""
        assert self._process.stdout is not None
        if hasattr(self, "_ended"):
            return ""
        line = self._process.stdout.readline()
        if line.startswith("Ctrl-C") or not line:
            self._ended = True
        return line

    @property
    def url(self) -> str:
        """Return the URL of the server."""
        found = re.search(r"URL +(http://\S+)", self.banner)
        assert found, self.banner
        return found[1]

    def exported(self, name: str) -> str:
        """Return a value that `--show-keys` printed."""
        found = re.search(rf"^export {name}=(\S+)$", self.banner, re.MULTILINE)
        assert found, self.banner
        return found[1]

    def stop(self, number: int = signal.SIGTERM) -> Done:
        """Send a signal and wait for the end."""
        self._process.send_signal(number)
        out, err = self._process.communicate()
        self._watchdog.cancel()
        return Done(subprocess.CompletedProcess((), self._process.returncode, out, err))

    def end(self) -> None:
        """End the process in any case."""
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(ValueError):  # its pipes were read to the end
            self._process.communicate()
        self._watchdog.cancel()


@pytest.fixture
def serving() -> Iterator[Callable[..., Serving]]:
    """`serving("--strict", SUPAWIRE_SECRET=…)` starts a server on a free port; it ends with the test."""
    started: list[Serving] = []

    def start(*arguments: str, **environment: str) -> Serving:
        started.append(Serving(*arguments, **environment))
        return started[-1]

    yield start
    for one in started:
        one.end()
