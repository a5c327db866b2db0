"""An HTTP client without a network, for tests of what `publish` and `offline="http"` do.

http = FakeHttp()
http.answer(429, headers={"retry-after": "7"})
async with connect_async(url, key, http=http) as client:
    await client.publish("room", "typing", {"user": "alice"})
assert http.requests[0].url.endswith("/broadcast/room/events/typing")
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from supawire.errors import HttpError
from supawire.transport.http import HttpRequest, HttpResponse


class FakeHttp:
    """Records every request, and answers in call order with the answers that were set, then always with 202."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []
        """All requests so far."""
        self._script: deque[HttpResponse | HttpError | tuple[asyncio.Event, HttpResponse]] = deque()

    def answer(
        self, status: int = 202, body: bytes | Any = b"", headers: Mapping[str, str] | None = None, *, times: int = 1
    ) -> None:
        """Set the answer to the next requests; a body that is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        named = {name.lower(): value for name, value in (headers or {}).items()}
        self._script.extend([HttpResponse(status, data, named)] * times)

    def fail(self, *, maybe_sent: bool = False, retryable: bool = True, times: int = 1) -> None:
        """Let the next requests fail: the connection is refused or, with `maybe_sent`, breaks after sending."""
        text = "the connection broke" if maybe_sent else "nobody listens"
        for _ in range(times):
            self._script.append(HttpError(text, maybe_sent=maybe_sent, retryable=retryable))

    def hold(self, status: int = 202) -> asyncio.Event:
        """Delay the answer to the next request until the returned event is set."""
        gate = asyncio.Event()
        self._script.append((gate, HttpResponse(status)))
        return gate

    async def request(self, request: HttpRequest, /) -> HttpResponse:
        """Answer one request; see `HttpClient.request`."""
        self.requests.append(request)
        await asyncio.sleep(0)
        answer = self._script.popleft() if self._script else HttpResponse(202)
        if isinstance(answer, tuple):
            gate, answer = answer
            await gate.wait()
        if isinstance(answer, HttpError):
            raise answer
        return answer
