"""Fixtures of all tests: asyncio as backend, no connections to other machines, skipped or required programs.

The order of tests is random (pytest-randomly), each test has a time limit (pytest-timeout), warnings are errors.
"""

import ipaddress
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests import loops

ROOT = Path(__file__).resolve().parent.parent

FRESH = os.environ.get("SUPAWIRE_TEST_FRESH", "") not in ("", "0")
"""Whether generated inputs (Hypothesis, the simulation) differ from run to run. By default they are always the same, so
that a failure is due to the change that is tested."""

settings.register_profile("supawire", deadline=None, print_blob=True, derandomize=not FRESH)
settings.load_profile("supawire")

loops.install()

# Most users do not have the extra `fast`, so the tests do not use it either unless the variable is set. Those of the
# transport run with and without it, and .ci/run sets the variable on some versions of Python.
os.environ.setdefault("SUPAWIRE_FAST", "0")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, and all programs that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests under asyncio; `tests/loops.py` chooses the event loop."""
    return "asyncio"


@pytest.fixture(autouse=True)
def wait_for_token_threads() -> Iterator[None]:
    """Wait for the threads of token providers, which end shortly after their answer."""
    yield
    for thread in threading.enumerate():
        if thread.name == "supawire-token":
            thread.join(5)


# ------------------------------------------------------------------------------------- no connections to other machines


class OutsideConnection(RuntimeError):
    """A test tried to connect to an address that is not on this machine."""


_outside: list[str] = []


def _is_inside(host: object) -> bool:
    if host is None or host in ("", "localhost", b"localhost"):
        return True
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        if not isinstance(address, tuple) or _is_inside(address[0]):  # a path is a Unix socket
            return
        what = f"{event} {address[0]}:{address[1]}"
    elif event == "socket.getaddrinfo":
        if _is_inside(args[0]):
            return
        what = f"{event} {args[0]!r}"
    elif event in ("socket.gethostbyname", "socket.gethostbyaddr"):
        what = f"{event} {args[0]!r}"
    else:
        return
    _outside.append(what)
    raise OutsideConnection(f"{what}: tests talk to 127.0.0.1, ::1 and Unix sockets only")


# An audit hook cannot be removed, and is also called for C code and other threads. If code ignores the exception, the
# fixture below fails the test because of the recorded attempt.
sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def stay_inside() -> Iterator[None]:
    """Fail the test if anything in it tried to connect to another machine."""
    _outside.clear()
    yield
    assert not _outside, f"reached outside of this machine: {', '.join(_outside)}"


# ----------------------------------------------------------------------------------------- programs that may be missing


def _on_path(*names: str) -> Callable[[], str | None]:
    return lambda: next((found for name in names if (found := shutil.which(name))), None)


def _beside(path: str) -> Callable[[], str | None]:
    place = ROOT.parent / path
    return lambda: str(place) if place.exists() else None


def _inside(path: str) -> Callable[[], str | None]:
    place = ROOT / path
    return lambda: str(place) if place.exists() else None


def _installed(venv: str, package: str) -> Callable[[], str | None]:
    place = ROOT / venv
    return lambda: str(place / "bin/python") if any(place.glob(f"lib/*/site-packages/{package}")) else None


NEEDS: dict[str, Callable[[], str | None]] = {
    "node": _on_path("node", "nodejs"),
    "npm": _on_path("npm"),
    "redis-server": _on_path("redis-server"),
    "nats-server": _on_path("nats-server"),
    "chromium": _on_path("chromium", "chromium-browser", "google-chrome"),
    "conformance": _beside("shared/conformance/replay.py"),
    "frames": _beside("shared/frames"),
    "realtime-py": _installed("build/interop-python", "realtime"),  # .ci/steps.d/20-interop installs these four
    "supabase-py": _installed("build/interop-python", "supabase"),
    "frameworks": _installed("build/frameworks", "fastapi"),  # 20-frameworks installs this one
    "realtime-js": _inside("tests/interop/peers/node_modules/@supabase/realtime-js"),
    "supabase-js": _inside("tests/interop/peers/node_modules/@supabase/supabase-js"),
}


def find_needed(name: str) -> str:
    """Return the path of the program; if it is missing, skip, or fail if SUPAWIRE_REQUIRE names it."""
    found = NEEDS[name]()
    if found is not None:
        return found
    reason = f"{name} is not on this machine"
    if name in os.environ.get("SUPAWIRE_REQUIRE", "").split(","):
        pytest.fail(f"{reason}, and SUPAWIRE_REQUIRE names it", pytrace=False)
    pytest.skip(f"not run: {reason}")


@pytest.fixture(scope="session")
def require() -> Callable[[str], str]:
    """`require("node")` returns the path of a program of `NEEDS`, or skips or fails as `find_needed` does."""
    return find_needed


@pytest.fixture(autouse=True)
def needed(request: pytest.FixtureRequest) -> None:
    """Skip or fail a test or module with `@pytest.mark.needs("node", "chromium")` as `find_needed` does."""
    for marker in request.node.iter_markers("needs"):
        for name in marker.args:
            find_needed(name)
