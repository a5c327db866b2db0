"""Compare what was sent to each client with what arrived there, so that a tour can report whether it worked."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, cast

Kind: TypeAlias = Literal["broadcast", "presence", "changes"]

MIN_TIMEOUT: Final = 0.2
"""Minimum seconds to wait for a delivery, even when the total timeout is used up."""


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """Something sent or received: a name, such as the event, and its content. Compared exactly, including types."""

    name: str
    body: object = None
    text: str = ""
    """How the content is displayed; its repr if empty."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Content) and (self.name, exact(self.body)) == (other.name, exact(other.body))

    def __hash__(self) -> int:
        return hash((self.name, repr(exact(self.body))))

    def __str__(self) -> str:
        text = self.text or ("" if self.body is None else repr(self.body))
        return f"{self.name} {text}".rstrip()


def exact(value: object) -> object:
    """Return a value for exact comparison: 1, 1.0 and True differ, as do 19.9 and 19.90; key order is ignored."""
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return {repr(name): exact(item) for name, item in pairs}
    if isinstance(value, list | tuple):
        return [exact(item) for item in cast("list[object]", value)]
    return type(value).__name__, repr(value)


@dataclass(slots=True, eq=False)
class Item:
    """One item that one client should receive, or has received."""

    who: str
    kind: Kind
    what: Content
    at: float
    arrived: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def __str__(self) -> str:
        return f"{self.who}: {self.kind} {self.what}"


class Checks:
    """The expected and actual deliveries of a tour.

    Args: patience: total seconds to wait for missing deliveries.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.expected: Final[list[Item]] = []
        self.surplus: Final[list[Item]] = []
        self.sent: Final[dict[Kind, int]] = {"broadcast": 0, "presence": 0, "changes": 0}
        self.round_trips: Final[list[float]] = []

    def send(self, kind: Kind, what: Content, receivers: Iterable[str]) -> list[Item]:
        """Record, before sending, an item and its receivers, which may be none according to the protocol."""
        now = time.perf_counter()
        items = [Item(who, kind, what, now) for who in receivers]
        self.expected.extend(items)
        self.sent[kind] += 1
        return items

    def arrive(self, who: str, kind: Kind, what: Content) -> float | None:
        """Record an arrival. Return the seconds since it was sent, or None if it is unexpected or a duplicate."""
        now = time.perf_counter()
        for item in self.expected:
            if not item.arrived.is_set() and (item.who, item.kind) == (who, kind) and item.what == what:
                item.arrived.set()
                return now - item.at
        self.surplus.append(Item(who, kind, what, now))
        return None

    async def settle(self, items: Iterable[Item]) -> None:
        """Wait until these have arrived, or the total timeout is used up."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(max(self._patience, MIN_TIMEOUT)):
                for item in items:
                    await item.arrived.wait()
        except TimeoutError:
            self._patience -= time.perf_counter() - started

    @property
    def missing(self) -> list[Item]:
        """Return the items that have not arrived."""
        return [item for item in self.expected if not item.arrived.is_set()]

    def arrivals(self, kind: Kind | None = None) -> int:
        """Return the number of items that have arrived."""
        return sum(item.arrived.is_set() for item in self.expected if kind in (None, item.kind))

    def expected_count(self, kind: Kind | None = None) -> int:
        """Return the number of items that should arrive."""
        return sum(kind in (None, item.kind) for item in self.expected)

    @property
    def complete(self) -> bool:
        """Whether all items arrived, and nothing else."""
        return not self.missing and not self.surplus
