"""What is measured, and what ratio is wanted of each."""

from dataclasses import dataclass
from typing import Final

OURS: Final = "supawire"
BARE: Final = "bare loop"
PYTHON: Final = "realtime-py"
NODE: Final = "realtime-js"
CLIENTS: Final = (OURS, BARE, PYTHON, NODE)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that a client does again and again.

    kind: of frame, see `frames`. clients: who can do it, besides supawire. most: our CPU per message, at most so many
    times the bare loop's. least: realtime-py's, at least so many times ours.
    """

    says: str
    kind: str
    clients: tuple[str, ...]
    most: float | None = None
    least: float | None = None


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
}  # fmt: skip
"""By name. The official Python client speaks 1.0.0, which has no binary frames."""
