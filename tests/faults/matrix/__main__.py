"""Run the matrix: `python -m tests.faults.matrix` runs both clients and writes results.json, `--check` ours alone."""

import argparse
import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tests.conftest import NEEDS, ROOT
from tests.faults.matrix.cases import CASES, Case, Stage, prepare
from tests.faults.misbehaver import Misbehaver

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results.json"
SIDES: Final = ("ours", "theirs")
_CASE_TIMEOUT: Final = 150
"""Seconds; a case that takes longer has an error itself."""


async def run_case(one: Case, side: str, interpreter: str) -> dict[str, Any]:
    """Run a case with one client and return its result."""
    async with Misbehaver() as server:
        prepare(one.name, server)
        stage = Stage(server)
        process = await asyncio.create_subprocess_exec(
            interpreter, str(HERE / f"{side}.py"), one.program, server.url, json.dumps(one.options),
            cwd=HERE, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=_environment(side),
        )  # fmt: skip
        listening = asyncio.create_task(_listen(process, stage))
        try:
            async with asyncio.timeout(_CASE_TIMEOUT):
                good, summary = await one.script(stage)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await listening
    return {"good": good, "says": summary}


def _environment(side: str) -> dict[str, str]:
    """Return the environment variables: ours imports this source tree, theirs has a separate virtual environment."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | ({"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"} if side == "ours" else {})


async def _listen(process: Process, stage: Stage) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        stage.add(json.loads(line))


async def run(sides: Iterable[str], interpreters: dict[str, str], names: list[str]) -> dict[str, dict[str, Any]]:
    """Run all cases of these sides concurrently; most of the time they wait."""
    cases = [one for one in CASES if not names or one.name in names]
    slots = asyncio.Semaphore(8)

    async def one_of(one: Case, side: str) -> tuple[str, str, dict[str, Any]]:
        async with slots:
            return one.name, side, await run_case(one, side, interpreters[side])

    found = await asyncio.gather(*(one_of(one, side) for one in cases for side in sides))
    results: dict[str, dict[str, Any]] = {}
    for name, side, result in found:
        results.setdefault(name, {})[side] = result
    return results


def main() -> int:
    """Print the matrix; the exit status is 0 if our client passes or, with --check, equals the recorded results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="run ours alone and compare it with results.json")
    parser.add_argument("names", nargs="*", help="only these cases, and write nothing")
    chosen = parser.parse_args()
    theirs = NEEDS["realtime-py"]()
    if not chosen.check and theirs is None:
        print("not run: realtime-py is not on this machine; .ci/steps.d/20-interop installs it")
        return 1
    sides = SIDES[:1] if chosen.check else SIDES
    interpreters = {"ours": sys.executable, "theirs": theirs or ""}
    results = asyncio.run(run(sides, interpreters, chosen.names))
    for name, row in results.items():
        for side, result in row.items():
            print(f"{name:20} {side:6} {'good' if result['good'] else 'BAD ':4} {result['says']}")
    if chosen.check:
        return _compare(results)
    if not chosen.names:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["ours"]["good"] for row in results.values()) else 1


def _compare(results: dict[str, dict[str, Any]]) -> int:
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    differing = [name for name, row in results.items() if kept.get(name, {}).get("ours") != row["ours"]]
    for name in differing:
        print(f"{name}: results.json says {kept.get(name, {}).get('ours')}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
