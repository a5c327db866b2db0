"""Mirrors over random schedules of commits, disconnections, delays and failures, in virtual time."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from supawire import AsyncMirror, Resynced, RowDeleted, RowUpdated, col
from tests.aio.mirror_scenarios import Scene, scenario


class Schedule:
    """A table and its mirror, and the random events of a schedule."""

    def __init__(self, scene: Scene, seed: int, **options: Any) -> None:
        self.rng = random.Random(seed)
        self.server = scene.server
        self.table = scene.table
        self.table.least = 3 if seed % 2 else 0
        self.mirror: AsyncMirror[Any] = scene.mirror(where=col("v") >= 3 if seed % 2 else None, **options)
        self.events = self.mirror.listen(buffer=3)
        self.followed: dict[Any, Any] = {}

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
                    self.followed = rows
                case RowDeleted(key=key):
                    del self.followed[key]
                case _:
                    if isinstance(event, RowUpdated):
                        del self.followed[event.old_key]
                    self.followed[event.key] = event.row


ACTS: dict[Callable[[Schedule], None], int] = {
    Schedule.put: 8, Schedule.delete: 2, Schedule.move: 2, Schedule.truncate: 1, Schedule.refresh: 1,
    Schedule.cut: 1, Schedule.crash: 1, Schedule.fail: 1, Schedule.slow_down: 1, Schedule.lag: 1,
}  # fmt: skip
"""The possible events, with their weights."""


@pytest.mark.parametrize("seed", range(15))
def test_a_comparing_mirror_recovers_from_silent_losses(seed: int) -> None:
    """A comparison corrects the mirror after changes that the server lost without a message."""

    @scenario()
    async def run(scene: Scene) -> None:
        schedule = Schedule(scene, seed, refresh_every=5.0)
        following = asyncio.create_task(schedule.follow())
        acts, weights = [*ACTS, Schedule.lose], [*ACTS.values(), 4]
        for _ in range(60):
            schedule.rng.choices(acts, weights)[0](schedule)
            await asyncio.sleep(schedule.rng.choice((0, 0.05, 0.3, 1.5)))
        schedule.server.lag(0)
        schedule.table.early = schedule.table.late = schedule.table.failing = 0
        await asyncio.sleep(20)
        await schedule.mirror.ready(None)
        assert schedule.mirror.live
        assert schedule.mirror.snapshot() == schedule.table.query_result() == schedule.followed
        schedule.table.lost = True
        schedule.put()
        schedule.put()
        await asyncio.sleep(20)
        assert schedule.mirror.live
        assert schedule.mirror.snapshot() == schedule.table.query_result() == schedule.followed
        await schedule.mirror.close()
        await following

    run()


@pytest.mark.parametrize("seed", range(30))
def test_a_mirror_converges_to_the_table(seed: int) -> None:
    """After commits, disconnections, delays and failures the mirror equals the table."""

    @scenario()
    async def run(scene: Scene) -> None:
        schedule = Schedule(scene, seed)
        following = asyncio.create_task(schedule.follow())
        acts, weights = list(ACTS), list(ACTS.values())
        for _ in range(60):
            schedule.rng.choices(acts, weights)[0](schedule)
            await asyncio.sleep(schedule.rng.choice((0, 0.05, 0.3, 1.5)))
        schedule.server.lag(0)
        await asyncio.sleep(2)
        await schedule.mirror.ready(None)
        await asyncio.sleep(0.1)
        assert schedule.mirror.snapshot() == schedule.table.query_result() == schedule.followed
        await schedule.mirror.close()
        await following

    run()
