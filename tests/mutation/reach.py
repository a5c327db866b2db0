"""pytest plugin that records which tests call which functions of `src`: `-p tests.mutation.reach`.

Writes `reach.json` in the current folder: for each function, as "path:line", the tests that call it in this process,
and under "" the tests that start other programs or call no function of `src`.
"""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

FILE: Final = Path("reach.json")
SOURCE: Final = str(Path("src").resolve())


class Reach:
    """The functions that the tests have called so far."""

    def __init__(self) -> None:
        self.called: set[tuple[str, int]] = set()
        self.tests: dict[str, list[str]] = {"": []}
        self.starts_programs = False
        sys.addaudithook(self.audit)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note that another process is started."""
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
            self.starts_programs = True

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        """Record a call; the profile function of each thread."""
        if event == "call":
            self.called.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Record the calls from the set-up of a test to the end of its tear-down."""
        self.called.clear()
        self.starts_programs = False
        threading.setprofile(self.note)
        sys.setprofile(self.note)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            places = [f"{file}:{line}" for file, line in self.called if file.startswith(SOURCE)]
            for place in places:
                self.tests.setdefault(place.removeprefix(f"{SOURCE}/"), []).append(item.nodeid)
            if self.starts_programs or not places:
                self.tests[""].append(item.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        FILE.write_text(json.dumps(self.tests), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin."""
    config.pluginmanager.register(Reach(), "reach-of-tests")
