"""`supawire record`: write what a channel receives to a file."""

import asyncio
import os
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Group, Parameter
from rich.live import Live
from rich.text import Text

from supawire.cli import FAILURE, SUCCESS
from supawire.cli.arguments import Duration
from supawire.cli.connection import Connect, Target, open_client
from supawire.cli.event_output import event_line, is_data, is_passing
from supawire.cli.listen import select_events
from supawire.cli.messages import Private, Topic
from supawire.cli.output import make_console, print_error
from supawire.errors import InvalidArgumentError
from supawire.events import Status, System
from supawire.options import check_count, check_number, check_topic
from supawire.selectors import Selector

if TYPE_CHECKING:
    from supawire.aio.client import AsyncClient

_EVENTS: Final = Group("Events", sort_key=1)
MAX_SIZE: Final = 200.0
"""Megabytes of the largest recording; no larger one is read again."""


def record(
    file: Annotated[Path, Parameter(help="The file to write.")],
    topic: Topic,
    /,
    *,
    table: Annotated[
        str | None, Parameter(group=_EVENTS, help="Row changes of this table instead of broadcasts.")
    ] = None,
    schema: Annotated[str | None, Parameter(group=_EVENTS, help="The table's schema; public if omitted.")] = None,
    filter: Annotated[str | None, Parameter(group=_EVENTS, help="Only rows that match. Needs --table.")] = None,
    presence: Annotated[
        bool, Parameter(group=_EVENTS, negative=(), show_default=False, help="Also who joins and leaves.")
    ] = False,
    private: Private = False,
    count: Annotated[int | None, Parameter(help="End after this number of events.")] = None,
    for_: Annotated[Duration | None, Parameter(name="--for", help="End after this time, such as 10m.")] = None,
    max_size: Annotated[
        float, Parameter(help="End when the file has this many megabytes; the exit code is then 1.")
    ] = 100.0,
    force: Annotated[bool, Parameter(negative=(), show_default=False, help="Replace an existing file.")] = False,
    connect: Connect = Connect(),
) -> int:
    """Record what a channel receives, until Ctrl-C.

    The file has every frame, with its time; tokens and keys are hidden. Only you can read it.
    """
    check_topic(topic)
    check_number("--max-size", max_size, above=0, maximum=MAX_SIZE, unit="megabytes")
    if count is not None:
        check_count("--count", count)
    selectors = select_events("*", table, schema, filter, presence=presence)
    target = connect.target()
    opened = _create(file, force)
    recorder = _Recorder(opened, int(max_size * 1e6), count)
    try:
        with opened:
            asyncio.run(recorder.run(target, connect.timeout, topic, private, selectors, for_))
    finally:
        recorder.report(file)
        if not recorder.frames and not force:
            file.unlink()  # it was created above, and would be in the way of the next attempt
    return FAILURE if recorder.full else SUCCESS


def _create(file: Path, force: bool) -> IO[bytes]:
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | (os.O_TRUNC if force else os.O_EXCL)
    try:
        opened = os.fdopen(os.open(file, flags, 0o600), "wb")
    except FileExistsError:
        raise InvalidArgumentError(f"{file} exists", hint="Name another file, or replace it with --force.") from None
    except OSError as error:
        raise InvalidArgumentError(f"{file} cannot be written: {error.strerror}") from error
    if force and sys.platform != "win32" and stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        os.fchmod(opened.fileno(), 0o600)  # others may be able to read the file that is replaced
    return opened


class _Recorder:
    """Writes the frames of one client to a file."""

    def __init__(self, file: IO[bytes], max_size: int, count: int | None) -> None:
        from supawire.testing.recorded_frames import RecordingWriter

        self._writer = RecordingWriter(file, datetime.now(UTC))
        self._max_size = max_size
        self._remaining = count
        self._console = make_console(stderr=True)
        self._client: AsyncClient | None = None
        self._started_at: float | None = None
        self._end = asyncio.Event()
        self._error: OSError | None = None
        self.frames: int = 0
        self.events: int = 0
        self.full: bool = False

    async def run(
        self,
        target: Target,
        timeout: float,
        topic: str,
        private: bool,
        selectors: list[Selector[Any]],
        seconds: float | None,
    ) -> None:
        """Record until the end. Raises: OSError: the file cannot be written."""
        limit = asyncio.timeout(seconds)
        try:
            async with (
                limit,
                open_client(target, timeout, on_frame=self._on_frame) as client,
                asyncio.TaskGroup() as group,
            ):
                self._client = client
                receiving = group.create_task(self._receive(client, topic, private, selectors))
                ending = group.create_task(self._end.wait())
                with self._live():
                    await asyncio.wait((receiving, ending), return_when=asyncio.FIRST_COMPLETED)
                receiving.cancel()
                ending.cancel()
        except TimeoutError:
            if not limit.expired():
                raise
        if self._error is not None:
            raise self._error

    def _live(self) -> Live:
        """Return a view of the counters, drawn in a terminal only."""
        return Live(
            get_renderable=lambda: Text(f"{self.events} events, {self._writer.size:,} bytes"),
            console=self._console,
            refresh_per_second=4,
            transient=True,
            auto_refresh=self._console.is_terminal,
        )

    async def _receive(self, client: "AsyncClient", topic: str, private: bool, selectors: list[Selector[Any]]) -> None:
        async for event in client.channel(topic, private=private).listen(*selectors, overflow="drop_oldest"):
            if isinstance(event, Status | System) and not is_passing(event):
                self._console.print(Text.assemble(*event_line(event)), soft_wrap=True)
            if not is_data(event):
                continue
            self.events += 1
            if self._remaining is not None and self.events >= self._remaining:
                return

    def _on_frame(self, direction: str, data: bytes, binary: bool) -> None:
        """Write a frame; called on the event loop."""
        from supawire.testing.recorded_frames import read

        if self._end.is_set():
            return
        now = asyncio.get_running_loop().time()
        if self._started_at is None:
            self._started_at = now
        connection = 1 if self._client is None else max(1, self._client.stats().connects)
        frame = read("out" if direction == "out" else "in", connection, data, binary, now - self._started_at)
        try:
            self._writer.write(frame)
        except OSError as error:  # raised by `run`; the client would only report it
            self._error = error
            self._end.set()
            return
        self.frames += 1
        if self._writer.size >= self._max_size:
            self.full = True
            self._end.set()

    def report(self, file: Path) -> None:
        """Print what was recorded."""
        if self.frames:
            text = f"{self.events} events in {self.frames} frames recorded in {file} ({self._writer.size:,} bytes)"
            self._console.print(text, soft_wrap=True)
        if self.full:
            print_error("the file has reached --max-size; later events are not in it")
