"""Ctrl-C, in a program of its own, ends any blocked call at once, and then the client closes as usual."""

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
"""By name: the event without an answer, the statements before, and the call."""

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
        report_when_blocked("{module}")
        {call}
except KeyboardInterrupt:
    report(f"interrupted {{client.state}} {{ours()}} {{[type(error).__name__ for error in errors]}}")
"""


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_ends_a_blocked_call(server: LocalServer, name: str):
    """KeyboardInterrupt is raised by the call, the `with` block closes the client, and no thread is left (R46)."""
    silent, before, call = CALLS[name]
    if silent:
        server.drop_reply(silent)
    with Program(server, SCRIPT.format(before=before, call=call, module="portal")) as program:
        assert program.read_line() == "blocked"
        program.interrupt()
        expected = ["ClosedError"] if name == "queued" else []  # a queued broadcast has no waiting call when it fails
        assert program.end() == (0, [f"interrupted closed [] {expected}"], "")


@pytest.mark.parametrize("name", ITERATORS)
def test_ctrl_c_ends_a_blocked_iterator(server: LocalServer, name: str):
    """An iterator that waits for an event raises KeyboardInterrupt at once, and no thread is left (R46)."""
    with Program(server, SCRIPT.format(before="", call=ITERATORS[name], module="thread_buffer")) as program:
        assert program.read_line() == "blocked"
        program.interrupt()
        assert program.end() == (0, ["interrupted closed [] []"], "")


def test_ctrl_c_ends_a_leave_without_a_reply(server: LocalServer):
    """An `unsubscribe` without a time limit is interrupted while the server does not reply (R20, R46)."""
    source = """
        client = supawire.connect(URL, KEY)
        room = client.channel("room")
        room.subscribe()
        report("ready")
        sys.stdin.readline()
        report_when_blocked("portal")
        try:
            room.unsubscribe(timeout=None)
        except KeyboardInterrupt:
            report("interrupted")
        os._exit(0)
    """
    with Program(server, source) as program:
        assert program.read_line() == "ready"
        server.pause()
        program.resume()
        assert program.read_line() == "blocked"
        program.interrupt()
        assert program.end() == (0, ["interrupted"], "")


def test_ctrl_c_ends_connecting(server: LocalServer):
    """An opening without a limit on its attempts is ended between two attempts, and leaves no thread (R46)."""
    server.refuse_connections(status=503)
    source = """
        import logging

        class Records(logging.Handler):
            def emit(self, record):
                report("retrying" if "retrying" in record.getMessage() else record.getMessage())

        logging.getLogger("supawire").addHandler(Records())
        report_when_blocked("portal")
        try:
            supawire.connect(URL, KEY, open_timeout=None, backoff=lambda attempt: 600.0)
        except KeyboardInterrupt:
            report(f"interrupted {ours()}")
    """
    with Program(server, source) as program:
        assert {program.read_line(), program.read_line()} == {"blocked", "retrying"}
        program.interrupt()
        assert program.end() == (0, ["interrupted []"], "")


async def listen_only(wire: Wire) -> None:
    """Open the socket, and send nothing."""
    await wire.upgrade()


@pytest.mark.anyio
async def test_ctrl_c_ends_a_close_that_waits_for_the_server():
    """A `close` that the server does not answer is interrupted, and then all threads end at once (R10, R46)."""
    source = """
        client = supawire.connect(URL, KEY)
        report_when_blocked("portal")
        try:
            client.close()
        except KeyboardInterrupt:
            client.close()
            report(f"interrupted {client.state} {ours()}")
    """
    async with Misbehaver(listen_only) as server:
        with Program(server, source) as program:
            assert await asyncio.to_thread(program.read_line) == "blocked"
            program.interrupt()
            assert await asyncio.to_thread(program.end) == (0, ["interrupted closed []"], "")


def test_ctrl_c_withdraws_the_call(server: LocalServer):
    """A join that was interrupted is withdrawn, and the client continues to work (R46)."""
    server.drop_reply("phx_join", times=1)
    source = """
        with supawire.connect(URL, KEY) as client:
            room = client.channel("room")
            report_when_blocked("portal")
            try:
                room.subscribe(timeout=None)
            except KeyboardInterrupt:
                report("interrupted")
            room.unsubscribe()
            report(room.state)
            room.subscribe()
            report(f"{room.state} {client.ping() > 0}")
    """
    with Program(server, source) as program:
        assert program.read_line() == "blocked"
        while not server.frames:  # if the join were interrupted before it is sent, the next one would get no reply
            time.sleep(0.001)
        program.interrupt()
        assert program.end() == (0, ["interrupted", "idle", "joined True"], "")
