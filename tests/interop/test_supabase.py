"""The real package `supabase`: ours beside it is whoever is signed in there."""

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
    """What `session.py` tells of its story, in an interpreter that has the package and our sources."""
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
def test_who_is_signed_in_there_is_who_joins_here(require: Callable[[str], str], kind: str, door: str):
    """Sign-in, refresh, another user, sign-out, a session that must be refreshed first, and a header: each in turn."""
    assert told(require, kind, door) == STORY


def test_the_blocking_door_refuses_the_async_client(require: Callable[[str], str]):
    """`AsyncClient` is known by its `get_session`, is refused by `from_supabase`, and is left alone."""
    (said,) = told(require, "async", "blocking")
    assert said["part"] == "refused" and "this one is async" in said["error"]
    assert said["left"] == 1, "its own"
