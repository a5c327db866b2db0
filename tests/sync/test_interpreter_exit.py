"""What becomes of a client when its process ends without closing it."""

import sys

import pytest

from supawire import LocalServer
from tests.sync.scripts import Program

OPEN = """
client = supawire.connect(URL, KEY)
room = client.channel("room")
room.subscribe()
"""


def test_an_unclosed_client_sends_a_close_frame_at_exit(server: LocalServer):
    """A program that ends without `close` leaves its channels and exits with 0 and without a complaint (R46)."""
    with Program(server, OPEN) as program:
        assert program.end() == (0, [], "")
    assert [frame.event for frame in server.frames][-1] == "phx_leave"


def test_a_forgotten_client_does_not_hide_how_the_program_ended(server: LocalServer):
    """A program that ends by an exception has that exit code and traceback, with a client open or not (R46)."""
    with Program(server, OPEN + "raise SystemExit(7)") as program:
        assert program.end() == (7, [], "")
    with Program(server, OPEN + "1 / 0") as program:
        code, _, complaint = program.end()
        assert code == 1 and complaint.rstrip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    "rest",
    {
        "a silent server": "say('ready'); sys.stdin.readline()",
        "a handler that never returns": """
room.on(broadcast(), lambda event: threading.Event().wait())
say('ready'); sys.stdin.readline()
""",
        "an iterator in a daemon thread": """
threading.Thread(target=list, args=(room.listen(broadcast()),), daemon=True).start()
say('ready'); sys.stdin.readline()
""",
        "a token provider that never returns": """
asking = threading.Event()
def hang():
    asking.set()
    threading.Event().wait()
def connect():
    try:
        supawire.connect(URL, KEY, token=hang)
    except supawire.ClosedError:
        pass
threading.Thread(target=connect, daemon=True).start()
asking.wait()
say('ready'); sys.stdin.readline()
""",
    }.values(),
    ids=["silent server", "blocked handler", "iterator", "opening"],
)
def test_the_exit_is_bounded(server: LocalServer, rest: str):
    """Whatever the client is doing, the exit of the interpreter waits a bounded time, and says nothing (R46)."""
    with Program(server, OPEN + rest) as program:
        assert program.hear() == "ready"
        server.broadcast("room", "a", 1)
        server.pause()
        program.resume()
        assert program.end() == (0, [], "")


def test_user_code_at_exit_may_still_use_the_client(server: LocalServer):
    """An exit hook of the program runs before the client is closed, and may send."""
    source = """
        import atexit
        client = supawire.connect(URL, KEY)
        room = client.channel("room")
        room.subscribe()
        atexit.register(lambda: say(room.broadcast("bye", {})))
    """
    with Program(server, source) as program:
        assert program.end() == (0, ["Sent(via='socket', acked=False, id=None)"], "")


def test_a_reader_that_is_no_daemon_keeps_the_program_alive(server: LocalServer):
    """A program whose main thread has ended goes on while a thread of its own reads, until the channel is left."""
    source = """
        client = supawire.connect(URL, KEY)
        room = client.channel("room")
        stream = room.listen(broadcast())
        room.subscribe()
        def read():
            for event in stream:
                say(event.payload)
                if event.payload == 2:
                    room.unsubscribe()
        threading.Thread(target=read).start()
        say("ready")
    """
    with Program(server, source) as program:
        assert program.hear() == "ready"
        server.broadcast("room", "a", 1)
        server.broadcast("room", "a", 2)
        assert program.end() == (0, ["1", "2"], "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of Unix")
@pytest.mark.parametrize("free", [0, 1, 2, 3, 4])
def test_no_free_descriptors_are_a_connect_error(server: LocalServer, free: int):
    """Where this process may open nothing more, `connect` raises ConnectError, and nothing is left (R30)."""
    source = f"""
import os, resource, aiohttp
supawire.connect(URL, KEY).close()  # what is imported late is there
names = {{"supawire-io", "supawire-dispatch"}}
limit = os.dup(0) + {free}
os.close(limit - {free})
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
try:
    supawire.connect(URL, KEY, open_timeout=0.2, backoff=lambda attempt: 0.05).close()
    say("open")
except supawire.ConnectError as error:
    say("refused")
say(len([thread for thread in threading.enumerate() if thread.name in names]))
"""
    with Program(server, source) as program:
        code, said, complaint = program.end()
    assert (code, said[-1]) == (0, "0")
    assert "Traceback" not in complaint and "never retrieved" not in complaint
    assert said[0] == "refused" if free < 4 else said[0] in ("refused", "open")
