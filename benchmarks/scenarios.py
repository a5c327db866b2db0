"""What is measured, and what ratio is wanted of each."""

from dataclasses import dataclass
from typing import Final

OURS: Final = "supawire"
BLOCKING: Final = "blocking door"
BARE: Final = "bare loop"
PYTHON: Final = "realtime-py"
NODE: Final = "realtime-js"
CLIENTS: Final = (OURS, BLOCKING, BARE, PYTHON, NODE)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that a client does again and again.

    kind: of frame, see `frames`. clients: who can do it, besides supawire. most: our CPU per message, at most so many
    times the bare loop's. least: realtime-py's, at least so many times ours. door: the blocking door's, at most so many
    times the async door's.
    """

    says: str
    kind: str
    clients: tuple[str, ...]
    most: float | None = None
    least: float | None = None
    door: float | None = None


SCENARIOS: Final = {
    "broadcast": Scenario(
        "a broadcast in a text frame of 200 bytes, payload read", "broadcast", (BARE, PYTHON, NODE), 1.6, 13
    ),
    "broadcast-iterated": Scenario("the same with `async for`", "broadcast", (BARE,)),
    "binary": Scenario("the same message in a binary frame", "binary", (BARE, NODE)),
    "change": Scenario(
        "a change of 600 bytes and 8 columns, record read", "change", (BARE, PYTHON, NODE), 1.8, 14
    ),
    "change-typed": Scenario("the same, each of its columns read", "change", (BARE,)),
    "change-unread": Scenario("the same, record not read", "change", (BARE,)),
    "change-iterated": Scenario("the same with `async for`, record read", "change", (BARE,)),
    "broadcast-both": Scenario(
        "a broadcast as in the first line, handlers of both doors", "broadcast", (BLOCKING,), door=1.3
    ),
    "broadcast-both-iterated": Scenario("the same, iterators of both doors", "broadcast", (BLOCKING,), door=1.4),
    "change-both": Scenario("a change, record read, handlers of both doors", "change", (BLOCKING,), door=1.3),
}  # fmt: skip
"""By name. The official Python client speaks 1.0.0, which has no binary frames."""
