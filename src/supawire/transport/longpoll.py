"""Phoenix' long polling on aiohttp, for networks that do not let WebSockets pass. See docs/protocol.md, Long polling.

A session consists of HTTP requests: one GET at a time waits for frames of the server, and one POST at a time carries
ours. A request whose answer is lost ends the connection. The server has emptied its buffer when it answers a GET and
does not repeat the frames, so polling again would lose them silently. A POST may have been executed, so sending it
again could double its frames. The client then reconnects as after any loss: it reports a gap, and says of each pending
call whether it may have been sent.

Importing this module imports aiohttp, which is slow.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from supawire.errors import ConnectError
from supawire.options import Secret
from supawire.transport._aiohttp import (
    MAX_BODY,
    NO_LIMIT,
    connector,
    hide,
    http_proxy,
    network_errors,
    tls_name,
)
from supawire.transport.base import CLOSE_TIMEOUT, Closed, OpenRequest, Sink, parse_date, parse_retry_after

PROTOCOL: Final = "1.0.0"
"""The version of the frames. For 2.0.0 the server has no encoding of broadcasts without binary frames."""

ANSWER_TIMEOUT: Final = 30.0
"""Seconds that an answer may take. The server answers a poll after 10 s if there is nothing to send."""

EMPTY_PAUSE: Final = 0.2
"""Seconds between two polls if the answer to the first came at once and is empty; the server waits 10 s for frames."""

MAX_BATCH: Final = 100
"""Maximum frames of one POST, as in Phoenix' own client."""

MAX_BATCH_BYTES: Final = 1_000_000
"""Bytes of a POST above which no further frame is added. The server refuses a body of more than 8 MB."""

MAX_HELD_BYTES: Final = 8_000_000
"""Bytes of received frames above which a paused connection polls no more; the server then ends an unused session."""

MAX_ANSWER_BYTES: Final = 64_000_000
"""Maximum bytes of one answer to a poll, which has all frames since the one before."""

TOO_BIG: Final = 1009
"""The close code for a message that is too large, as of a WebSocket."""

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_ONE: Final = "application/json"
_MANY: Final = "application/x-ndjson"


class PollAnswer(Struct, frozen=True):
    """The answer to a request: `status` has the meaning of an HTTP status, and the HTTP status itself is always 200."""

    status: int
    token: str | None = None
    messages: tuple[str, ...] = ()


_answers: Final = msgspec.json.Decoder(PollAnswer)


def decode_answer(body: bytes) -> PollAnswer | None:
    """Decode the body of an answer; None when it is not one, such as a page of a proxy."""
    try:
        return _answers.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class LongPollTransport:
    """Opens sessions of long polling: checks certificates, follows no redirects, sends no request twice.

    It carries JSON frames of version 1.0.0 only: a client that uses it works with that version, whatever `protocol=`
    is.

    Args: close_timeout: seconds that a close waits until the frames written before are sent. answer_timeout: seconds
        that the answer to one request may take; the server's own limit for a poll is 10 s.
    """

    __slots__ = ("_answer_timeout", "_close_timeout")

    def __init__(self, *, close_timeout: float = CLOSE_TIMEOUT, answer_timeout: float = ANSWER_TIMEOUT) -> None:
        self._close_timeout = close_timeout
        self._answer_timeout = answer_timeout

    async def open(self, request: OpenRequest, /) -> "LongPollConnection":
        """Start a session; see `Transport.open`."""
        requests = _Requests(request)
        try:
            started = await requests.send("GET")
            answer = decode_answer(started.body) if started.status == 200 else None
            if answer is not None and answer.status == 410 and answer.token:
                requests.token = Secret(answer.token)
                return LongPollConnection(requests, self._close_timeout, self._answer_timeout, started.clock_offset)
        except _LostError as lost:
            failure = ConnectError(requests.hide(lost.text), reached=lost.sent)
        except BaseException:
            await requests.close()
            raise
        else:
            failure = _refusal(started, answer, requests)
        await requests.close()
        raise failure  # raised outside the handler: aiohttp's exception contains the URL with the key


class _Response(NamedTuple):
    status: int
    body: bytes
    retry_after: float | None
    clock_offset: float | None


class _LostError(Exception):
    """A request got no complete answer. sent: whether it may have reached the server. code: close code, if any."""

    def __init__(self, text: str, *, sent: bool, code: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.sent = sent
        self.code = code


def _refusal(response: _Response, answer: PollAnswer | None, requests: "_Requests") -> ConnectError:
    if answer is not None:  # Phoenix answers every refusal with 403 and gives no reason
        text = f"the server refused long polling with status {answer.status}"
        return ConnectError(text, status=answer.status, body="")
    redirect = " (a redirect, which is not followed)" if response.status in _REDIRECTS else ""
    return ConnectError(
        f"the server refused long polling with status {response.status}{redirect}",
        status=response.status,
        body=requests.hide(response.body[:MAX_BODY].decode("utf-8", "replace")),
        retry_after=response.retry_after,
    )


class _Requests:
    """The HTTP requests of one session, over at most two pooled connections."""

    def __init__(self, request: OpenRequest) -> None:
        self._request = request
        self.token: Secret | None = None
        """The token of the session: anyone who has it receives its frames."""
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_on_headers_sent)
        self._session = aiohttp.ClientSession(
            connector=connector(request.proxy),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "supawire", "Accept-Encoding": "identity"},
            timeout=NO_LIMIT,
            trace_configs=[trace],
            middlewares=(_send_once,),
        )

    async def send(self, method: str, body: bytes | None = None, content_type: str = _ONE) -> _Response:
        """Send one request and return its answer. Raises `_LostError`."""
        progress = SimpleNamespace(began=False)
        try:
            return await self._send(method, body, content_type, progress)
        except (*network_errors(), _DroppedError) as error:
            text, sent = str(error) or type(error).__name__, progress.began
        raise _LostError(text, sent=sent)  # raised outside the handler: aiohttp's exception contains the key

    async def _send(self, method: str, body: bytes | None, content_type: str, progress: SimpleNamespace) -> _Response:
        endpoint = self._request.endpoint
        url = endpoint.reveal_longpoll(PROTOCOL)
        if self.token is not None:
            url = str(URL(url, encoded=True).update_query(token=self.token.reveal()))
        headers = {**self._request.headers, **({"Host": endpoint.host} if endpoint.host else {})}
        async with self._session.request(
            method,
            URL(url, encoded=True),
            data=body,
            headers={**headers, "Accept": "application/json", **({"Content-Type": content_type} if body else {})},
            allow_redirects=False,
            server_hostname=tls_name(endpoint.host),
            ssl=True if self._request.ssl is None else self._request.ssl,
            proxy=http_proxy(self._request.proxy),
            trace_request_ctx=progress,
        ) as response:
            content = await _read(response)
            date = parse_date(response.headers.get("Date"))
            return _Response(
                response.status,
                content,
                parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC)),
                None if date is None else date - time.time(),
            )

    def hide(self, text: str) -> str:
        """Redact what a peer may repeat of our requests."""
        endpoint = self._request.endpoint
        sent = (*self._request.headers.values(), *endpoint.params.values())
        return hide(text, (endpoint.key, self._request.proxy, self.token), sent)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise _LostError(f"an answer has more than {MAX_ANSWER_BYTES} bytes", sent=True, code=TOO_BIG)
        parts.append(part)
    return b"".join(parts)


async def _on_headers_sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _sent: Any) -> None:
    """Trace hook: the connection is open and the request is about to be sent."""
    cast("SimpleNamespace", context.trace_request_ctx).began = True


class _DroppedError(Exception):
    """The peer closed the connection before it answered."""


async def _send_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send the request once: aiohttp repeats a GET whose connection was dropped, and so loses frames."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise  # the request was not sent
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _DroppedError(str(error) or type(error).__name__) from error


class LongPollConnection:
    """A `Connection` over one session of long polling; see `LongPollTransport`.

    A frame counts as written when the server has answered its POST. At the end also those of the POST under way count:
    they may have been executed, as frames that were written to a WebSocket before it was lost.
    """

    __slots__ = (
        "_answer_timeout", "_arrived", "_close_timeout", "_drained", "_end", "_flushers", "_given", "_held",
        "_held_bytes", "_one_by_one", "_paused", "_posting", "_queue", "_requests", "_waiting", "clock_offset",
        "written",
    )  # fmt: skip

    protocol: Final = PROTOCOL
    """The version of the frames, whatever was asked for."""
    name: Final = "longpoll"
    """For `Stats.transport`."""

    def __init__(
        self, requests: _Requests, close_timeout: float, answer_timeout: float, clock_offset: float | None
    ) -> None:
        self._requests = requests
        self._close_timeout = close_timeout
        self._answer_timeout = answer_timeout
        self._queue: deque[bytes] = deque()
        """Frames to send, including those of the POST under way."""
        self._waiting = asyncio.Event()
        """Set while frames wait to be sent."""
        self._held: deque[bytes] = deque()
        """Received frames that were not passed on yet."""
        self._held_bytes = 0
        self._drained = asyncio.Event()
        """Set while there is room for the frames of another poll."""
        self._drained.set()
        self._arrived = asyncio.Event()
        """Set when frames have arrived, reading was resumed, or the connection has ended."""
        self._paused = False
        self._one_by_one = False
        """Whether the server does not take several frames in a POST."""
        self._posting = 0
        """The number of frames in the POST under way."""
        self._given = 0
        self._flushers: list[tuple[int, asyncio.Future[bool]]] = []
        self._end: Closed | None = None
        self.written: int = 0
        self.clock_offset: float | None = clock_offset
        """Seconds by which the server's clock is ahead of ours; None if unknown."""

    # --- writing

    def write(self, data: bytes, binary: bool, /) -> None:
        """Queue one frame; the frames of one iteration of the event loop are sent together. See `Connection.write`."""
        if self._end is not None:
            return
        if binary:  # cannot happen in version 1.0.0
            self._stop("long polling cannot carry binary frames")
            return
        self._given += 1
        self._queue.append(data)
        self._waiting.set()

    async def flush(self, count: int, /) -> bool:
        """Wait until `count` frames are written; return False when the connection ends before."""
        if self.written >= count:
            return True
        if self._end is not None:
            return False
        flushed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._flushers.append((count, flushed))
        return await flushed

    async def _post(self) -> None:
        """Send the queued frames in order, one POST at a time."""
        while True:
            await self._waiting.wait()
            await asyncio.sleep(0)  # collect what the present iteration of the event loop writes
            batch = self._batch()
            self._posting = count = len(batch)
            try:
                answer = await self._ask("POST", b"\n".join(batch), _ONE if count == 1 else _MANY)
            except _LostError as lost:
                self._posting = count if lost.sent else 0
                self._stop(lost.text, lost.code)
                return
            if answer.status == 200:
                self._sent(count)
            elif answer.status == 400 and count > 1:  # refused before any frame was executed
                self._one_by_one = True
            else:
                self._posting = 0 if 400 <= answer.status < 500 and answer.status != 408 else count
                self._stop(_POST_REFUSED.format(answer.status))
                return

    def _batch(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        for frame in self._queue:
            batch.append(frame)
            size += len(frame)
            if self._one_by_one or len(batch) == MAX_BATCH or size > MAX_BATCH_BYTES:
                break
        return batch

    def _sent(self, count: int) -> None:
        for _ in range(count):
            self._queue.popleft()
        self.written += count
        self._posting = 0
        if not self._queue:
            self._waiting.clear()
        done = [flushed for wanted, flushed in self._flushers if wanted <= self.written]
        self._flushers = [entry for entry in self._flushers if entry[0] > self.written]
        for flushed in done:
            if not flushed.done():
                flushed.set_result(True)

    # --- reading

    async def run(self, sink: Sink, /) -> Closed:
        """Poll and send until the session ends; see `Connection.run`."""
        tasks = [asyncio.ensure_future(self._guard(work)) for work in (self._poll, self._post)]
        try:
            return await self._deliver(sink)
        finally:
            self._stop("")
            for task in tasks:
                task.cancel()
            try:
                await asyncio.wait(tasks)
            finally:
                await self._requests.close()
            for task in tasks:
                if not task.cancelled():
                    task.result()  # raises a bug

    async def _guard(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one of the two loops; an exception that it does not expect ends the connection and is raised by `run`."""
        try:
            await work()
        finally:
            self._stop("")

    async def _poll(self) -> None:
        """Receive frames, one GET at a time."""
        while True:
            await self._drained.wait()
            asked_at = time.monotonic()
            try:
                answer = await self._ask("GET")
            except _LostError as lost:
                self._stop(lost.text, lost.code)
                return
            if answer.status not in (200, 204):
                self._stop(_SESSION_ENDED if answer.status == 410 else _POLL_REFUSED.format(answer.status))
                return
            if answer.token:
                self._requests.token = Secret(answer.token)
            frames = [message.encode() for message in answer.messages]
            self._held.extend(frames)
            self._held_bytes += sum(map(len, frames))
            if self._held_bytes > MAX_HELD_BYTES:
                self._drained.clear()
            self._arrived.set()
            if not frames and time.monotonic() - asked_at < EMPTY_PAUSE:
                await asyncio.sleep(EMPTY_PAUSE)

    async def _deliver(self, sink: Sink) -> Closed:
        """Pass the received frames on until the end."""
        passed = 0
        while True:
            while self._held and not self._paused:
                data = self._held.popleft()
                self._held_bytes -= len(data)
                passed += 1
                sink.frame(data, False)
                if passed >= sink.max_batch:
                    break
            if self._held_bytes <= MAX_HELD_BYTES:
                self._drained.set()
            if passed:
                sink.batch_done()
                passed = 0
            if self._end is not None and not self._held:
                return self._end
            if self._held and not self._paused:
                await asyncio.sleep(0)
            else:
                self._arrived.clear()
                await self._arrived.wait()

    async def _ask(self, method: str, body: bytes | None = None, content_type: str = _ONE) -> PollAnswer:
        """Send a request and return the answer of Phoenix. Raises `_LostError` for any other answer, and for none."""
        try:
            async with asyncio.timeout(self._answer_timeout):
                response = await self._requests.send(method, body, content_type)
        except TimeoutError:
            raise _LostError(f"no answer to a {method} within {self._answer_timeout:g} s", sent=True) from None
        answer = decode_answer(response.body) if response.status == 200 else None
        return answer or PollAnswer(response.status if response.status != 200 else 0)

    def pause_reading(self) -> None:
        """Stop passing frames on. Polling continues up to `MAX_HELD_BYTES`, so that the server keeps the session."""
        self._paused = True

    def resume_reading(self) -> None:
        """Continue to pass frames on."""
        self._paused = False
        self._arrived.set()

    # --- the end

    async def close(self, code: int = 1000) -> None:
        """Send what was written before, within the time limit, and abandon the session, as Phoenix' own client does.

        There is no close frame: the server ends the session itself when it was not polled for 15 to 30 s.
        """
        try:
            async with asyncio.timeout(self._close_timeout):
                await self.flush(self._given)
        except TimeoutError:
            pass  # not sent in time
        finally:
            self.abort()

    def abort(self) -> None:
        """End at once; frames that were received and not passed on are dropped."""
        self._held.clear()
        self._held_bytes = 0
        self._stop("")

    def _stop(self, text: str, code: int | None = None) -> None:
        """End the connection; the first reason counts."""
        if self._end is None:
            self.written += self._posting  # whether the server has executed these is not known
            self._posting = 0
            self._end = Closed(code, self._requests.hide(text), self.written)
            flushers, self._flushers = self._flushers, []
            for wanted, flushed in flushers:
                if not flushed.done():
                    flushed.set_result(wanted <= self.written)
        self._arrived.set()


_SESSION_ENDED: Final = "the server has ended the session of long polling"
_POLL_REFUSED: Final = "the answer to a poll has status {}"
_POST_REFUSED: Final = "the answer to a POST has status {}"
