"""Our client with the real package `supabase`: it joins as the user who is signed in there."""

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import ROOT

from .official import PEERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]  # importing the package is slow

EXPECTED: list[dict[str, Any]] = [
    {"part": "in and out", "users": ["alice/1", "alice/2", "bob/1", None], "left": 0},
    {"part": "nearly expired", "users": ["alice/2"]},
    {"part": "a header", "users": ["dave", "erin/1"]},
]


def run_session(require: Callable[[str], str], kind: str, ours: str) -> list[Any]:
    """Run `session.py` in an interpreter that has the package and our sources, and return its output."""
    done = subprocess.run(
        [require("supabase-py"), "-W", "error", str(PEERS / "session.py"), kind, ours],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("kind", "ours"), [("sync", "blocking"), ("sync", "async"), ("async", "async")])
def test_the_signed_in_user_joins(require: Callable[[str], str], kind: str, ours: str):
    """Our client uses the user after sign-in, refresh, another sign-in, sign-out, an expired session, and a header."""
    assert run_session(require, kind, ours) == EXPECTED


def test_the_sync_client_refuses_the_async_client_of_supabase(require: Callable[[str], str]):
    """`AsyncClient` is recognized by its `get_session`, refused by `from_supabase`, and not changed."""
    (line,) = run_session(require, "async", "blocking")
    assert line["part"] == "refused" and "this one is async" in line["error"]
    assert line["left"] == 1, "only the listener of supabase itself is left"
