"""Our client beside the real package `supabase`: it uses the user who is signed in there."""

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import ROOT

from .official import PEERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]  # the package takes its time to be imported

STORY: list[dict[str, Any]] = [
    {"part": "a day", "users": ["alice/1", "alice/2", "bob/1", None], "left": 0},
    {"part": "nearly over", "users": ["alice/2"]},
    {"part": "a header", "users": ["dave", "erin/1"]},
]


def told(require: Callable[[str], str], kind: str, door: str) -> list[Any]:
    """Run `session.py` in an interpreter that has the package and our sources, and return its output."""
    done = subprocess.run(
        [require("supabase-py"), "-W", "error", str(PEERS / "session.py"), kind, door],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("kind", "door"), [("sync", "blocking"), ("sync", "async"), ("async", "async")])
def test_the_signed_in_user_joins(require: Callable[[str], str], kind: str, door: str):
    """Sign-in, refresh, another user, sign-out, an expired session, and a header, in turn."""
    assert told(require, kind, door) == STORY


def test_the_sync_client_refuses_the_async_client_of_supabase(require: Callable[[str], str]):
    """`AsyncClient` is recognized by its `get_session`, refused by `from_supabase`, and not changed."""
    (said,) = told(require, "async", "blocking")
    assert said["part"] == "refused" and "this one is async" in said["error"]
    assert said["left"] == 1, "its own"
