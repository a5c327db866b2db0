"""Runs the judge on several groups of scenarios concurrently, each with a separate server process.

The judge is `replay.py` in a folder next to this repository; it replays the frames that clients sent to the real server
and compares the answers frame by frame. Its verdicts are recorded in `verdicts.json` and shown in
`docs/conformance.md`; `known.toml` gives the reason for every scenario that is not played or not identical.
"""

import json
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
SHARED: Final = ROOT.parent / "shared"
REPLAY: Final = SHARED / "conformance" / "replay.py"
FRAMES: Final = SHARED / "frames"
SECRET: Final = "super-secret-jwt-token-with-at-least-32-characters-long"
"""The default of the judge, which is public."""


class Group(NamedTuple):
    """Scenarios that are played one after another."""

    only: tuple[str, ...]
    skip: tuple[str, ...] = ()


SLOW: Final = ("idle-no-heartbeat", "channels-101", "server-sigterm")
GROUPS: Final = (
    Group(("idle-no-heartbeat",)),
    Group(("channels-101", "private v1", "binary", "pg*v1", "tenant-shutdown", "pg-restart", "*-rate")),
    Group(("*v1",), (*SLOW, "private", "pg*", "tenant-shutdown", "*-rate")),
    Group(("*v2",), (*SLOW, "private", "pg*")),
    Group(("private v2", "pg*v2")),
    Group(("server-sigterm",)),
)
"""Together they contain each scenario once. The server stops in the last group; the first takes more than a minute."""


class Server(NamedTuple):
    """A running server process. sql: how the judge runs SQL, as its arguments."""

    process: subprocess.Popen[str]
    port: int
    sql: list[str]


@contextmanager
def server(level: str) -> Generator[Server]:
    """Run the server in a separate process."""
    command = [sys.executable, "-m", "tests.conformance.server", level]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            emulated = ["--no-setup", "--sql-command", f"'{sys.executable}' '{HERE / 'sql.py'}' {ready.get('sql')}"]
            yield Server(process, ready["port"], ["--sql", ready["database"]] if "database" in ready else emulated)
        finally:
            process.terminate()


def play(level: str, group: Group) -> list[dict[str, Any]]:
    """Return the judge's results for one group."""
    with TemporaryDirectory() as folder, server(level) as at:
        results = Path(folder) / "results.json"
        command = [
            *(sys.executable, str(REPLAY), "--url", f"http://realtime-dev.localhost:{at.port}", "--timing"),
            *("--frames", str(FRAMES / "v1.jsonl"), "--frames", str(FRAMES / "v2.jsonl"), "--json", str(results)),
            *at.sql,
            *("--hook", f"stop-server=kill -TERM {at.process.pid}"),
        ]
        for pattern in group.only:
            command += ["--only", pattern]
        for pattern in group.skip:
            command += ["--skip", pattern]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not results.exists():
            raise RuntimeError(f"the judge did not finish:\n{done.stdout}{done.stderr}")
        return json.loads(results.read_text(encoding="utf-8"))


def play_all(level: str) -> list[dict[str, Any]]:
    """Return the results of all scenarios, sorted by name."""
    with ThreadPoolExecutor(len(GROUPS)) as pool:
        results = [result for group in pool.map(partial(play, level), GROUPS) for result in group]
    names = [result["scenario"] for result in results]
    assert len(names) == len(set(names)), "a scenario is in two groups"
    return sorted(results, key=lambda result: result["scenario"])
