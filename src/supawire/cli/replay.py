"""`supawire replay`: serve a recording to a client, or print it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from cyclopts import Parameter

from supawire.cli import FAILURE, SUCCESS
from supawire.cli.arguments import check_signing_secret
from supawire.cli.env_files import KEY, PUBLISHABLE_KEY, SECRET_KEY, SERVICE_KEY, URL, EnvFile
from supawire.cli.event_output import event_fields, event_line
from supawire.cli.output import JsonFlag, Output, print_error, shown
from supawire.errors import InvalidArgumentError
from supawire.events import Broadcast, Delete, Event, Insert, PresenceJoin, PresenceLeave, PresenceUpdate, Update
from supawire.options import Limits, check_count, check_number
from supawire.selectors import broadcast, changes, presence

if TYPE_CHECKING:
    from supawire.aio.channel import AsyncChannel
    from supawire.aio.client import AsyncClient
    from supawire.server.local import LocalServer
    from supawire.testing.recorded_frames import Recording

POLL_INTERVAL: Final = 0.05
SETTLE: Final = 0.2
"""Seconds from the join of a client to the first event, and from the last event to the end of the server."""
LOOP_PAUSE: Final = 1.0
MAX_PARTICIPANTS: Final = 200
"""Maximum number of recorded participants that are present at once; each one is a connection."""
MAX_RECENT: Final = 100
"""Number of row changes that are compared, because a change was recorded once for each channel that received it."""

Take: TypeAlias = Callable[[Event], Awaitable[None]]


def replay(
    file: Annotated[Path, Parameter(help="A file that supawire record or RecordingTransport.save wrote.")],
    /,
    *,
    speed: Annotated[float, Parameter(help="2 is twice as fast; 0 is without pauses.")] = 1.0,
    print_: Annotated[
        bool,
        Parameter(name="--print", negative=(), show_default=False, help="Print the events instead of serving them."),
    ] = False,
    json: JsonFlag = False,
    loop: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Serve it again and again, until Ctrl-C.")
    ] = False,
    port: Annotated[int, Parameter(help="Port to listen on; 0 selects a free one.")] = 4000,
    secret: Annotated[
        str | None, Parameter(env_var="SUPAWIRE_SECRET", help="Secret for the keys, as for supawire serve.")
    ] = None,
    env_file: Annotated[
        Path | None, Parameter(help="Write address and keys to this file, as supawire serve does.")
    ] = None,
) -> int:
    """Serve a recording to your own client, as the server did: a local server sends its events again.

    It begins when a client has joined one of the recorded topics, sends the events at the recorded pace, and ends. Any
    of its keys may join any topic, private ones included.
    """
    from supawire.testing.recorded_frames import Recording

    check_number("--speed", speed, minimum=0)
    try:
        recording = Recording.load(file)
    except OSError as error:
        raise InvalidArgumentError(f"{file} cannot be read: {error.strerror}") from error
    if not recording.topics:
        raise InvalidArgumentError(f"{file} contains no joined channel, so there is nothing to replay")
    if print_ or json:
        output = Output(json=json)
        asyncio.run(_Replay(recording, speed, _Printer(output).take).run())
        return SUCCESS
    server = _Server(port, secret, env_file)
    try:
        asyncio.run(server.run(recording, speed, loop=loop))
    finally:
        server.report()
    return FAILURE if server.failed else SUCCESS


class _Replay:
    """Decodes a recording with a client that has no network, and passes on its events at their times."""

    def __init__(self, recording: "Recording", speed: float, take: Take) -> None:
        self._recording = recording
        self._speed = speed
        self._take = take
        self._received: deque[Event] = deque()

    async def run(self) -> None:
        """Pass on all events."""
        from supawire.aio.connect import connect_async
        from supawire.testing.recording import RecordingTransport

        wire = RecordingTransport()
        async with connect_async("http://127.0.0.1", "replay", transport=wire, limits=Limits.off()) as client:
            for topic in self._recording.topics:
                await self._join(client, topic)
            await client.ping()
            self._received.clear()  # the empty presence of the joins
            played_until = 0.0
            for frame in self._recording.frames:
                if self._speed and frame.at > played_until:
                    await asyncio.sleep((frame.at - played_until) / self._speed)
                    played_until = frame.at
                if wire.play([frame]):
                    await client.ping()  # its answer is received after the event
                    while self._received:
                        await self._take(self._received.popleft())

    async def _join(self, client: "AsyncClient", topic: str) -> None:
        channel = client.channel(topic)
        for selector in (broadcast(), changes("*", schema="*"), presence()):
            channel.on(selector, self._receive)
        await channel.subscribe()

    def _receive(self, event: Event) -> None:
        self._received.append(event)


class _Printer:
    """Prints events, as `supawire listen` does."""

    def __init__(self, output: Output) -> None:
        self._output = output

    async def take(self, event: Event) -> None:
        """Print one event."""
        if self._output.json:
            self._output.record(event_fields(event))
        else:
            self._output.line(*event_line(event))


def _allow(*question: object) -> bool:
    del question
    return True


class _Server:
    """A local server that sends recorded events."""

    def __init__(self, port: int, secret: str | None, env_file: Path | None) -> None:
        from supawire.server.local import LocalServer

        checked = check_signing_secret(secret) if secret else None
        self._server = LocalServer(port=check_count("--port", port, minimum=0, maximum=65_535), secret=checked)
        self._server.policy(_allow)
        self._env_file = None if env_file is None else EnvFile(env_file)
        self._output = Output()
        self.sent: int = 0
        self.failed: int = 0

    async def run(self, recording: "Recording", speed: float, *, loop: bool) -> None:
        """Serve, wait for a client, send the events, and end."""
        async with self._server:
            values = self._values()
            if self._env_file is not None:
                self._env_file.write(values)
            try:
                names = ", ".join(shown(topic) for topic in recording.topics)
                self._output.line(f"Serving {len(recording.frames)} frames of {names} at {self._server.url}")
                self._output.line("It begins when a client joins one of these topics. Ctrl-C stops it.")
                await self._wait_for_client(recording)
                await self._play(recording, speed)
                while loop:
                    await asyncio.sleep(LOOP_PAUSE)
                    await self._play(recording, speed)
            finally:
                if self._env_file is not None:
                    self._env_file.remove()

    def _values(self) -> dict[str, str]:
        server = self._server
        keys = {KEY: server.anon_key, SERVICE_KEY: server.service_key}
        return {URL: server.url, **keys, PUBLISHABLE_KEY: server.publishable_key, SECRET_KEY: server.secret_key}

    async def _wait_for_client(self, recording: "Recording") -> None:
        topics = {f"realtime:{topic}" for topic in recording.topics}
        while not self._has_joined(topics):  # noqa: ASYNC110  the server has no event for joins
            await asyncio.sleep(POLL_INTERVAL)
        await asyncio.sleep(SETTLE)

    def _has_joined(self, topics: set[str]) -> bool:
        return any(frame.event == "phx_join" and frame.topic in topics for frame in self._server.frames)

    async def _play(self, recording: "Recording", speed: float) -> None:
        async with _Sender(self._server, recording.topics) as sender:
            try:
                await _Replay(recording, speed, sender.take).run()
                await asyncio.sleep(SETTLE)
            finally:
                self.sent += sender.sent
                self.failed += sender.failed

    def report(self) -> None:
        """Print what was sent."""
        self._output.line(f"{self.sent} events sent.")
        if self.failed:
            print_error(f"{self.failed} events could not be sent again")


class _Sender:
    """Sends events through a local server. Participants of presence are clients of their own."""

    def __init__(self, server: "LocalServer", topics: dict[str, bool]) -> None:
        self._server = server
        self._topics = topics
        self._recent: deque[tuple[str, object]] = deque(maxlen=MAX_RECENT)
        self._participants: dict[tuple[str, str], tuple[AsyncClient, AsyncChannel]] = {}
        self._stack = AsyncExitStack()
        self.sent: int = 0
        self.failed: int = 0

    async def __aenter__(self) -> "_Sender":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def take(self, event: Event) -> None:
        """Send one event."""
        match event:
            case Broadcast():
                self._broadcast(event)
            case Insert() | Update() | Delete():
                self._emit(event)
            case PresenceJoin() | PresenceUpdate():
                await self._track(event.topic, event.key, event.current[-1].payload)
            case PresenceLeave() if not event.current:
                await self._leave(event.topic, event.key)
            case _:
                return
        self.sent += 1

    def _broadcast(self, event: Broadcast[Any]) -> None:
        private = self._topics[event.topic]
        if isinstance(event.payload, bytes):
            self._server.send(event.topic, event.event, event.payload, private)
        else:
            self._server.broadcast(event.topic, event.event, event.payload, private)

    def _emit(self, event: Insert[Any] | Update[Any] | Delete) -> None:
        content = event.raw
        if any(topic != event.topic and content == other for topic, other in self._recent):
            return
        self._recent.append((event.topic, content))
        columns = {column.name: column.type for column in event.columns}
        record = None if isinstance(event, Delete) else event.record
        old_record = None if isinstance(event, Insert) else event.old_record
        self._server.emit(
            event.type, event.table, record=record, old_record=old_record, schema=event.schema, columns=columns,
            errors=event.errors or None,
        )  # fmt: skip

    async def _track(self, topic: str, key: str, payload: Any) -> None:
        found = self._participants.get((topic, key))
        if found is None:
            if len(self._participants) >= MAX_PARTICIPANTS:
                self.failed += 1
                return
            found = await self._participant(topic, key)
        await found[1].track(payload)

    async def _participant(self, topic: str, key: str) -> "tuple[AsyncClient, AsyncChannel]":
        from supawire.aio.connect import connect_async

        opener = connect_async(self._server.url, self._server.service_key, limits=Limits.off())
        client = await self._stack.enter_async_context(opener)
        channel = client.channel(topic, private=self._topics[topic], presence_key=key)
        await channel.subscribe()
        made = self._participants[topic, key] = client, channel
        return made

    async def _leave(self, topic: str, key: str) -> None:
        found = self._participants.pop((topic, key), None)
        if found is not None:
            await found[0].close()
