"""The tour: three clients in one room and six steps, with the code of each step and the rows that change."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

import supawire
from supawire import AsyncChannel, AsyncClient, Broadcast, Change, Delete, Insert, PresenceEvent, PresenceSync
from supawire.cli.demo.checks import Checks, Content, Item, Kind
from supawire.cli.demo.screen import Screen
from supawire.selectors import broadcast, changes, presence

Name = Literal["Alice", "Bob", "Dashboard"]
PARTICIPANTS: Final[tuple[tuple[Name, Literal["1.0.0", "2.0.0"], str], ...]] = (
    ("Alice", "2.0.0", "protocol 2.0.0, requests confirmations for her messages"),
    ("Bob", "1.0.0", "protocol 1.0.0, receives new items with a price from 100"),
    ("Dashboard", "2.0.0", "protocol 2.0.0, only receives"),
)
ALL_NAMES: Final[tuple[Name, ...]] = ("Alice", "Bob", "Dashboard")

CONNECT: Final = """\
alice = await supawire.connect_async(url, key)
bob = await supawire.connect_async(url, key, protocol="1.0.0")
seconds = await alice.ping()"""

JOIN: Final = """\
room = alice.channel("room:demo", ack=True, presence_key="alice")
room.on(broadcast(), show)              # show: any function, async or not
room.on(presence(), show)
await room.subscribe()                  # returns when joined"""

BROADCAST: Final = """\
await room.broadcast("chat", {"text": "Hello, room"})  # confirmed
await room.broadcast("ink", b"\\x01\\x02\\x03")           # arrives as bytes"""

PRESENCE: Final = """\
await room.track({"name": "Alice", "mood": "curious"})
await room.untrack()
room.presence_state()                   # who is present, by presence key"""

CHANGES: Final = """\
rows = bob.channel("table:items")
rows.on(changes("items", event="INSERT", filter="price=gte.100"), show)
await rows.subscribe(wait="ready")      # returns when changes are live"""

LEAVE: Final = """\
await room.unsubscribe()
await alice.close()"""

STEPS: Final = (CONNECT, JOIN, BROADCAST, PRESENCE, CHANGES, LEAVE)

Row = Mapping[str, Any]
LAMP: Final[Row] = {
    "id": 1,
    "name": "Lamp",
    "price": Decimal("19.90"),
    "added_at": datetime(2026, 5, 4, 12, 30, tzinfo=UTC),
}
CHEAPER: Final[Row] = {**LAMP, "price": Decimal("17.50")}
DESK: Final[Row] = {
    **LAMP,
    "id": 2**53 + 1,
    "name": "Desk",
    "price": Decimal("249.00"),
}  # an id that a float cannot represent


STEP_PAUSE: Final = 1.0
LINE_PAUSE: Final = 0.45
"""Seconds to read the code of a step, and to watch one event."""


class DemoBackend(Protocol):
    """The server that the tour's clients connect to, and its way of changing rows."""

    url: str
    key: str
    title: str
    emits: str
    """The code that makes a change, for display; empty when it is not possible."""
    why_not: str
    """Why row changes are not possible."""

    async def emit(self, type: str, table: str, *, record: Row | None = None, old_record: Row | None = None) -> None:
        """Change a row."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(slots=True)
class Person:
    """One client, with its channel of the room."""

    name: Name
    client: AsyncClient
    room: AsyncChannel


class Tour:
    """Runs the six steps against a server.

    Args: suffix: added to the names of topics and tables, so that two tours on one server do not interfere.
    pause: waits this number of seconds, scaled by the speed. problems: receives errors other than missing deliveries.
    """

    def __init__(
        self,
        backend: DemoBackend,
        screen: Screen,
        checks: Checks,
        *,
        suffix: str,
        pause: Callable[[float], Awaitable[None]],
        problems: list[str],
    ) -> None:
        self._backend = backend
        self._screen = screen
        self._checks = checks
        self._pause = pause
        self._topic: Final = f"room:demo{suffix}"
        self._table: Final = f"items{suffix}"
        self._people: Final[dict[Name, Person]] = {}
        self._present: Final[dict[str, Mapping[str, Any]]] = {}
        self._problems = problems

    async def run(self) -> None:
        """Run all steps. Raises: RealtimeError."""
        self._screen.opening(self._backend.title, [(name, part) for name, _, part in PARTICIPANTS])
        steps = (self._connect, self._join, self._broadcast, self._presence, self._changes, self._leave)
        async with AsyncExitStack() as clients:
            self._clients = clients
            for number, (step, code) in enumerate(zip(steps, STEPS, strict=True), 1):
                title = step.__name__.strip("_").capitalize()
                more = f"\n{self._backend.emits}" if code is CHANGES and self._backend.emits else ""
                self._screen.step(number, len(steps), title, self._real(code + more))
                await self._pause(STEP_PAUSE)
                await step()

    def _real(self, code: str) -> str:
        return code.replace("room:demo", self._topic).replace("items", self._table)

    # --- the steps

    async def _connect(self) -> None:
        for name, protocol, _ in PARTICIPANTS:
            started = time.perf_counter()
            client = await self._clients.enter_async_context(
                supawire.connect_async(self._backend.url, self._backend.key, protocol=protocol, on_error=self._problem)
            )
            self._screen.succeeds(name, f"connected, protocol {protocol}", time.perf_counter() - started)
            room = client.channel(self._topic, ack=name == "Alice", presence_key=name.lower())
            self._people[name] = Person(name, client, room)
            self._screen.succeeds(name, "ping", await client.ping())
            await self._pause(LINE_PAUSE)

    async def _join(self) -> None:
        for person in self._people.values():
            person.room.on(broadcast(), lambda message, name=person.name: self._on_broadcast(name, message))
            person.room.on(presence(), lambda event, name=person.name: self._on_presence(name, event))
            started = time.perf_counter()
            await person.room.subscribe()
            self._screen.succeeds(person.name, f"joined {self._topic}", time.perf_counter() - started)

    async def _broadcast(self) -> None:
        alice, bob = self._people["Alice"], self._people["Bob"]
        for text in ("Hello, room", "Second message"):
            await self._send_broadcast(alice, "chat", {"text": text}, to=("Bob", "Dashboard"), ack=True)
        await self._send_broadcast(
            bob, "chat", {"text": "From protocol 1.0.0", "stars": [1, 2.5, None]}, to=("Alice", "Dashboard")
        )
        await self._send_broadcast(alice, "ink", bytes(range(0, 256, 51)), to=("Dashboard",), ack=True)
        self._screen.note("Bob receives no bytes: protocol 1.0.0 does not support them")

    async def _send_broadcast(
        self, person: Person, event: str, payload: Any, *, to: tuple[Name, ...], ack: bool = False
    ) -> None:
        content = Content(event, payload)
        self._screen.sends(person.name, f"broadcast {content}")
        async with self._delivery(self._checks.send("broadcast", content, to)):
            started = time.perf_counter()
            sent = await person.room.broadcast(event, payload)
            if ack:
                trip = time.perf_counter() - started
                self._checks.round_trips.append(trip)
                self._screen.succeeds(person.name, "confirmed by the server", trip)
        if sent.acked is not ack:
            self._problems.append(f"{person.name}: broadcast {content} returned acked={sent.acked}")

    @asynccontextmanager
    async def _delivery(self, items: Sequence[Item]) -> AsyncGenerator[None]:
        """Wait for the items sent inside the block, print their arrivals, and pause for reading."""
        with self._screen.held():
            yield
            await self._checks.settle(items)
        await self._pause(LINE_PAUSE)

    async def _presence(self) -> None:
        alice, bob = self._people["Alice"], self._people["Bob"]
        await self._track(alice, {"name": "Alice", "mood": "curious"})
        await self._track(bob, {"name": "Bob", "mood": "calm"})
        await self._track(alice, {"name": "Alice", "mood": "delighted"})
        await self._untrack(alice)
        for person in self._people.values():
            self._check_state(person)

    async def _track(self, person: Person, payload: dict[str, Any]) -> None:
        key = person.name.lower()
        content = Content(f"{'update' if key in self._present else 'join'} {key}", payload)
        self._screen.sends(person.name, f"track {payload}")
        self._note_present({**self._present, key: payload})
        async with self._delivery(self._checks.send("presence", content, ALL_NAMES)):
            await person.room.track(payload)

    async def _untrack(self, person: Person) -> None:
        self._screen.sends(person.name, "untrack")
        async with self._delivery(self._expect_leave(person, ALL_NAMES)):
            await person.room.untrack()

    def _expect_leave(self, person: Person, watchers: tuple[Name, ...]) -> list[Item]:
        key = person.name.lower()
        items = self._checks.send("presence", Content(f"leave {key}", self._present[key]), watchers)
        self._note_present({name: payload for name, payload in self._present.items() if name != key})
        return items

    def _note_present(self, present: Mapping[str, Mapping[str, Any]]) -> None:
        self._present.clear()
        self._present.update(present)
        self._screen.here = tuple(key.capitalize() for key in present)

    def _check_state(self, person: Person) -> None:
        """Check that the presence state equals what was tracked."""
        state = {key: [entry.payload for entry in entries] for key, entries in person.room.presence_state().items()}
        wanted = {key: [payload] for key, payload in self._present.items()}
        if state == wanted:
            self._screen.succeeds(person.name, f"presence_state() has {', '.join(state) or 'nobody'}")
        else:
            self._problems.append(f"{person.name}: presence_state() is {state}, not {wanted}")

    async def _changes(self) -> None:
        if not self._backend.emits:
            self._screen.note(f"skipped: {self._backend.why_not}")
            return
        everything = self._people["Dashboard"].client.channel(f"table:{self._table}")
        dear = self._people["Bob"].client.channel(f"table:{self._table}")
        everything.on(changes(self._table), lambda change: self._on_change("Dashboard", change))
        costly = changes(self._table, event="INSERT", filter="price=gte.100")
        dear.on(costly, lambda change: self._on_change("Bob", change))
        for channel in (everything, dear):
            await channel.subscribe(wait="ready")
        await self._emit("INSERT", ("Dashboard",), record=LAMP)
        await self._emit("INSERT", ("Dashboard", "Bob"), record=DESK)
        await self._emit("UPDATE", ("Dashboard",), record=CHEAPER, old_record=LAMP)
        await self._emit("DELETE", ("Dashboard",), old_record={"id": LAMP["id"]})

    async def _emit(
        self, type: str, receivers: tuple[Name, ...], *, record: Row | None = None, old_record: Row | None = None
    ) -> None:
        content = row_content(type, self._table, record, old_record)
        self._screen.sends("Server", f"emit {type}, id={(record or old_record or {})['id']}")
        async with self._delivery(self._checks.send("changes", content, receivers)):
            await self._backend.emit(type, self._table, record=record, old_record=old_record)

    async def _leave(self) -> None:
        bob = self._people["Bob"]
        self._screen.sends("Bob", "unsubscribe")
        async with self._delivery(self._expect_leave(bob, ("Alice", "Dashboard"))):
            await bob.room.unsubscribe()
        for person in self._people.values():
            await person.client.close()
            self._screen.succeeds(person.name, "closed")

    # --- received events

    def _on_broadcast(self, name: Name, message: Broadcast[Any]) -> None:
        self._on_arrival(name, "broadcast", Content(message.event, message.payload))

    def _on_presence(self, name: Name, event: PresenceEvent) -> None:
        if isinstance(event, PresenceSync):
            return  # the state is checked at the end of the step
        verb = type(event).__name__.removeprefix("Presence").lower()
        entries = event.previous if verb == "leave" else event.current
        self._on_arrival(name, "presence", Content(f"{verb} {event.key}", entries[-1].payload if entries else None))

    def _on_change(self, name: Name, change: Change[dict[str, Any]]) -> None:
        record = None if isinstance(change, Delete) else change.record
        old_record = None if isinstance(change, Insert) else change.old_record
        self._on_arrival(name, "changes", row_content(change.type, change.table, record, old_record))

    def _on_arrival(self, name: Name, kind: Kind, content: Content) -> None:
        self._screen.receives(name, str(content), self._checks.arrive(name, kind, content))

    def _problem(self, error: Exception) -> None:
        self._problems.append(f"{type(error).__name__}: {error}")


def row_content(type: str, table: str, record: Row | None, old_record: Row | None) -> Content:
    """Describe a change of a row. For an update only the changed values are shown, but all are compared."""
    shown = dict(record or old_record or {})
    text = " ".join(f"{name}={value!r}" for name, value in shown.items())
    if record is not None and old_record is not None:
        changed = {name: value for name, value in record.items() if old_record.get(name) != value}
        text = f"id={record['id']} " + " ".join(
            f"{name}={value!r} (was {old_record.get(name)!r})" for name, value in changed.items()
        )
    text = text.replace("datetime.datetime(", "datetime(").replace("datetime.timezone.utc", "UTC")
    return Content(f"{type.capitalize()} {table}", {"record": record, "old_record": old_record}, text)
