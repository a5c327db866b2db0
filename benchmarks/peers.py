"""The commands that start the clients, and the installation of the official ones, pinned by hash.

They are installed in the same folders as for `tests/interop`.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.scenarios import BARE, FAST, NODE, PLAIN, PYTHON, SYNC

ROOT: Final = Path(__file__).resolve().parent.parent
_PYTHON_HOME: Final = ROOT / "build" / "interop-python"
_PYTHON: Final = _PYTHON_HOME / "bin" / "python"
_NODE_HOME: Final = ROOT / "tests" / "interop" / "peers"


def install_python() -> str | None:
    """Install the official Python client; returns the reason if that fails, else None."""
    steps = [
        [sys.executable, "-m", "venv", str(_PYTHON_HOME)],
        [str(_PYTHON), "-m", "pip", "install", "-qq", "--require-hashes", "-r", "requirements/interop.txt"],
    ]
    if _PYTHON.exists() and _runs([str(_PYTHON), "-c", "import realtime"]):
        return None
    return None if all(map(_runs, steps)) else "its packages cannot be installed"


def install_node() -> str | None:
    """Install the official JavaScript client; returns the reason if that fails, else None."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not on this machine"
    if (_NODE_HOME / "node_modules" / "@supabase").exists():
        return None
    steps = ["npm", "ci", "--ignore-scripts", "--loglevel=error", "--prefix", str(_NODE_HOME)]
    return None if _runs(steps) else "its packages cannot be installed"


def command(client: str, url: str, topic: str, task: str) -> list[str]:
    """Return the command line that starts a client."""
    arguments = [url, topic, task]
    does = json.loads(task)["does"]
    if client == NODE:
        return ["node", "--expose-gc", "benchmarks/clients/official.mjs", *arguments, str(_NODE_HOME)]
    python = str(_PYTHON) if client in (PYTHON, PLAIN) else sys.executable
    if does == "wake":
        return [python, "-m", "benchmarks.clients.wake", "sync" if client == SYNC else "async", *arguments]
    module = {SYNC: "sync", BARE: "bare", PLAIN: "plain", PYTHON: "official"}.get(client, "ours")
    if does in ("import", "start"):
        return [python, "benchmarks/clients/start.py", module, *arguments]
    if does in ("join", "memory"):
        return [python, "-m", "benchmarks.clients.cold", module, *arguments]
    return [python, "-m", f"benchmarks.clients.{module}", *arguments]


def versions(clients: set[str]) -> dict[str, str]:
    """Return the versions of the compared clients."""
    said = "import sys, importlib.metadata as m; print(*(m.version(name) for name in sys.argv[1:]))"
    found: dict[str, str] = {}
    for wanted, python, names in (
        (True, sys.executable, ["aiohttp", "msgspec"]),
        (FAST in clients, sys.executable, ["aiofastnet"]),
        (PYTHON in clients, str(_PYTHON), ["realtime", "websockets"]),
    ):
        if wanted:
            output = subprocess.run([python, "-c", said, *names], capture_output=True, text=True, check=True).stdout
            found.update(zip(names, output.split(), strict=True))
    if NODE in clients:
        found["node"] = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        package = (_NODE_HOME / "node_modules" / "@supabase" / "realtime-js" / "package.json").read_text(
            encoding="utf-8"
        )
        found["realtime-js"] = package.partition('"version": "')[2].partition('"')[0]
    return found


def _runs(step: list[str]) -> bool:
    return subprocess.run(step, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode == 0
