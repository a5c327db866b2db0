"""What was sent to whom, and what arrived there: compared one by one, so that a tour can say whether it worked."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, cast

Kind: TypeAlias = Literal["broadcast", "presence", "changes"]

LEAST: Final = 0.2
"""Seconds to wait for something even when the patience is used up."""


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What is sent or arrives: a name, such as the event, and its content. Equal to the last digit and type."""

    name: str
    body: object = None
    text: str = ""
    """How the content is shown; its repr when left out."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Told) and (self.name, exact(self.body)) == (other.name, exact(other.body))

    def __hash__(self) -> int:
        return hash((self.name, repr(exact(self.body))))

    def __str__(self) -> str:
        text = self.text or ("" if self.body is None else repr(self.body))
        return f"{self.name} {text}".rstrip()


def exact(value: object) -> object:
    """A value for comparison: 1, 1.0 and True differ, and 19.9 and 19.90 as well; the order of keys does not matter."""
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return {repr(name): exact(item) for name, item in pairs}
    if isinstance(value, list | tuple):
        return [exact(item) for item in cast("list[object]", value)]
    return type(value).__name__, repr(value)


@dataclass(slots=True, eq=False)
class Item:
    """One thing that one client should receive, or did."""

    who: str
    kind: Kind
    what: Told
    at: float
    arrived: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def __str__(self) -> str:
        return f"{self.who}: {self.kind} {self.what}"


class Checks:
    """The books of a tour.

    Args: patience: seconds that are waited for what does not come, in all.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.expected: Final[list[Item]] = []
        self.surplus: Final[list[Item]] = []
        self.sent: Final[dict[Kind, int]] = {"broadcast": 0, "presence": 0, "changes": 0}
        self.round_trips: Final[list[float]] = []

    def send(self, kind: Kind, what: Told, receivers: Iterable[str]) -> list[Item]:
        """Note, before it is sent, what will be and who must get it. What nobody gets by the protocol is sent too."""
        now = time.perf_counter()
        items = [Item(who, kind, what, now) for who in receivers]
        self.expected.extend(items)
        self.sent[kind] += 1
        return items

    def arrive(self, who: str, kind: Kind, what: Told) -> float | None:
        """Note what came. The seconds since it was sent, or None when nobody sent it to this client (again)."""
        now = time.perf_counter()
        for item in self.expected:
            if not item.arrived.is_set() and (item.who, item.kind) == (who, kind) and item.what == what:
                item.arrived.set()
                return now - item.at
        self.surplus.append(Item(who, kind, what, now))
        return None

    async def settle(self, items: Iterable[Item]) -> None:
        """Wait until these have arrived, or the patience is used up."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(max(self._patience, LEAST)):
                for item in items:
                    await item.arrived.wait()
        except TimeoutError:
            self._patience -= time.perf_counter() - started

    @property
    def missing(self) -> list[Item]:
        """What was sent and has not arrived."""
        return [item for item in self.expected if not item.arrived.is_set()]

    def arrivals(self, kind: Kind | None = None) -> int:
        """How much of what was sent has arrived."""
        return sum(item.arrived.is_set() for item in self.expected if kind in (None, item.kind))

    def owed(self, kind: Kind | None = None) -> int:
        """How much should have arrived."""
        return sum(kind in (None, item.kind) for item in self.expected)

    @property
    def complete(self) -> bool:
        """Whether everything that was sent arrived, and nothing else."""
        return not self.missing and not self.surplus
