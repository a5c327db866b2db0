"""`python -m tests.interop.rowtypes` runs three clients and writes measured.json; 20-interop installs the others."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from supawire import LocalServer, connect_async
from tests.conftest import NEEDS
from tests.interop.official import PEERS, Process
from tests.interop.rowtypes.cases import CASES
from tests.interop.rowtypes.measuring import Got, official, ours

MEASURED: Final = Path(__file__).parent / "measured.json"


async def measure(node: str, python: str) -> dict[str, dict[str, Got]]:
    """Return what each of the three clients delivers, by case."""
    javascript, realtime = Process([node, str(PEERS / "peer.mjs")]), Process([python, str(PEERS / "peer.py")])
    try:
        with LocalServer() as server:
            async with connect_async(server.url, server.token()) as client:
                here = await ours(server, client)
            there = await official(server, javascript, "2.0.0")
            other = await official(server, realtime, "1.0.0")
    finally:
        javascript.stop()
        realtime.stop()
    return {
        case.name: {"javascript": there[case.name], "python": other[case.name], "supawire": here[case.name]}
        for case in CASES
    }


def main() -> int:
    """Measure and write measured.json; the exit status is 1 if a client is not installed."""
    missing = [name for name in ("node", "realtime-js", "realtime-py") if NEEDS[name]() is None]
    if missing:
        print(f"not run: {', '.join(missing)} not on this machine; .ci/steps.d/20-interop installs the clients")
        return 1
    found = asyncio.run(measure(NEEDS["node"]() or "", NEEDS["realtime-py"]() or ""))
    MEASURED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, row in found.items():
        print(f"{name:14}", *(f"{' ' if got['exact'] else '✗'} {got['shown']:40}" for got in row.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
