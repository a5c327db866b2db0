"""Passing events on: as signed webhooks, or to a command. In order, with a bounded number at once."""

import asyncio
import contextlib
import os
import secrets
import shlex
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import SystemRandom
from typing import Any, Final, Protocol

from standardwebhooks import Webhook

from supawire._webhooks import WebhookSender, retry_delay, webhook_sender
from supawire.cli.output import shown, to_json
from supawire.errors import InvalidArgumentError

MAX_WAITING: Final = 1000
"""Maximum events that wait for a delivery; then no more are read from the server for a while."""
KILL_AFTER: Final = 5.0
"""Seconds between asking a command to end and killing it, when the program itself ends."""
RANDOM: Final = SystemRandom()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the delivery of one event ended. `detail`: the last status, exit code or error."""

    delivered: bool
    detail: str
    attempts: int = 1
    seconds: float = 0.0


class Receiver(Protocol):
    """Something that events are delivered to."""

    async def deliver(self, fields: Mapping[str, Any]) -> Outcome:
        """Deliver one event, and return how it ended."""
        ...


class WebhookReceiver:
    """Posts each event to a URL, signed, and again while the receiver has a temporary problem."""

    def __init__(self, sender: WebhookSender) -> None:
        self._sender: Final = sender

    async def deliver(self, fields: Mapping[str, Any]) -> Outcome:
        """Post one event until it is accepted or given up; its `webhook-id` stays the same."""
        message_id = f"msg_{secrets.token_hex(16)}"
        body = to_json(fields)
        started = time.monotonic()
        attempts = 0
        while True:
            attempts += 1
            status, detail, retry_after = await self._sender.send(message_id, body)
            seconds = time.monotonic() - started
            if status is not None and 200 <= status < 300:
                return Outcome(True, detail, attempts, seconds)
            delay = retry_delay(status, retry_after, attempts, RANDOM.random())
            if delay is None:
                return Outcome(False, detail, attempts, seconds)
            await asyncio.sleep(delay)


def split_command(command: str, *, windows: bool = os.name == "nt") -> list[str]:
    """Return the words of a command line. Raises: ValueError: a quotation mark is not closed."""
    if not windows:
        return shlex.split(command)
    words = shlex.split(command, posix=False)  # keeps the backslashes of paths, and also the quotation marks
    return [word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word for word in words]


class CommandReceiver:
    """Runs a command for each event, with the event as JSON on stdin. No shell is involved."""

    def __init__(self, command: str) -> None:
        try:
            words = split_command(command)
        except ValueError as error:
            raise InvalidArgumentError(f"--exec: {error}: {shown(command, 100)}") from error
        if not words:
            raise InvalidArgumentError("--exec must name a command, such as --exec 'python handle.py'")
        program = shutil.which(words[0])
        if program is None:
            raise InvalidArgumentError(f"--exec: there is no program {shown(words[0], 100)}")
        self._words: Final = [program, *words[1:]]

    async def deliver(self, fields: Mapping[str, Any]) -> Outcome:
        """Run the command for one event, and return its exit code."""
        started = time.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(*self._words, stdin=asyncio.subprocess.PIPE)
        except OSError as error:
            return Outcome(False, f"cannot be run: {error.strerror}")
        try:
            await feed(process, f"{to_json(fields)}\n".encode())
            await process.wait()
        finally:
            if process.returncode is None:
                await _end(process)
        code = process.returncode or 0
        detail = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
        return Outcome(code == 0, detail, seconds=time.monotonic() - started)


async def feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    """Write to the stdin of a process and close it; the process may end without reading it.

    `communicate` is not used: with uvloop it raises RuntimeError when the process has ended before.
    """
    stdin = process.stdin
    assert stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        if not stdin.is_closing():
            stdin.write(data)
            await stdin.drain()
    stdin.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a command that still runs: ask, wait, kill."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(KILL_AFTER):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Deliveries:
    """Delivers events in the order of `put`, at most `in_flight` at once.

    Args: report: called with each event and how its delivery ended.
    """

    def __init__(
        self, receiver: Receiver, in_flight: int, report: Callable[[Mapping[str, Any], Outcome], None]
    ) -> None:
        self._receiver: Final = receiver
        self._in_flight: Final = in_flight
        self._report: Final = report
        self._queue: Final[asyncio.Queue[Mapping[str, Any]]] = asyncio.Queue(MAX_WAITING)
        self.failed: int = 0
        self.unfinished: int = 0
        """Events that were put and whose delivery has not ended."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Deliver while the block runs; at its normal end, wait for all deliveries."""
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(self._work()) for _ in range(self._in_flight)]
            yield
            await self._queue.join()
            for worker in workers:
                worker.cancel()

    async def put(self, fields: Mapping[str, Any]) -> None:
        """Add an event; waits while `MAX_WAITING` events wait."""
        self.unfinished += 1
        await self._queue.put(fields)

    async def _work(self) -> None:
        while True:
            fields = await self._queue.get()
            outcome = await self._receiver.deliver(fields)
            self.unfinished -= 1
            self.failed += not outcome.delivered
            self._report(fields, outcome)
            self._queue.task_done()


@asynccontextmanager
async def webhook_receiver(url: str, signer: Webhook) -> AsyncGenerator[WebhookReceiver]:
    """Open what posts to a URL."""
    async with webhook_sender(url, signer) as sender:
        yield WebhookReceiver(sender)
