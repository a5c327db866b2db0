"""What happened in a schedule, as its author knows it, independently of the client's own bookkeeping."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from supawire.core.effects import Ticket
from supawire.core.listeners import Listener
from supawire.events import Broadcast, Gap
from supawire.selectors import ANY, BroadcastSelector, ChangesSelector, Selector

TOPICS = ("public", "private", "rows")
EVENTS = ("a", "b")
TABLES = ("users", "orders")


@dataclass(frozen=True, slots=True)
class Happened:
    """One event on the server: what, where, when (monotonic, and by the client's clock), and its number."""

    number: int
    topic: str
    kind: str
    name: str
    at: float
    wall: float
    stored: bool = False
    hidden: bool = False
    """Whether the client could not hear anything just then and does not know it: deaf, or behind an unanswered join."""


@dataclass(slots=True)
class Hearer:
    """A listener of the client, and what it heard."""

    topic: str
    selector: Selector[Any]
    since: int
    """How many things had happened when it was registered."""
    heard: list[int] = field(default_factory=list[int])
    until: float | None = None
    listener: Listener | None = None

    @property
    def kind(self) -> str:
        """The kind of events it wants."""
        return "broadcast" if isinstance(self.selector, BroadcastSelector) else "changes"

    def wants(self, event: Happened) -> bool:
        """Whether this event is for it, going by the selector alone."""
        if event.topic != self.topic or event.kind != self.kind:
            return False
        if isinstance(self.selector, BroadcastSelector):
            return self.selector.event in (ANY, event.name)
        assert isinstance(self.selector, ChangesSelector)
        return self.selector.table in (ANY, event.name)

    def take(self, event: Any) -> None:
        """Hear an event; its number is in its payload or row."""
        self.heard.append(event.payload["n"] if isinstance(event, Broadcast) else event.record["n"])


@dataclass(slots=True)
class Sending:
    """A broadcast of the client."""

    number: int
    topic: str
    ticket: Ticket | None
    ack: bool
    error: Exception | None = None


@dataclass(slots=True)
class ServeSettings:
    """What the user wants of one topic, with the intervals in which it wanted to be joined."""

    wanted: bool = False
    intervals: list[list[float]] = field(default_factory=list[list[float]])
    presence: int | None = None

    def want(self, at: float) -> None:
        """The user subscribed."""
        if not self.wanted:
            self.wanted = True
            self.intervals.append([at, float("inf")])

    def leave(self, at: float) -> None:
        """The user left."""
        if self.wanted:
            self.wanted = False
            self.intervals[-1][1] = at


@dataclass(slots=True)
class History:
    """Everything that happened."""

    events: list[Happened] = field(default_factory=list[Happened])
    sendings: list[Sending] = field(default_factory=list[Sending])
    hearers: list[Hearer] = field(default_factory=list[Hearer])
    gaps: list[Gap] = field(default_factory=list[Gap])
    wishes: dict[str, ServeSettings] = field(default_factory=lambda: {topic: ServeSettings() for topic in TOPICS})
    joined: dict[str, list[float]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    """When the client said that it is joined, by topic: from then on broadcasts are promised."""
    ready: dict[str, list[float]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    """When it said that it is ready besides, by topic: from then on changes are promised (protocol §3.7, R18)."""
    witnessed: dict[str, list[int]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    """Numbers of the client's broadcasts that somebody with a good connection heard, by topic."""
    jumps: list[float] = field(default_factory=list[float])
    """When the wall clock jumped."""
    deaf: list[float] = field(default_factory=list[float])
    """When the connection went deaf without a word."""
    trace: list[str] = field(default_factory=list[str])
    numbers: int = 0

    def next(self) -> int:
        """A number that nothing else has."""
        self.numbers += 1
        return self.numbers


Act = Callable[..., str]
