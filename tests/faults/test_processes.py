"""The end of a process with open clients: normally, by exit, by an exception, and by Ctrl-C in every state."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from typing import Any

import pytest

from supawire import broadcast, connect_async
from supawire.errors import StateError
from supawire.server import LocalServer
from tests.conftest import ROOT
from tests.faults.misbehaver import Misbehaver, Script, Wire, behave
from tests.faults.steps import KEY, Collector, client_of, joined_channel, ours

pytestmark = pytest.mark.anyio


async def never_answers(wire: Wire) -> None:
    await wire.request()


async def refuses(wire: Wire) -> None:
    await wire.refuse(503)


async def ignores_the_close(wire: Wire) -> None:
    """Do not answer close frames."""
    await wire.upgrade()


async def run(name: str, url: str) -> Any:
    """Start a program, and wait until it has reached its state."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-m", "tests.faults.programs", name, url, KEY, cwd=ROOT, stdout=PIPE, stderr=PIPE
    )
    assert program.stdout is not None
    assert (await program.stdout.readline()).decode().strip() == "ready", (await program.communicate())[1].decode()
    return program


STATES: dict[str, Script] = {
    "connecting": never_answers,
    "retrying": refuses,
    "joining": behave,
    "iterating": behave,
    "sending": behave,
    "handling": behave,
    "waiting_for_token": behave,
    "closing": ignores_the_close,
}


@pytest.mark.parametrize(
    "state", [state if state == "iterating" else pytest.param(state, marks=pytest.mark.slow) for state in STATES]
)
async def test_ctrl_c_ends_the_program_in_every_state(state: str):
    """Ctrl-C ends the process with KeyboardInterrupt and no other output, whatever is in progress (R46)."""
    async with Misbehaver(STATES[state]) as server:

        def answer(wire: Wire, frame: Any) -> None:
            if frame.topic != "realtime:silent":
                wire.accept(frame)

        def echo(wire: Wire, frame: Any) -> None:
            wire.reply(frame)
            wire.broadcast("room", "x", {})

        server.answers |= {"phx_join": answer, "broadcast": echo}
        program = await run(state, server.url)
        program.send_signal(signal.SIGINT)
        _, output = await program.communicate()
        text = output.decode()
        assert program.returncode == -signal.SIGINT
        assert text.rstrip().endswith("KeyboardInterrupt"), text
        for noise in ("never retrieved", "destroyed", "Unclosed", "ResourceWarning", "Exception ignored", "unhandled"):
            assert noise not in text
        assert KEY not in text


_SLOW = pytest.mark.slow
_ENDINGS = [
    ("forgotten", 0),
    pytest.param("leaving", 3, marks=_SLOW),
    pytest.param("raising", 1, marks=_SLOW),
    pytest.param("dying", 4, marks=_SLOW),
]


@pytest.mark.parametrize(("ending", "code"), _ENDINGS)
async def test_a_program_may_end_with_its_client_open(ending: str, code: int):
    """An unclosed client neither delays the end of the process nor prints anything (R46)."""
    async with Misbehaver() as server:
        program = await run(ending, server.url)
        _, output = await program.communicate()
        assert program.returncode == code
        text = output.decode()
        assert text == "" if ending != "raising" else text.count("Traceback") == 1 and "KeyError: 'mine'" in text, text


def test_event_loops_may_follow_each_other():
    """Each client of consecutive event loops works in its own loop and keeps no state of the previous one (R46)."""
    received: list[Any] = []

    async def once(server: LocalServer) -> None:
        async with client_of(server, server.anon_key) as client:
            room = client.channel("room", echo=True)
            room.on(broadcast(), received.append)
            stream = room.listen(broadcast())
            await room.subscribe()
            await room.broadcast("x", {})
            await anext(stream)
        assert ours() == set()

    with LocalServer() as server:
        for _ in range(3):
            asyncio.run(once(server))
    assert len(received) == 3


async def test_two_event_loops_may_have_clients():
    """A client in another thread's loop works, and each refuses calls from the other loop (R46)."""
    async with Misbehaver() as server, client_of(server) as client:
        room, received = await joined_channel(client)

        async def elsewhere() -> None:
            async with connect_async(server.url, KEY) as other:
                await other.channel("room").subscribe()
                for call in (client.ping, room.subscribe, client.close, lambda: room.broadcast("x", {}), room.untrack):
                    with pytest.raises(StateError, match="event loop"):
                        await call()
                with pytest.raises(StateError, match="event loop"):
                    room.on(broadcast(), Collector())
                with pytest.raises(StateError, match="event loop"):
                    await anext(client.listen())

        await asyncio.to_thread(asyncio.run, elsewhere())
        server.wires[0].broadcast("room", "x", {})
        await received.until(1)
        assert (await client.ping()) > 0
