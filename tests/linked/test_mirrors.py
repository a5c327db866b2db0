"""Mirrors over random schedules of commits, disconnections, delays and failures, in virtual time."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from supawire import AsyncMirror, Resynced, RowDeleted, RowUpdated, col
from tests.aio.mirror_scenarios import Scene, scenario


class Life:
    """A table and its mirror, and the random events of a schedule."""

    def __init__(self, scene: Scene, seed: int, **options: Any) -> None:
        self.rng = random.Random(seed)
        self.server = scene.server
        self.table = scene.table
        self.table.least = 3 if seed % 2 else 0
        self.mirror: AsyncMirror[Any] = scene.mirror(where=col("v") >= 3 if seed % 2 else None, **options)
        self.events = self.mirror.listen(buffer=3)
        self.held: dict[Any, Any] = {}

    def cut(self) -> None:
        self.server.drop_connections(self.rng.choice((None, 1012)))

    def crash(self) -> None:
        self.server.crash_channel("*")

    def lose(self) -> None:
        self.table.lost = not self.table.lost

    def fail(self) -> None:
        self.table.failing = self.rng.randrange(3)

    def slow_down(self) -> None:
        self.table.early, self.table.late = self.rng.random() * 2, self.rng.random() * 2

    def lag(self) -> None:
        self.server.lag(self.rng.choice((0, 0.2, 0.8)))

    def refresh(self) -> None:
        self.mirror.refresh()

    def truncate(self) -> None:
        self.server.emit("UPDATE", "users", record={"id": 1}, errors="Error 413: Payload Too Large")

    def put(self) -> None:
        self.table.put(self.rng.randrange(6), v=self.rng.randrange(6), n=self.rng.random())

    def delete(self) -> None:
        if self.table.rows:
            self.table.delete(self.rng.choice(list(self.table.rows)))

    def move(self) -> None:
        to = self.rng.randrange(20, 30)
        if self.table.rows and to not in self.table.rows:
            self.table.move(self.rng.choice(list(self.table.rows)), to)

    async def follow(self) -> None:
        """Return the rows as they follow from the events alone."""
        async for event in self.events:
            match event:
                case Resynced(rows=rows):
                    self.held = rows
                case RowDeleted(key=key):
                    del self.held[key]
                case _:
                    if isinstance(event, RowUpdated):
                        del self.held[event.old_key]
                    self.held[event.key] = event.row


ACTS: dict[Callable[[Life], None], int] = {
    Life.put: 8, Life.delete: 2, Life.move: 2, Life.truncate: 1, Life.refresh: 1,
    Life.cut: 1, Life.crash: 1, Life.fail: 1, Life.slow_down: 1, Life.lag: 1,
}  # fmt: skip
"""The possible events, with their weights."""


@pytest.mark.parametrize("seed", range(15))
def test_a_comparing_mirror_recovers_from_silent_losses(seed: int) -> None:
    """A comparison corrects the mirror after changes that the server lost without a message."""

    @scenario()
    async def story(scene: Scene) -> None:
        life = Life(scene, seed, refresh_every=5.0)
        following = asyncio.create_task(life.follow())
        acts, weights = [*ACTS, Life.lose], [*ACTS.values(), 4]
        for _ in range(60):
            life.rng.choices(acts, weights)[0](life)
            await asyncio.sleep(life.rng.choice((0, 0.05, 0.3, 1.5)))
        life.server.lag(0)
        life.table.early = life.table.late = life.table.failing = 0
        await asyncio.sleep(20)
        await life.mirror.ready(None)
        assert life.mirror.live and life.mirror.snapshot() == life.table.seen() == life.held
        life.table.lost = True
        life.put()
        life.put()
        await asyncio.sleep(20)
        assert life.mirror.live and life.mirror.snapshot() == life.table.seen() == life.held
        await life.mirror.close()
        await following

    story()


@pytest.mark.parametrize("seed", range(30))
def test_a_mirror_converges_to_the_table(seed: int) -> None:
    """After commits, disconnections, delays and failures the mirror equals the table."""

    @scenario()
    async def story(scene: Scene) -> None:
        life = Life(scene, seed)
        following = asyncio.create_task(life.follow())
        acts, weights = list(ACTS), list(ACTS.values())
        for _ in range(60):
            life.rng.choices(acts, weights)[0](life)
            await asyncio.sleep(life.rng.choice((0, 0.05, 0.3, 1.5)))
        life.server.lag(0)
        await asyncio.sleep(2)
        await life.mirror.ready(None)
        await asyncio.sleep(0.1)
        assert life.mirror.snapshot() == life.table.seen() == life.held
        await life.mirror.close()
        await following

    story()
