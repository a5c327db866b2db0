"""Ctrl-C, in a program of its own, ends any blocked call at once; then the client closes as always."""

import asyncio
import time

import pytest

from supawire import LocalServer
from tests.faults.misbehaver import Misbehaver, Wire
from tests.sync.scripts import Program

CALLS = {
    "queued": ("phx_join", "sent = room.broadcast('a', 1, timeout=None)", "sent.wait()"),
    "publish": ("", "", "client.publish('room', 'a', {}, timeout=None)"),
    "publish_many": ("", "", "client.publish_many([{'topic': 'b', 'event': 'c', 'payload': {}}], timeout=None)"),
    "subscribe": ("phx_join", "", "room.subscribe(timeout=None)"),
    "ping": ("heartbeat", "", "client.ping(timeout=None)"),
    "broadcast": ("broadcast", "room.subscribe()", "room.broadcast('a', 1, timeout=None)"),
    "track": ("presence", "room.on(presence(), lambda event: None); room.subscribe()", "room.track({}, timeout=None)"),
    "wait_closed": ("", "", "client.wait_closed()"),
    "first next": ("phx_join", "", "next(room.listen(broadcast()))"),
}
"""What the server does not answer, what comes before, and the call."""

ITERATORS = {
    "next": "next(room.listen(broadcast()))",
    "for": "[event for event in room.listen(broadcast())]",
    "get": "room.listen(broadcast()).get(timeout=600)",
    "moves": "[move for move in client.listen()]",
}

SCRIPT = """
class Never:
    async def request(self, request):
        import asyncio
        await asyncio.get_running_loop().create_future()

errors = []
try:
    with supawire.connect(URL, KEY, offline="queue", http=Never(), on_error=errors.append) as client:
        room = client.channel("room", ack=True)
        {before}
        announce("{module}")
        {call}
except KeyboardInterrupt:
    say(f"interrupted {{client.state}} {{ours()}} {{[type(error).__name__ for error in errors]}}")
"""


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_ends_a_blocked_call(server: LocalServer, name: str):
    """KeyboardInterrupt is raised out of the call, the `with` block closes the client, and no thread is left (R46)."""
    silent, before, call = CALLS[name]
    if silent:
        server.drop_reply(silent)
    with Program(server, SCRIPT.format(before=before, call=call, module="portal")) as program:
        assert program.hear() == "blocked"
        program.interrupt()
        told = ["ClosedError"] if name == "queued" else []  # nobody waits any more for what is then not sent
        assert program.end() == (0, [f"interrupted closed [] {told}"], "")


@pytest.mark.parametrize("name", ITERATORS)
def test_ctrl_c_ends_a_blocked_iterator(server: LocalServer, name: str):
    """An iterator that waits for an event raises KeyboardInterrupt at once, and nothing is left (R46)."""
    with Program(server, SCRIPT.format(before="", call=ITERATORS[name], module="thread_buffer")) as program:
        assert program.hear() == "blocked"
        program.interrupt()
        assert program.end() == (0, ["interrupted closed [] []"], "")


def test_ctrl_c_ends_a_leave_that_a_deaf_server_does_not_answer(server: LocalServer):
    """An `unsubscribe` without a time limit is interrupted, though the server says nothing more (R20, R46)."""
    source = """
        client = supawire.connect(URL, KEY)
        room = client.channel("room")
        room.subscribe()
        say("ready")
        sys.stdin.readline()
        announce("portal")
        try:
            room.unsubscribe(timeout=None)
        except KeyboardInterrupt:
            say("interrupted")
        os._exit(0)
    """
    with Program(server, source) as program:
        assert program.hear() == "ready"
        server.pause()
        program.resume()
        assert program.hear() == "blocked"
        program.interrupt()
        assert program.end() == (0, ["interrupted"], "")


def test_ctrl_c_ends_connecting(server: LocalServer):
    """An opening that would be tried for ever is ended between two attempts, and leaves no thread (R46)."""
    server.refuse_connections(status=503)
    source = """
        import logging

        class Heard(logging.Handler):
            def emit(self, record):
                say("retrying" if "retrying" in record.getMessage() else record.getMessage())

        logging.getLogger("supawire").addHandler(Heard())
        announce("portal")
        try:
            supawire.connect(URL, KEY, open_timeout=None, backoff=lambda attempt: 600.0)
        except KeyboardInterrupt:
            say(f"interrupted {ours()}")
    """
    with Program(server, source) as program:
        assert {program.hear(), program.hear()} == {"blocked", "retrying"}
        program.interrupt()
        assert program.end() == (0, ["interrupted []"], "")


async def listen_only(wire: Wire) -> None:
    """Open the socket, and never say a word."""
    await wire.upgrade()


@pytest.mark.anyio
async def test_ctrl_c_ends_a_close_that_waits_for_the_server():
    """A `close` that the server does not answer is interrupted, and then everything is gone at once (R10, R46)."""
    source = """
        client = supawire.connect(URL, KEY)
        announce("portal")
        try:
            client.close()
        except KeyboardInterrupt:
            client.close()
            say(f"interrupted {client.state} {ours()}")
    """
    async with Misbehaver(listen_only) as server:
        with Program(server, source) as program:
            assert await asyncio.to_thread(program.hear) == "blocked"
            program.interrupt()
            assert await asyncio.to_thread(program.end) == (0, ["interrupted closed []"], "")


def test_ctrl_c_withdraws_the_call(server: LocalServer):
    """A join that was interrupted is not wanted any more, and the client goes on working (R46)."""
    server.drop_reply("phx_join", times=1)
    source = """
        with supawire.connect(URL, KEY) as client:
            room = client.channel("room")
            announce("portal")
            try:
                room.subscribe(timeout=None)
            except KeyboardInterrupt:
                say("interrupted")
            room.unsubscribe()
            say(room.state)
            room.subscribe()
            say(f"{room.state} {client.ping() > 0}")
    """
    with Program(server, source) as program:
        assert program.hear() == "blocked"
        while not server.frames:  # interrupted before the join is sent, it would be the next one that gets no reply
            time.sleep(0.001)
        program.interrupt()
        assert program.end() == (0, ["interrupted", "idle", "joined True"], "")
