"""The table of what the library promises, with the tests that hold each, from the docstrings of the tests."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from docs.tables import ROOT, rows

PROMISES: Final = {
    1: "No exception of user code ends reading, heartbeats or reconnecting",
    2: "Every background task has an owner; one that ends unforeseen is heard by everyone who waits",
    3: "Reconnects for ever, with jitter and a cap; a limit is opt-in and its end is typed",
    4: "A heartbeat without an answer closes the socket and reconnects",
    5: "A heartbeat of an old connection never counts on a new one; traffic does not delay heartbeats",
    6: "After sleep or a clock jump: probe at once, a fresh token before the next join",
    7: "Every close that was not asked for is followed by a reconnect",
    8: "Accept-then-close cannot spin",
    9: "Clients that are dropped together come back spread out; rejoins are paced",
    10: "`close()` from anywhere, idempotent, bounded; nothing is left",
    11: "A closed client stays closed and says so",
    12: "What belongs to an older join is ignored and counted",
    13: "A join that timed out is left before the next one",
    14: "Every push carries the join_ref of its join",
    15: "A join is computed from the live listeners; binding ids are those of the last reply",
    16: "The server's echo is compared after normalising; a mismatch is reported and ends nothing",
    17: "A listener added after the join works, or joins again; it is never silently inert",
    18: "Joined and ready are two levels, and both can be awaited",
    19: "A `system` error of postgres_changes degrades; it neither ends nor renews the join",
    20: "Leave and subscribe again, any number of times",
    21: "The same topic asked twice is the same channel, or an error",
    22: "A join's deadline belongs to one attempt",
    23: "`subscribe()` returns when joined and raises the server's reason otherwise",
    24: "Leaving affects that join alone and leaves nothing behind",
    25: "A token source is asked before connects, joins and expiry; every join carries the newest token",
    26: "An expired token is refreshed and the channel joined again; never an endless loop with a dead one",
    27: "A provider that fails keeps the old token; a late answer never overwrites a newer one",
    28: "No veto on tokens and keys that are no JWTs",
    29: "What is refused for good stops, what may pass is tried again, as the error table says",
    30: "Refused handshakes are typed with their reason, and classified",
    31: "Every send has a definite outcome",
    32: "What a send does while not joined is chosen: raise, wait, queue or HTTP",
    33: "Sends without ack leave nothing behind",
    34: "Broadcasting needs no subscription: HTTP, with private, batch and bytes",
    35: "The limits of the plan are known and kept: messages, joins, presence, channels",
    36: "What is too large is refused here; what comes in may be large",
    37: "Handlers may be async and keep their order",
    38: "A handler of the wrong shape is refused when it is registered",
    39: "A slow consumer delays nobody else; its buffer is bounded and its overflow visible",
    40: "Whatever the server sends is survived, counted and shown to the tap",
    41: "Wildcards match; one row calls each listener once",
    42: "Rows are exact Python values by their column types",
    43: "Filters are checked here by the server's grammar",
    44: "A gap is always told; stored messages of private channels are replayed and not repeated",
    45: "Own presence survives rejoins; updates are updates; nobody seems to leave on a reconnect",
    46: "A complete blocking interface",
    47: "Few dependencies without upper bounds; importing is cheap",
    48: "Quiet, useful logs without tokens, keys and payloads",
}
"""In the order of the requirements; the numbers stand in the docstrings of the tests."""

LATER: Final[dict[int, str]] = {}
"""Promises that no test holds yet, and why."""

_NUMBERS: Final = re.compile(r"\bR(\d+)(?:\s*[-–]\s*R?(\d+))?")
_SHOWN: Final = 4


def held() -> dict[int, list[str]]:
    """The tests that name each promise, as `path::name`."""
    found: dict[int, list[str]] = {number: [] for number in PROMISES}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, docstring in _tests(path):
            for number in _named(docstring):
                found.setdefault(number, []).append(f"{path.relative_to(ROOT / 'tests').as_posix()}::{name}")
    return found


def _tests(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name, ast.get_docstring(node) or ""


def _named(docstring: str) -> Iterator[int]:
    for first, last in _NUMBERS.findall(docstring):
        yield from range(int(first), int(last or first) + 1)


def requirements() -> str:
    """Number, promise, how many tests, and some of them."""

    def line(number: int, tests: list[str]) -> list[str]:
        shown = ", ".join(f"`{test}`" for test in tests[:_SHOWN]) + (", …" if len(tests) > _SHOWN else "")
        return [f"R{number}", PROMISES[number], str(len(tests)), shown or f"open: {LATER[number]}"]

    found = held()
    return rows(["", "promise", "tests", "among them"], [line(number, found[number]) for number in PROMISES])
