"""What happened in a schedule, recorded independently of the client's own state."""

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
class Event:
    """One event on the server: what, where, when (monotonic, and by the client's clock), and its number."""

    number: int
    topic: str
    kind: str
    name: str
    at: float
    wall: float
    stored: bool = False
    hidden: bool = False
    """Whether the client received nothing without noticing: half-open, or behind an unanswered join."""


@dataclass(slots=True)
class RecordedListener:
    """A listener of the client, and the events that it received."""

    topic: str
    selector: Selector[Any]
    since: int
    """How many things had happened when it was registered."""
    received: list[int] = field(default_factory=list[int])
    until: float | None = None
    listener: Listener | None = None

    @property
    def kind(self) -> str:
        """Return the kind of events that it selects."""
        return "broadcast" if isinstance(self.selector, BroadcastSelector) else "changes"

    def matches(self, event: Event) -> bool:
        """Return whether its selector matches this event."""
        if event.topic != self.topic or event.kind != self.kind:
            return False
        if isinstance(self.selector, BroadcastSelector):
            return self.selector.event in (ANY, event.name)
        assert isinstance(self.selector, ChangesSelector)
        return self.selector.table in (ANY, event.name)

    def record(self, event: Any) -> None:
        """Record an event; its number is in its payload or row."""
        self.received.append(event.payload["n"] if isinstance(event, Broadcast) else event.record["n"])


@dataclass(slots=True)
class Sending:
    """A broadcast of the client."""

    number: int
    topic: str
    ticket: Ticket | None
    ack: bool
    error: Exception | None = None


@dataclass(slots=True)
class DesiredTopic:
    """The desired state of one topic, with the intervals in which it was to be joined."""

    subscribed: bool = False
    intervals: list[list[float]] = field(default_factory=list[list[float]])
    presence: int | None = None

    def subscribe(self, at: float) -> None:
        """Record that the user subscribed."""
        if not self.subscribed:
            self.subscribed = True
            self.intervals.append([at, float("inf")])

    def leave(self, at: float) -> None:
        """Record that the user left."""
        if self.subscribed:
            self.subscribed = False
            self.intervals[-1][1] = at


@dataclass(slots=True)
class History:
    """Everything that happened."""

    events: list[Event] = field(default_factory=list[Event])
    sendings: list[Sending] = field(default_factory=list[Sending])
    listeners: list[RecordedListener] = field(default_factory=list[RecordedListener])
    gaps: list[Gap] = field(default_factory=list[Gap])
    desired: dict[str, DesiredTopic] = field(default_factory=lambda: {topic: DesiredTopic() for topic in TOPICS})
    joined: dict[str, list[float]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    """When the client reported that it is joined, by topic; it receives broadcasts from then on."""
    ready: dict[str, list[float]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    """When it also reported that it is ready, by topic; it receives changes from then on."""
    received_by_witness: dict[str, list[int]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    """Numbers of the client's broadcasts that the witness received, by topic."""
    jumps: list[float] = field(default_factory=list[float])
    """When the wall clock jumped."""
    deaf: list[float] = field(default_factory=list[float])
    """When the connection stopped delivering frames without closing."""
    trace: list[str] = field(default_factory=list[str])
    numbers: int = 0

    def next(self) -> int:
        """Return a new number."""
        self.numbers += 1
        return self.numbers


Act = Callable[..., str]
