"""A bridge between a local server and a broker in memory, which is away, refuses messages, and outlives the bridge."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from supawire import LocalServer
from supawire.bridge import Bridge, BridgeMessage, Failure, LeaderLostError, Result, SqliteCheckpoint
from supawire.errors import BridgeError, InvalidArgumentError, RealtimeError, StateError
from supawire.options import Backoff


class MemoryBroker:
    """Keeps messages by id, unless it is set to fail."""

    def __init__(self) -> None:
        self.name: str = "the broker in memory"
        self.ordered: bool = True
        self.wave: int = 10
        self.stored: dict[str, BridgeMessage] = {}
        self.fail: Callable[[BridgeMessage], Failure | None] = lambda _: None
        self.lose_answers: bool = False
        self.changed: asyncio.Event = asyncio.Event()
        self.duplicates: int = 0

    async def publish(self, messages: Sequence[BridgeMessage]) -> Sequence[Result]:
        results: list[Result] = []
        for message in messages:
            failure = self.fail(message)
            if failure is None:
                self.duplicates += message.id in self.stored
                results.append("duplicate" if message.id in self.stored else "stored")
                self.stored.setdefault(message.id, message)
            else:
                results.append(failure)
        self.changed.set()
        if self.lose_answers:
            return [Failure("the answer was lost") for _ in messages]
        return results

    async def close(self) -> None:
        pass

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(one.body) for one in self.stored.values()]

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            self.changed.clear()
            await self.changed.wait()


class Setup:
    """A local server with a table in memory, and bridges of it."""

    def __init__(self, server: LocalServer, path: Path) -> None:
        self.server = server
        self.path = path
        self.broker = MemoryBroker()
        self.rows: dict[int, dict[str, Any]] = {}
        self.errors: list[RealtimeError] = []

    def bridge(self, *, snapshot: bool = True, **options: Any) -> Bridge:
        options.setdefault("checkpoint", SqliteCheckpoint(self.path / "c.db"))
        made = Bridge(
            self.server.url, self.server.anon_key, to=self.broker, on_error=self.errors.append, poll=0.02,
            backoff=Backoff(initial=0.01, maximum=0.02), **options,
        )  # fmt: skip
        made.table("items", key="id", fetch=lambda: list(self.rows.values()), snapshot=snapshot)
        return made

    def write(self, key: int, value: str) -> None:
        kind, old = ("UPDATE", {"id": key}) if key in self.rows else ("INSERT", None)
        self.rows[key] = {"id": key, "value": value}
        self.server.emit(kind, "items", record=self.rows[key], old_record=old)

    def delete(self, key: int) -> None:
        del self.rows[key]
        self.server.emit("DELETE", "items", old_record={"id": key})

    def changes(self) -> list[tuple[str, int, str | None]]:
        return [
            (body["type"], body["key"]["id"], body.get("record", {}).get("value"))
            for body in self.broker.bodies
            if body["kind"] == "change"
        ]

    @asynccontextmanager
    async def running(self, bridge: Bridge) -> AsyncGenerator[Bridge]:
        serving = asyncio.create_task(bridge.serve())
        try:
            yield bridge
        finally:
            bridge.stop()
            await asyncio.wait_for(serving, 10)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    async with LocalServer() as server:
        yield Setup(server, tmp_path)


async def soon(condition: Callable[[], bool]) -> None:
    """Wait for a condition that nothing announces."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class SavingCheckpoint(SqliteCheckpoint):
    """A checkpoint that tells when a cursor is saved."""

    saved = False

    def save_cursor(self, *arguments: Any) -> None:
        super().save_cursor(*arguments)
        self.saved = True


@pytest.mark.slow
async def test_without_a_snapshot_only_the_first_start_is_silent(setup: Setup):
    """With snapshot=False rows that came between two starts are handed on, also if there were none at the first one."""
    checkpoint = SavingCheckpoint(setup.path / "c.db")
    async with setup.running(setup.bridge(checkpoint=checkpoint, snapshot=False)):
        await soon(lambda: checkpoint.saved)
    setup.rows = {1: {"id": 1, "value": "a"}}
    async with setup.running(setup.bridge(snapshot=False)):
        await setup.broker.until(lambda: len(setup.broker.stored) == 1)
    assert setup.changes() == [("INSERT", 1, "a")]


@pytest.mark.slow
async def test_changes_and_restarts(setup: Setup):
    """Rows, then changes are handed on; after a restart only what has changed since, with deletes by comparison."""
    setup.rows = {1: {"id": 1, "value": "a"}, 2: {"id": 2, "value": "a"}}
    async with setup.running(setup.bridge()):
        await setup.broker.until(lambda: len(setup.broker.stored) == 2)
        setup.write(1, "b")
        setup.write(3, "a")
        await setup.broker.until(lambda: len(setup.broker.stored) == 4)
    assert setup.changes() == [("INSERT", 1, "a"), ("INSERT", 2, "a"), ("UPDATE", 1, "b"), ("INSERT", 3, "a")]
    setup.rows = {1: {"id": 1, "value": "b"}, 3: {"id": 3, "value": "c"}}
    async with setup.running(setup.bridge()) as bridge:
        await setup.broker.until(lambda: len(setup.broker.stored) == 6)
        assert bridge.stats().stored == 2 and bridge.stats().leader and bridge.stats().terms == 1
    assert setup.changes()[4:] == [("DELETE", 2, None), ("UPDATE", 3, "c")]
    assert not setup.errors and setup.broker.duplicates == 0


@pytest.mark.slow
async def test_what_was_sent_before_the_end_keeps_its_id(setup: Setup):
    """A message whose confirmation was lost with the process is sent again with its id, also if the row has changed."""
    setup.broker.lose_answers = True
    setup.rows = {1: {"id": 1, "value": "a"}}
    async with setup.running(setup.bridge(drain_timeout=0)):
        await setup.broker.until(lambda: len(setup.broker.stored) == 1)
    setup.broker.lose_answers = False
    setup.rows = {1: {"id": 1, "value": "b"}}
    before = setup.broker.duplicates
    async with setup.running(setup.bridge()) as bridge:
        await setup.broker.until(lambda: len(setup.broker.stored) == 2)
        assert bridge.stats().duplicates == 1
    assert setup.changes() == [("INSERT", 1, "a"), ("UPDATE", 1, "b")]
    assert setup.broker.duplicates == before + 1


@pytest.mark.slow
async def test_a_broker_that_is_away(setup: Setup):
    """While the broker is away nothing is lost: afterwards it has the current rows, and the failures are reported."""
    away = True
    setup.broker.fail = lambda _: Failure("away for a while") if away else None
    async with setup.running(setup.bridge()) as bridge:
        await soon(lambda: bridge.stats().leader)
        setup.write(2, "a")
        await soon(lambda: bridge.stats().failures > 3)
        for value in "bcd":
            setup.write(2, value)
        away = False
        await setup.broker.until(lambda: ("UPDATE", 2, "d") in setup.changes())
    assert any("away for a while" in str(error) for error in setup.errors)
    assert len(setup.errors) < bridge.stats().failures + 1 and bridge.stats().dead == 0


@pytest.mark.slow
async def test_messages_that_the_broker_will_not_take(setup: Setup):
    """Rejected, too large and refused messages go to dead_letter and are counted; the others are handed on."""
    dead: list[tuple[str, str]] = []

    async def bury(message: BridgeMessage, reason: str) -> None:
        dead.append((message.key, reason))

    def fail(message: BridgeMessage) -> Failure | None:
        text = message.body.decode()
        return Failure("never", "rejected") if "never" in text else Failure("no", "refused") if "no" in text else None

    setup.broker.fail = fail
    values = ["never", "no", "x" * 1000, "fine"]
    setup.rows = {number: {"id": number, "value": value} for number, value in enumerate(values)}
    async with setup.running(setup.bridge(dead_letter=bury, attempts=3, max_bytes=500)) as bridge:
        await setup.broker.until(lambda: ("INSERT", 3, "fine") in setup.changes())
        await soon(lambda: bridge.stats().dead == 3)
    assert sorted(dead) == [
        ('public.items:{"id":0}', "never"),
        ('public.items:{"id":1}', "no"),
        ('public.items:{"id":2}', f"{len(body(2, 'x' * 1000))} bytes, and max_bytes is 500"),
    ]
    async with setup.running(setup.bridge()) as bridge:
        setup.write(3, "again")
        await setup.broker.until(lambda: ("UPDATE", 3, "again") in setup.changes())
        assert bridge.stats().dead == 0  # they are not tried again after a restart


def body(key: int, value: str) -> bytes:
    return json.dumps(
        {
            "kind": "change", "type": "INSERT", "schema": "public", "table": "items", "key": {"id": key},
            "record": {"id": key, "value": value}, "resynced": "start",
        },
        separators=(",", ":"),
    ).encode()  # fmt: skip


@pytest.mark.slow
async def test_a_second_process_takes_over(setup: Setup):
    """A second bridge waits while the first one is the leader, and hands on what comes after its end."""
    first, second = setup.bridge(), setup.bridge()
    serving = asyncio.create_task(second.serve())
    async with setup.running(first):
        await soon(lambda: first.stats().leader != second.stats().leader)
        leader, other = (first, second) if first.stats().leader else (second, first)
        setup.rows = {1: {"id": 1, "value": "a"}}
        setup.server.drop_connections()
        await setup.broker.until(lambda: len(setup.broker.stored) == 1)
        assert not other.stats().leader
        leader.stop()
        await soon(lambda: other.stats().leader)
        assert not leader.stats().leader
        setup.rows = {}
        setup.server.drop_connections()
        await setup.broker.until(lambda: len(setup.broker.stored) == 2)
        second.stop()
        await serving
    assert setup.changes() == [("INSERT", 1, "a"), ("DELETE", 1, None)]


class LosingCheckpoint(SqliteCheckpoint):
    """A checkpoint whose leader loses its place at the first record."""

    lost = False

    def record(self, *arguments: Any) -> list[BridgeMessage]:
        if not self.lost:
            self.lost = True
            raise LeaderLostError("lost")
        return super().record(*arguments)


@pytest.mark.slow
async def test_a_leader_that_lost_its_place_sends_nothing(setup: Setup):
    """What cannot be recorded is not sent; the bridge becomes the leader again and hands it on once."""
    setup.rows = {1: {"id": 1, "value": "a"}}
    bridge = setup.bridge(checkpoint=LosingCheckpoint(setup.path / "d.db"))
    async with setup.running(bridge):
        await setup.broker.until(lambda: len(setup.broker.stored) == 1)
        assert bridge.stats().terms == 2
    assert any(isinstance(error, LeaderLostError) for error in setup.errors)


@pytest.mark.slow
async def test_received_broadcasts(setup: Setup):
    """Broadcasts of a public topic are handed on as received, with a gap in between when messages may be missing."""
    bridge = setup.bridge()
    bridge.topic("room", "chat", private=False)
    async with setup.running(bridge):
        await soon(lambda: bridge.stats().leader)
        sent = 0
        while not any(one["kind"] == "broadcast" for one in setup.broker.bodies):
            setup.server.broadcast("room", "chat", {"n": sent})
            setup.server.broadcast("room", "other", {"n": sent})
            sent += 1
            await asyncio.sleep(0.02)
    first = next(one for one in setup.broker.bodies if one["kind"] == "broadcast")
    assert (first["topic"], first["event"]) == ("room", "chat")


@pytest.mark.slow
async def test_a_bridge_runs_again_in_another_loop(setup: Setup):
    """After its end the same bridge runs again, also in another event loop."""
    bridge = setup.bridge()
    for number in (1, 2):
        setup.rows[number] = {"id": number, "value": "a"}
        running = asyncio.create_task(asyncio.to_thread(bridge.run))
        await soon(lambda stored=number, run=running: bridge.stats().stored == stored or run.done())
        bridge.stop()
        await asyncio.wait_for(running, 10)
    assert len(setup.broker.stored) == 2


async def test_mistakes(setup: Setup):
    """Wrong arguments are errors at once, and say what to do."""
    bridge = setup.bridge()
    for wrong, text in (
        (lambda: bridge.table("items", key="id", fetch=list), "handed on already"),
        (lambda: bridge.table("other"), "Pass database="),
        (lambda: bridge.table("*", key="id", fetch=list), "by name"),
        (lambda: bridge.topic("room"), "Pass database="),
        (lambda: bridge.topic("room", private=False, stored=True), "private topics only"),
        (lambda: setup.bridge(no_such=1), "no_such"),
        (lambda: Bridge(setup.server.url, "key", to=setup.broker, checkpoint="c.db"), "SqliteCheckpoint"),  # pyright: ignore[reportArgumentType]
        (lambda: Bridge(setup.server.url, "key", to=5, checkpoint=SqliteCheckpoint("c.db")), "not int"),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(InvalidArgumentError, match=text):
            wrong()
    empty = Bridge(setup.server.url, "key", to=setup.broker, checkpoint=SqliteCheckpoint(setup.path / "e.db"))
    with pytest.raises(StateError, match="hands nothing on"):
        await empty.serve()
    failing = setup.bridge(dead_letter=lambda _, __: 1 / 0)
    setup.broker.fail = lambda _: Failure("never", "rejected")
    setup.rows = {1: {"id": 1, "value": "a"}}
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(failing.serve(), 10)
    assert isinstance(setup.errors[-1], BridgeError)
