"""The user's code where we call it: it may raise, block, never return, or close the client."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from supawire import broadcast
from tests.faults.misbehaver import Misbehaver
from tests.faults.steps import Heard, client_of, room_of

pytestmark = pytest.mark.anyio


@dataclass
class Equal:
    """A callable that is equal to others and has no hash."""

    name: str
    heard: list[Any] = field(default_factory=list[Any], compare=False)

    def __call__(self, event: Any) -> None:
        self.heard.append(event)

    def method(self, event: Any) -> None:
        self.heard.append(event)


async def test_any_callable_may_be_a_handler_each_for_itself():
    """Callables without a hash, or equal to another one, are called once per registration (R37, R41)."""
    async with Misbehaver() as server, client_of(server) as client:
        room, heard = await room_of(client)
        one, other = Equal("same"), Equal("same")
        assert one == other
        for handler in (one, other, one.method, one.method, partial(one), Equal.__call__.__get__(other)):
            room.on(broadcast("hello"), handler)
        room.on(broadcast(), heard)
        server.wire.broadcast("room", "hello", 1)
        await heard.until(2)
        assert (len(one.heard), len(other.heard)) == (4, 2)


async def test_a_handler_is_named_in_what_it_raises():
    """An error of a handler names the user's function, also when it was registered twice or is a partial (R1)."""
    errors = Heard()

    def fails(_: Any) -> None:
        raise KeyError("mine")

    async with Misbehaver() as server, client_of(server, on_error=errors) as client:
        room, _ = await room_of(client)
        for handler in (fails, fails, partial(fails)):
            room.on(broadcast("hello"), handler)
        server.wire.broadcast("room", "hello", 1)
        await errors.until(3)
        assert all("fails raised KeyError" in str(error) for error in errors)
