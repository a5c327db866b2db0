"""Both ends on other event loops than asyncio's own: uvloop, and eager tasks."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from supawire import ChannelState, broadcast, changes, connect_async, status
from supawire.server.app import App
from supawire.server.hub_options import HubOptions
from supawire.server.tokens import sign
from tests.aio.peer import until
from tests.loops import LOOPS, VARIABLE, chosen

SECRET = "s" * 40
KEY = sign({"role": "anon", "exp": int(time.time()) + 3600}, SECRET)


def run(name: str, program: Callable[[], Any]) -> None:
    """Run a program on an event loop of this kind, where this machine has it."""
    if name == "uvloop":
        pytest.importorskip("uvloop")
    elif name == "eager" and sys.version_info < (3, 12):
        pytest.skip("not run: eager tasks need Python 3.12")
    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
        runner.run(program())


@asynccontextmanager
async def both_ends():
    """A server and an open client of it in the event loop that runs; and the server."""
    app = App(HubOptions(secret=SECRET))
    await app.start()
    try:
        async with connect_async(f"http://127.0.0.1:{app.port}", KEY) as client:
            yield client, app
    finally:
        await app.stop()


@pytest.mark.parametrize("name", LOOPS)
def test_both_ends_work_on_other_event_loops(name: str):
    """The server answers, a listener for changes that comes after the join is taken, and a round trip takes time."""

    async def program() -> None:
        async with both_ends() as (client, _):
            room = client.channel("room", echo=True)
            heard = room.listen(broadcast())
            await room.subscribe()
            late = room.listen(changes("orders"))
            await room.ready()
            await room.broadcast("x", {"n": 1})
            assert (await heard.get(timeout=5)).payload == {"n": 1}
            assert await client.ping() > 0
            late.close()

    run(name, program)


@pytest.mark.parametrize("name", LOOPS)
def test_a_slow_handler_is_noticed_on_other_event_loops(name: str, caplog: pytest.LogCaptureFixture):
    """The warning about a handler that holds the event loop does not depend on how the loop reads its clock."""

    async def program() -> None:
        async with both_ends() as (client, _):
            room = client.channel("room", echo=True)
            room.on(broadcast(), lambda _: time.sleep(0.25))
            heard = room.listen(broadcast())
            await room.subscribe()
            await room.broadcast("x", {})
            await heard.get(timeout=5)
            await client.ping()

    with caplog.at_level(logging.WARNING, "supawire"):
        run(name, program)
    assert "the event loop was held" in caplog.text


def test_an_unknown_loop_is_refused(monkeypatch: pytest.MonkeyPatch):
    """The variable that chooses the loop of the tests names one of the known ones."""
    monkeypatch.setenv(VARIABLE, "twisted")
    with pytest.raises(RuntimeError, match="asyncio, uvloop, eager"):
        chosen()


def test_the_chosen_loop_is_the_one_that_runs():
    """What `SUPAWIRE_TEST_LOOP` names is what a new runner of this process uses."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        assert type(loop).__module__.partition(".")[0] == ("uvloop" if chosen() == "uvloop" else "asyncio")
        assert (loop.get_task_factory() is not None) == (chosen() == "eager")


@pytest.mark.parametrize("name", LOOPS)
def test_a_send_that_a_status_handler_starts_returns(name: str):
    """A task that begins at once, inside of what the client performs, sends and hears that it was sent."""

    async def program() -> None:
        async with both_ends() as (client, _):
            room = client.channel("room")
            sent: list[asyncio.Task[Any]] = []

            def joined(event: Any) -> None:
                if event.state is ChannelState.JOINED:
                    sent.append(asyncio.get_running_loop().create_task(room.broadcast("x", {}, timeout=2)))

            room.on(status(), joined)
            await room.subscribe()
            assert (await sent[0]).via == "socket"

    run(name, program)


@pytest.mark.parametrize("name", LOOPS)
def test_an_async_handler_may_close_its_client(name: str):
    """A handler whose task begins at once is not cancelled by its own `close()`."""

    async def program() -> None:
        async with both_ends() as (client, _):
            room = client.channel("room", echo=True)
            after: list[object] = []

            async def handler(_: object) -> None:
                await client.close()
                after.append(client.state)

            room.on(broadcast(), handler)
            await room.subscribe()
            await room.broadcast("x", {})
            await client.wait_closed()
            await until(lambda: bool(after))

    run(name, program)
