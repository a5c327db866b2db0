"""The client and the local server on event loops other than asyncio's default: uvloop, and eager tasks."""

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
    """Run a program on an event loop of this kind, if it is installed."""
    if name == "uvloop":
        pytest.importorskip("uvloop")
    elif name == "eager" and sys.version_info < (3, 12):
        pytest.skip("not run: eager tasks need Python 3.12")
    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
        runner.run(program())


@asynccontextmanager
async def both_ends():
    """Yield a server and an open client of it in the running event loop."""
    app = App(HubOptions(secret=SECRET))
    await app.start()
    try:
        async with connect_async(f"http://127.0.0.1:{app.port}", KEY) as client:
            yield client, app
    finally:
        await app.stop()


@pytest.mark.parametrize("name", LOOPS)
def test_both_ends_work_on_other_event_loops(name: str):
    """The server answers, it accepts a listener for changes added after the join, and a round trip takes time."""

    async def program() -> None:
        async with both_ends() as (client, _):
            room = client.channel("room", echo=True)
            received = room.listen(broadcast())
            await room.subscribe()
            late = room.listen(changes("orders"))
            await room.ready()
            await room.broadcast("x", {"n": 1})
            assert (await received.get(timeout=5)).payload == {"n": 1}
            assert await client.ping() > 0
            late.close()

    run(name, program)


@pytest.mark.parametrize("name", LOOPS)
def test_a_slow_handler_is_logged_on_other_event_loops(name: str, caplog: pytest.LogCaptureFixture):
    """The warning about a handler that blocks the event loop does not depend on how the loop reads its clock."""

    async def program() -> None:
        async with both_ends() as (client, _):
            room = client.channel("room", echo=True)
            room.on(broadcast(), lambda _: time.sleep(0.25))
            received = room.listen(broadcast())
            await room.subscribe()
            await room.broadcast("x", {})
            await received.get(timeout=5)
            await client.ping()

    with caplog.at_level(logging.WARNING, "supawire"):
        run(name, program)
    assert "the event loop was held" in caplog.text


def test_an_unknown_loop_is_refused(monkeypatch: pytest.MonkeyPatch):
    """An unknown name in the variable that chooses the loop of the tests is refused."""
    monkeypatch.setenv(VARIABLE, "twisted")
    with pytest.raises(RuntimeError, match="asyncio, uvloop, eager"):
        chosen()


def test_the_chosen_loop_is_the_one_that_runs():
    """A new runner of this process uses the loop that `SUPAWIRE_TEST_LOOP` names."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        assert type(loop).__module__.partition(".")[0] == ("uvloop" if chosen() == "uvloop" else "asyncio")
        assert (loop.get_task_factory() is not None) == (chosen() == "eager")


@pytest.mark.parametrize("name", LOOPS)
def test_a_send_that_a_status_handler_starts_returns(name: str):
    """An eager task that a status handler starts while the client performs effects sends, and its call returns."""

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
