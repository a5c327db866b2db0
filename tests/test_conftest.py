"""The fixtures of all tests, tested in separate runs of pytest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ESCAPES = {
    "connect": "socket.create_connection(('192.0.2.1', 9), 0.01)",
    "name": "socket.getaddrinfo('example.invalid', 443)",
    "datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 9))",
}


def run_pytest(folder: Path, source: str, **environment: str) -> str:
    (folder / "test_inner.py").write_text(source)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "--rootdir", str(folder), "-c", os.devnull, str(folder / "test_inner.py"), "-rs"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_test_that_connects_to_another_machine_fails(tmp_path: Path):
    """A test that connects to another machine fails even if its code ignores the exception."""
    tests = [
        f"def test_{way}():\n    try:\n        {call}\n    except Exception:\n        pass\n"
        for way, call in ESCAPES.items()
    ]
    output = run_pytest(tmp_path, "import socket\n" + "".join(tests))
    assert f"{len(ESCAPES)} passed, {len(ESCAPES)} errors" in output
    assert output.count("reached outside of this machine") >= len(ESCAPES)


@pytest.mark.slow
def test_a_missing_program_skips_or_fails_the_test(tmp_path: Path):
    """A test whose program is missing is skipped with the reason, and fails if SUPAWIRE_REQUIRE names it."""
    source = "import pytest\n@pytest.mark.needs('chromium')\ndef test_it(): pass\n"
    skipped = run_pytest(tmp_path, source, PATH=str(tmp_path), SUPAWIRE_REQUIRE="")
    assert "not run: chromium is not on this machine" in skipped
    required = run_pytest(tmp_path, source, PATH=str(tmp_path), SUPAWIRE_REQUIRE="node,chromium")
    assert "SUPAWIRE_REQUIRE names it" in required
    assert "1 error" in required


async def test_async_tests_run_without_a_mark(anyio_backend_name: str):
    """An async test needs no mark and runs under asyncio."""
    assert anyio_backend_name == "asyncio"
