"""The table of the library's guarantees with the tests of each, from the docstrings of the tests."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from docs.tables import ROOT, rows

PROMISES: Final = {
    1: "No exception of user code ends reading, heartbeats or reconnecting",
    2: "Every background task has an owner; if one ends unexpectedly, all pending calls raise",
    3: "Reconnects without limit, with jitter and a maximum delay; limits are optional, and reaching one raises a typed error",
    4: "A heartbeat without an answer closes the connection and reconnects",
    5: "A heartbeat of an old connection never counts on a new one; traffic does not delay heartbeats",
    6: "After sleep or a clock jump: a heartbeat at once, and a fresh token before the next join",
    7: "Every close that was not requested is followed by a reconnect",
    8: "A server that accepts and closes at once is not flooded with connections",
    9: "Clients that are disconnected together reconnect at different times; rejoins are rate limited",
    10: "`close()` works from anywhere, can be repeated, is bounded in time, and leaves nothing behind",
    11: "A closed client stays closed, and calls on it raise `ClosedError`",
    12: "Frames of an older join are ignored and counted",
    13: "A join that timed out is left before the next one",
    14: "Every frame of a channel carries the join_ref of its join",
    15: "A join is computed from the registered listeners; binding ids are those of the latest reply",
    16: "The server's echo of bindings is compared after normalization; a mismatch is reported and ends nothing",
    17: "A listener added after the join works, if necessary after a rejoin; it is never silently ignored",
    18: "Joined and ready are separate states, and a program can wait for both",
    19: "A `system` error of postgres_changes changes `ready` only; it neither ends nor renews the join",
    20: "A channel can be left and subscribed again any number of times",
    21: "A second call for the same topic returns the same channel, or raises",
    22: "The deadline of a join belongs to one attempt",
    23: "`subscribe()` returns when joined, and otherwise raises the server's reason",
    24: "Leaving affects that join only and leaves nothing behind",
    25: "A token provider is called before connects, joins and expiry; every join carries the newest token",
    26: "An expired token is refreshed and the channel joined again; a token that stays expired causes no endless loop",
    27: "If a provider fails, the old token is kept; a late result never replaces a newer one",
    28: "Tokens and keys that are not JWTs are accepted",
    29: "Permanent refusals end, temporary ones are retried, as in the table of errors",
    30: "Refused handshakes raise a typed error with the reason, and are classified",
    31: "Every send has a definite outcome",
    32: "An option decides what a send does while not joined: raise, wait, queue or HTTP",
    33: "Sends without ack leave nothing behind",
    34: "Broadcasting without a subscription by HTTP, with private topics, batches and bytes",
    35: "The limits of the plan are known and kept: messages, joins, presence, channels",
    36: "Sends that are too large are refused by the client; received frames may be large",
    37: "Handlers may be async and keep their order",
    38: "A handler with the wrong parameters is refused when it is registered",
    39: "A slow consumer does not delay others; its buffer is bounded and its overflow visible",
    40: "Any input from the server is survived, counted and passed to `on_frame`",
    41: "Wildcards match; one row calls each listener once",
    42: "Rows are exact Python values by their column types",
    43: "Filters are checked by the client with the server's grammar",
    44: "A gap is always reported; stored messages of private channels are replayed without duplicates",
    45: "A client's own presence survives rejoins; updates are updates; a reconnect does not appear as a leave",
    46: "The sync client has the complete interface",
    47: "Few dependencies, without upper bounds; importing is fast",
    48: "Useful logs with few lines, without tokens, keys and payloads",
}
"""The guarantees by the numbers that docstrings of tests name."""

LATER: Final[dict[int, str]] = {}
"""Guarantees without a test, and why."""

_NUMBERS: Final = re.compile(r"\bR(\d+)(?:\s*[-–]\s*R?(\d+))?")
_SHOWN: Final = 4


def held() -> dict[int, list[str]]:
    """Return the tests that name each guarantee, as `path::name`."""
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
    """Return the table: number, guarantee, number of tests, and some of them."""

    def line(number: int, tests: list[str]) -> list[str]:
        shown = ", ".join(f"`{test}`" for test in tests[:_SHOWN]) + (", …" if len(tests) > _SHOWN else "")
        return [f"R{number}", PROMISES[number], str(len(tests)), shown or f"open: {LATER[number]}"]

    found = held()
    return rows(["", "guarantee", "tests", "examples"], [line(number, found[number]) for number in PROMISES])
