"""Clients that are not closed before their process ends."""

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
    """A program that ends without `close` leaves its channels and exits with 0 and without error output (R46)."""
    with Program(server, OPEN) as program:
        assert program.end() == (0, [], "")
    assert [frame.event for frame in server.frames][-1] == "phx_leave"


def test_an_unclosed_client_does_not_change_the_exit_code(server: LocalServer):
    """A program that ends with an exception has the same exit code and traceback with an open client as without
    (R46)."""
    with Program(server, OPEN + "raise SystemExit(7)") as program:
        assert program.end() == (7, [], "")
    with Program(server, OPEN + "1 / 0") as program:
        code, _, complaint = program.end()
        assert code == 1 and complaint.rstrip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    "rest",
    {
        "a silent server": "report('ready'); sys.stdin.readline()",
        "a handler that never returns": """
room.on(broadcast(), lambda event: threading.Event().wait())
report('ready'); sys.stdin.readline()
""",
        "an iterator in a daemon thread": """
threading.Thread(target=list, args=(room.listen(broadcast()),), daemon=True).start()
report('ready'); sys.stdin.readline()
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
report('ready'); sys.stdin.readline()
""",
    }.values(),
    ids=["silent server", "blocked handler", "iterator", "opening"],
)
def test_the_exit_of_the_interpreter_takes_a_bounded_time(server: LocalServer, rest: str):
    """In every state of the client the interpreter exits within a bounded time and without error output (R46)."""
    with Program(server, OPEN + rest) as program:
        assert program.read_line() == "ready"
        server.broadcast("room", "a", 1)
        server.pause()
        program.resume()
        assert program.end() == (0, [], "")


def test_user_code_at_exit_may_still_use_the_client(server: LocalServer):
    """An `atexit` function of the program runs before the client is closed, and may send."""
    source = """
        import atexit
        client = supawire.connect(URL, KEY)
        room = client.channel("room")
        room.subscribe()
        atexit.register(lambda: report(room.broadcast("bye", {})))
    """
    with Program(server, source) as program:
        assert program.end() == (0, ["Sent(via='socket', acked=False, id=None)"], "")


def test_a_thread_that_is_not_a_daemon_keeps_the_client_open(server: LocalServer):
    """After the main thread has ended, a thread of the program can read until the channel is left."""
    source = """
        client = supawire.connect(URL, KEY)
        room = client.channel("room")
        stream = room.listen(broadcast())
        room.subscribe()
        def read():
            for event in stream:
                report(event.payload)
                if event.payload == 2:
                    room.unsubscribe()
        threading.Thread(target=read).start()
        report("ready")
    """
    with Program(server, source) as program:
        assert program.read_line() == "ready"
        server.broadcast("room", "a", 1)
        server.broadcast("room", "a", 2)
        assert program.end() == (0, ["1", "2"], "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of Unix")
@pytest.mark.parametrize("free", [0, 1, 2, 3, 4])
def test_no_free_descriptors_are_a_connect_error(server: LocalServer, free: int):
    """When the process cannot open more files, `connect` raises ConnectError, and no thread is left (R30)."""
    source = f"""
import os, resource, aiohttp
supawire.connect(URL, KEY).close()  # what is imported late is there
names = {{"supawire-io", "supawire-dispatch"}}
limit = os.dup(0) + {free}
os.close(limit - {free})
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
try:
    supawire.connect(URL, KEY, open_timeout=0.2, backoff=lambda attempt: 0.05).close()
    report("open")
except supawire.ConnectError as error:
    report("refused")
report(len([thread for thread in threading.enumerate() if thread.name in names]))
"""
    with Program(server, source) as program:
        code, output, complaint = program.end()
    assert (code, output[-1]) == (0, "0")
    assert "Traceback" not in complaint and "never retrieved" not in complaint
    assert output[0] == "refused" if free < 4 else output[0] in ("refused", "open")
