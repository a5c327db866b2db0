"""The cases of the matrix: what the server does to a client, and which behaviour passes; the same for both clients."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from supawire.core.frames import Frame
from tests.faults.misbehaver import Misbehaver, Wire


class Stage:
    """The server and the client process of a case."""

    def __init__(self, server: Misbehaver) -> None:
        self.server = server
        self.lines: list[dict[str, Any]] = []
        self._news = asyncio.Event()

    def add(self, line: dict[str, Any]) -> None:
        """Record a line of the client's output."""
        self.lines.append(line)
        self._news.set()

    @property
    def got(self) -> list[Any]:
        """The numbers of the events that the user's handler received."""
        return [line["got"] for line in self.lines if "got" in line]

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until this holds; it is evaluated after each line of output. Return whether it held in time."""
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def fact(self, name: str, seconds: float) -> Any:
        """Return the first value that the client prints under this name, or None after the timeout."""
        await self.until(lambda: any(name in line for line in self.lines), seconds)
        return next((line[name] for line in self.lines if name in line), None)

    async def ready(self) -> None:
        """Wait until the client has joined its channel."""
        assert await self.fact("ready", 15), self.lines

    async def receives(self, seconds: float, count: int = 3) -> int:
        """Send events until this many have arrived, for at most so many seconds; return how many arrived."""
        before = len(self.got)
        server = self.server
        async with asyncio.timeout(seconds + 60):
            for number in range(int(seconds / 0.1)):
                if server.wires:
                    server.wire.broadcast("room", "n", {"n": 1000 + number})
                if await self.until(lambda: len(self.got) >= before + count, 0.1):
                    break
        return min(len(self.got) - before, count)


Script = Callable[[Stage], Awaitable[tuple[bool, str]]]


@dataclass(frozen=True)
class Case:
    """One row of the matrix. `program` of ours.py and theirs.py is run with `options`."""

    name: str
    title: str
    program: str
    script: Script
    options: dict[str, Any] = field(default_factory=dict[str, Any])


CASES: Final[list[Case]] = []


def case(title: str, program: str, **options: Any) -> Callable[[Script], Script]:
    """Register the decorated function as a case."""

    def register(script: Script) -> Script:
        CASES.append(Case(getattr(script, "__name__", ""), title, program, script, options))
        return script

    return register


def back(count: int, seconds: float = 0) -> tuple[bool, str]:
    """Return the result of a case that passes when events arrive again."""
    return (True, "reconnects, events arrive") if count else (False, f"no event in {seconds:g} s")


@case("A handler raises on one event; five more follow", "listen_with_a_bug")
async def handler_raises(stage: Stage) -> tuple[bool, str]:
    await stage.ready()
    stage.server.wire.broadcast("room", "bug", {"n": 0})
    for number in range(5):
        stage.server.wire.broadcast("room", "n", {"n": number})
    await stage.until(lambda: len(stage.got) == 5, 3)
    return len(stage.got) == 5, f"{len(stage.got)} of 5 arrive"


@case("The handler is an `async` function; five events", "listen_async")
async def async_handler(stage: Stage) -> tuple[bool, str]:
    await stage.ready()
    for number in range(5):
        stage.server.wire.broadcast("room", "n", {"n": number})
    await stage.until(lambda: len(stage.got) == 5, 3)
    return len(stage.got) == 5, f"{len(stage.got)} of 5 are handled"


@case("The handler of one channel takes 1 s; an event of another channel", "listen_slowly")
async def slow_handler(stage: Stage) -> tuple[bool, str]:
    await stage.ready()
    stage.server.wire.broadcast("slow", "n", {"n": 1})
    stage.server.wire.broadcast("room", "n", {"n": 2})
    await stage.until(lambda: bool(stage.got) and {"slow": "done"} in stage.lines, 5)
    first = stage.lines.index({"got": 2}) < stage.lines.index({"slow": "done"})
    return first, "is handled at once" if first else "waits for that handler"


@case("The server is unreachable for 20 s", "listen")
async def server_away(stage: Stage) -> tuple[bool, str]:
    await stage.ready()
    await stage.server.leave()
    stage.server.wire.reset()
    await asyncio.sleep(20)
    await stage.server.listen()
    return back(await stage.receives(35), 35)


@case("The server closes with 1000", "listen")
async def close_1000(stage: Stage) -> tuple[bool, str]:
    await stage.ready()
    stage.server.wire.close(1000)
    return back(await stage.receives(10), 10)


@case("The server accepts connections and closes them at once, for 5 s", "listen")
async def accept_then_close(stage: Stage) -> tuple[bool, str]:
    await stage.ready()

    async def closes(wire: Wire) -> None:
        await wire.upgrade()
        wire.close(1011)

    stage.server.scripts[:] = [closes]
    stage.server.wire.close(1011)
    await asyncio.sleep(5)
    count = len(stage.server.wires) - 1
    few = count <= 6
    return few, "a handful of connections" if few else f"{count:,} connections"


@case("Heartbeats are not answered, WebSocket pings are", "listen", heartbeat=1, timeout=2)
async def deaf_server(stage: Stage) -> tuple[bool, str]:
    await stage.ready()
    stage.server.answers["heartbeat"] = None
    try:
        async with asyncio.timeout(35):
            await stage.server.connected(2)
    except TimeoutError:
        return False, "not detected in 35 s"
    return True, "detected, reconnects"


@case("The first join is refused for a temporary reason", "listen")
async def join_refused_once(stage: Stage) -> tuple[bool, str]:
    return back(await stage.receives(15), 15)


@case("A join is refused permanently (Unauthorized); 8 s", "subscribe_denied")
async def join_denied(stage: Stage) -> tuple[bool, str]:
    error = await stage.fact("raised", 8)
    await asyncio.sleep(8)
    count = len(stage.server.of("phx_join"))
    how = (
        "`subscribe()` raises the server's message"
        if error and "Unauthorized" in error
        else "`subscribe()` does not raise"
    )
    return bool(error) and count == 1, f"{how}, {count} join{'s' if count > 1 else ''}"


@case(
    "A join times out; its late `phx_close` arrives after the next join was accepted",
    "listen_patiently",
    timeout=1,
    heartbeat=1,
)
async def late_close(stage: Stage) -> tuple[bool, str]:
    async with asyncio.timeout(30):
        await stage.server.got("phx_join", 2)
    await stage.ready()
    first = stage.server.of("phx_join")[0]
    stage.server.wire.push("realtime:room", "phx_close", {}, join_ref=first.ref, ref=first.ref)
    await asyncio.sleep(0.5)
    count = await stage.receives(5)
    return (True, "stays joined, events arrive") if count else (False, "the channel is closed")


@case("The token expires, and the server ends the channel", "listen_with_tokens")
async def token_expires(stage: Stage) -> tuple[bool, str]:
    await stage.ready()
    server, join = stage.server, stage.server.of("phx_join")[-1]
    expired = join.payload["access_token"]

    def check_token(wire: Wire, frame: Frame) -> None:
        if frame.payload["access_token"] == expired:
            wire.deny(frame, "InvalidJWTToken: Token has expired 1 seconds ago")
        else:
            wire.accept(frame)

    server.answers["phx_join"] = check_token
    gone = {"extension": "system", "status": "error", "message": "Token has expired 1 seconds ago", "channel": "room"}
    server.wire.push("realtime:room", "system", gone, join_ref=join.ref)
    server.wire.push("realtime:room", "phx_close", {}, join_ref=join.ref, ref=join.ref)
    await asyncio.sleep(0.5)
    for _ in range(10):
        if any(frame.payload["access_token"] != expired for frame in server.of("phx_join")):
            return back(await stage.receives(5), 5)
        await asyncio.sleep(1)
    joins = len(server.of("phx_join")) - 1
    return False, f"no fresh token in 10 s, {joins} joins with the expired one" if joins else "the channel is closed"


@case("1,000 sends in a row with ack, the connection is cut after 300", "send", count=1000)
async def sends_over_a_drop(stage: Stage) -> tuple[bool, str]:
    server, arrived = stage.server, set[int]()

    def receive(wire: Wire, frame: Frame) -> None:
        if len(arrived) == 300 and wire.number == 0:
            wire.reset()
            return
        arrived.add(frame.payload["payload"]["n"])
        wire.reply(frame)

    server.answers["broadcast"] = receive
    done, failed = await stage.fact("done", 60), next((line["failed"] for line in stage.lines if "failed" in line), [])
    lost = len(set(done or []) - arrived)
    return done is not None and not lost, f"{lost} lost without an error, {len(failed)} with one"


@case("2,000 sends without ack: tasks left half a second later", "send_without_ack", count=2000)
async def sends_leave_tasks(stage: Stage) -> tuple[bool, str]:
    tasks = await stage.fact("tasks", 30)
    return tasks == 0, f"{tasks:,} more"


@case("A message of 1.5 MiB arrives", "listen")
async def big_frame(stage: Stage) -> tuple[bool, str]:
    await stage.ready()
    stage.server.wire.broadcast("room", "n", {"n": 7, "big": "x" * (3 << 19)})
    await stage.until(lambda: 7 in stage.got, 3)
    lost = len(stage.server.wires) > 1
    return stage.got == [7], "is delivered" if stage.got == [7] else "ends the connection" if lost else "is dropped"


@case("`track()`, then the connection is lost", "track")
async def presence_after_a_drop(stage: Stage) -> tuple[bool, str]:
    await stage.ready()
    stage.server.wire.reset()
    try:
        async with asyncio.timeout(10):
            await stage.server.got("phx_join", 2)
            await stage.server.got("presence", 2)
    except TimeoutError:
        return False, "joined again, not present"
    return True, "present again"


@case("`unsubscribe()`, then `subscribe()` on the same channel", "subscribe_again")
async def subscribe_again(stage: Stage) -> tuple[bool, str]:
    await stage.until(lambda: any("raised" in line or "ready" in line for line in stage.lines), 15)
    raised = next((line["raised"] for line in stage.lines if "raised" in line), None)
    if raised is not None:
        return False, "raises"
    return (True, "works") if await stage.receives(5) else (False, "no event")


@case("The project is disabled (403 with a reason)", "connect")
async def forbidden(stage: Stage) -> tuple[bool, str]:
    error = await stage.fact("raised", 40)
    count = len(stage.server.wires)
    text = "with the server's message" if error and "disabled" in error else "without the server's message"
    passed = count == 1 and bool(error) and "disabled" in error
    return passed, f"raises after {count} attempt{'s' * (count > 1)}, {text}"


async def _refuse_disabled(wire: Wire) -> None:
    await wire.refuse(403, b'{"error":"Realtime was disabled for this tenant"}', "Content-Type: application/json")


def prepare(name: str, server: Misbehaver) -> None:
    """Prepare the server of a case before the client starts."""
    if name == "forbidden":
        server.scripts[:] = [_refuse_disabled]
    elif name in ("join_refused_once", "join_denied"):
        once = name == "join_refused_once"
        reason = (
            "InitializingProjectConnection: Connecting to the project database" if once else "Unauthorized: not you"
        )

        def refuse(wire: Wire, frame: Frame) -> None:
            wire.deny(frame, reason)
            if once:
                server.answers["phx_join"] = Wire.accept

        server.answers["phx_join"] = refuse
    elif name == "sends_leave_tasks":
        server.answers["broadcast"] = None
    elif name == "late_close":

        def ignore(wire: Wire, frame: Frame) -> None:
            server.answers["phx_join"] = Wire.accept

        server.answers["phx_join"] = ignore
