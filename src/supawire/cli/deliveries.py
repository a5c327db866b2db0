"""Passing events on: as signed webhooks, or to a command. In order, with a bounded number at once.

Webhooks follow the Standard Webhooks specification, so that receivers can verify them with existing libraries: the
headers `webhook-id`, `webhook-timestamp` and `webhook-signature`.
"""

import asyncio
import contextlib
import os
import secrets
import shlex
import shutil
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from random import SystemRandom
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import aiohttp
from standardwebhooks import Webhook

from supawire.cli.output import shown, to_json
from supawire.errors import InvalidArgumentError

MAX_WAITING: Final = 1000
"""Maximum events that wait for a delivery; then no more are read from the server for a while."""
ATTEMPTS: Final = 6
FIRST_DELAY: Final = 0.5
MAX_DELAY: Final = 60.0
REQUEST_TIMEOUT: Final = 15.0
"""Seconds for one request, as the specification recommends."""
KILL_AFTER: Final = 5.0
"""Seconds between asking a command to end and killing it, when the program itself ends."""
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  the beginning of every secret
MIN_SECRET: Final = 24
MAX_SECRET: Final = 64
"""Bytes of a secret, by the specification."""
RETRIED: Final = frozenset({408, 425, 429})
"""Client errors that are temporary; besides them every status from 500 on is."""

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


def retry_delay(status: int | None, retry_after: str | None, attempts: int, jitter: float) -> float | None:
    """Return the seconds until the next attempt, or None to give up.

    Args: status: of the response, None if there was none. attempts: made so far. jitter: between 0 and 1.
    """
    temporary = status is None or status >= 500 or status in RETRIED
    if not temporary or attempts >= ATTEMPTS:
        return None
    delay = min(MAX_DELAY, FIRST_DELAY * 2 ** (attempts - 1)) * (1 - jitter / 2)
    requested = int(retry_after[:9]) if retry_after and retry_after.isascii() and retry_after.isdigit() else 0
    return delay if requested <= delay else min(MAX_DELAY, float(requested))


def make_secret() -> str:
    """Return a new secret for signatures."""
    return f"{SECRET_PREFIX}{b64encode(secrets.token_bytes(32)).decode()}"


def make_signer(secret: str) -> Webhook:
    """Return what signs with a secret of the form `whsec_…`. Raises: InvalidArgumentError."""
    try:
        key = b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not MIN_SECRET <= len(key) <= MAX_SECRET:
        raise InvalidArgumentError(
            f"--secret must be {SECRET_PREFIX} and base64 of {MIN_SECRET} to {MAX_SECRET} bytes",
            hint="Leave it out to use a new one.",
        )
    return Webhook(key)


def check_url(url: str) -> str:
    """Return the URL of a receiver. Raises: InvalidArgumentError."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # UnicodeError, a ValueError, for a name that cannot be looked up
        valid = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidArgumentError(
            f"--forward-to must be a URL that begins with http:// or https:// and has a valid host, "
            f"not {shown(url, 100)}"
        )
    return url


class WebhookReceiver:
    """Posts each event to a URL, signed, and again while the receiver has a temporary problem."""

    def __init__(self, url: str, signer: Webhook, http: aiohttp.ClientSession) -> None:
        self._url: Final = url
        self._signer: Final = signer
        self._http: Final = http

    async def deliver(self, fields: Mapping[str, Any]) -> Outcome:
        """Post one event until it is accepted or given up; its `webhook-id` stays the same."""
        message_id = f"msg_{secrets.token_hex(16)}"
        body = to_json(fields)
        started = time.monotonic()
        attempts = 0
        while True:
            attempts += 1
            status, detail, retry_after = await self._attempt(message_id, body)
            seconds = time.monotonic() - started
            if status is not None and 200 <= status < 300:
                return Outcome(True, detail, attempts, seconds)
            delay = retry_delay(status, retry_after, attempts, RANDOM.random())
            if delay is None:
                return Outcome(False, detail, attempts, seconds)
            await asyncio.sleep(delay)

    async def _attempt(self, message_id: str, body: str) -> tuple[int | None, str, str | None]:
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"supawire/{version('supawire')}",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(message_id, now, body),
        }
        try:
            async with self._http.post(
                self._url, data=body.encode(), headers=headers, allow_redirects=False
            ) as response:
                return response.status, f"HTTP {response.status}", response.headers.get("Retry-After")
        except TimeoutError:
            return None, f"no answer in {REQUEST_TIMEOUT:g} s", None
        except aiohttp.ClientError as error:
            return None, shown(str(error) or type(error).__name__, 200), None


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
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield WebhookReceiver(url, signer, http)
