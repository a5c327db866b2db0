"""Forks: the child has no client of its parent, and the parent's client is not affected."""

from supawire import LocalServer
from tests.sync.scripts import Program

CHILD = """
def refused(call):
    try:
        call()
    except supawire.StateError as error:
        return "before fork()" in str(error)

def sockets():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            pass
    return {link for link in found if link.startswith("socket:")}

def peers():
    inodes = {link[8:-1] for link in sockets()}
    with open("/proc/self/net/tcp") as table:
        rows = table.read().splitlines()[1:]
    return [row.split()[2] for row in rows if row.split()[9] in inodes]

def child(act):
    sys.stdout.flush()
    number = os.fork()
    if not number:
        code = 70
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    report(f"child {os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])}")
"""


def test_every_call_in_a_forked_child_raises_with_a_hint(server: LocalServer):
    """In the child each call raises StateError at once, iterators included; `repr` and properties do not raise
    (R46)."""
    source = (
        CHILD
        + """
with supawire.connect(URL, KEY) as client:
    room = client.channel("room", echo=True)
    stream = room.listen(broadcast())
    other = room.listen(broadcast())
    handle = room.on(broadcast(), lambda event: None)
    room.subscribe()
    room.broadcast("a", 1)
    next(other)
    def act():
        calls = [client.ping, client.close, client.wait_closed, client.stats, client.reconnect, client.listen,
                 client.remove_all_channels, lambda: client.channel("x"), lambda: client.publish("a", "b", {}),
                 room.subscribe, room.unsubscribe, room.presence_state, room.untrack, lambda: room.broadcast("a", 1),
                 lambda: room.on(broadcast(), print), lambda: room.listen(broadcast()), handle.cancel,
                 lambda: next(stream), stream.get, stream.close, client.__enter__]
        report([number for number, call in enumerate(calls) if not refused(call)])
        report(f"{client!r} {room.state} {stream.dropped}".replace(URL.split("//")[1], "HOST"))
    child(act)
    report(client.ping() > 0)
    report(next(stream).payload)
"""
    )
    with Program(server, source) as program:
        assert program.end() == (0, ["[]", "<Client of HOST open, 1 channels> joined 0", "child 0", "True", "1"], "")


def test_the_child_closes_the_socket_without_sending(server: LocalServer):
    """The child closes its copy of the socket and exits without sending a frame, and the parent's connection stays
    open (R46)."""
    source = (
        CHILD
        + """
with supawire.connect(URL, KEY) as client:
    room = client.channel("room")
    with room, room.listen(broadcast()) as stream:
        client.publish("room", "a", {})  # a pooled HTTP connection is inherited too
        report(len(peers()))
        sys.stdout.flush()
        number = os.fork()
        if not number:
            import gc
            gc.collect()
            report(len(peers()))
            sys.exit(3)  # through every `with`, and the exit hooks
        report(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]))
        report(client.stats().connects)
        room.broadcast("a", {})
        report(f"{client.ping() > 0} {len(peers())}")
"""
    )
    with Program(server, source) as program:
        assert program.end() == (0, ["2", "0", "3", "1", "True 2"], "")
    events = [frame.event for frame in server.frames]
    assert events == ["phx_join", "broadcast", "heartbeat", "phx_leave"]


def test_the_child_opens_a_client_of_its_own(server: LocalServer):
    """After a fork the child opens a client, and closes it and exits like any program (R46)."""
    source = (
        CHILD
        + """
client = supawire.connect(URL, KEY)
room = client.channel("room", echo=True)
room.subscribe()
def act():
    with supawire.connect(URL, KEY) as own:
        theirs = own.channel("room", echo=True)
        stream = theirs.listen(broadcast())
        theirs.subscribe()
        theirs.broadcast("a", "from the child")
        report(next(stream).payload)
    report(ours())
child(act)
client.close()
"""
    )
    with Program(server, source) as program:
        code, words, complaint = program.end()
        assert (code, words[0], words[-1], complaint) == (0, "from the child", "child 0", "")


def test_a_handler_may_fork(server: LocalServer):
    """A child forked in a handler ends when the handler returns, and the parent's next event is handled (R46)."""
    source = (
        CHILD
        + """
done = threading.Event()
def handler(event):
    if event.payload == 1:
        number = os.fork()
        if number:
            report(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]))
        else:
            report(refused(client.ping))
    else:
        report(event.payload)
        done.set()
with supawire.connect(URL, KEY) as client:
    room = client.channel("room", echo=True)
    room.on(broadcast(), handler)
    room.subscribe()
    room.broadcast("a", 1)
    room.broadcast("a", 2)
    done.wait()
"""
    )
    with Program(server, source) as program:
        assert program.end() == (0, ["True", "0", "2"], "")


def test_prefork_workers_open_their_own(server: LocalServer):
    """Workers of a forking pool, as in Celery, each open a client and send while the parent has one open (R46)."""
    source = """
import multiprocessing

def work(number):
    with supawire.connect(URL, KEY) as client:
        room = client.channel("jobs", ack=True)
        room.subscribe()
        return room.broadcast("done", number).acked

if __name__ == "__main__":
    with supawire.connect(URL, KEY) as client:
        room = client.channel("jobs")
        stream = room.listen(broadcast())
        room.subscribe()
        with multiprocessing.get_context("fork").Pool(3) as pool:
            report(pool.map(work, range(6)))
        report(sorted(next(stream).payload for _ in range(6)))
"""
    with Program(server, source) as program:
        code, words, complaint = program.end()
        assert (code, words) == (0, ["[True, True, True, True, True, True]", "[0, 1, 2, 3, 4, 5]"]), complaint
