"""The protocols of what carries frames and HTTP requests: `Transport`, `Connection` and `HttpClient`.

A transport is independent of Phoenix: it handles text and binary frames and the end of a socket. To write your own,
pass it as `transport=`, and add it to the parameters of the contract test (tests/transport/test_contract.py).
Ownership: `open` and `run` are coroutines that run in one task of the client. A connection starts no task that outlives
`run`, and when `run` has returned or was cancelled, the socket is closed.

An HTTP client is independent of Realtime: it does not retry, follow redirects or interpret the status; its caller
decides when to send again. To write your own, pass it as `http=`. Its response headers are parsed here.

`memory` has a transport and an HTTP client for tests.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from supawire.options import Endpoint, Secret

if TYPE_CHECKING:
    import ssl

MAX_FRAME: Final = 16_000_000
"""Maximum bytes of a received frame; the server allows broadcasts of 3,000 KB, and rows may be larger."""

CLOSE_TIMEOUT: Final = 4.0
"""Seconds that `Connection.close` waits for the peer's close frame."""


class OpenRequest(Struct, frozen=True):
    """How to reach the server. `endpoint.reveal()` is the URL with the key in it: use it at once, do not store it."""

    endpoint: Endpoint
    headers: Mapping[str, str] = {}
    ssl: "ssl.SSLContext | None" = None
    proxy: Secret | None = None
    max_frame: int = MAX_FRAME

    def __repr__(self) -> str:
        return f"OpenRequest({self.endpoint!r})"


class Closed(Struct, frozen=True):
    """How a connection ended.

    code: the close code, None when none was received. text: further details. written: how many of our frames, from the
    first one on, were handed to the network; None when unknown.
    """

    code: int | None = None
    text: str = ""
    written: int | None = None


class Sink(Protocol):
    """Receives the frames of a connection."""

    max_batch: int
    """Maximum number of frames before the connection yields to the event loop, at least 1; may change at any time."""

    def frame(self, data: bytes, binary: bool, /) -> None:
        """Receive one frame. Must not raise."""
        ...

    def batch_done(self) -> None:
        """Called before the connection waits or yields: no more frames are queued, or `max_batch` have been passed."""
        ...


class Connection(Protocol):
    """An open socket.

    It may have an attribute `clock_offset`: the seconds by which the server's clock is ahead of this machine's, or
    slightly less, computed from the Date header of the handshake; None when unknown. Without it, a `Gap` never reports
    that all stored messages were replayed. It may have an attribute `name`, which `stats()` shows as `transport`, and
    an attribute `protocol`: the version of the frames that it carries, if not that of the option `protocol=`.
    """

    @property
    def written(self) -> int:
        """The number of frames passed to `write` that were handed to the network, in order."""
        ...

    def write(self, data: bytes, binary: bool, /) -> None:
        """Send one frame: at once, or after the queued ones. Never waits and never raises."""
        ...

    async def flush(self, count: int, /) -> bool:
        """Wait until `count` frames are written; return False when the connection ends before."""
        ...

    async def run(self, sink: Sink, /) -> Closed:
        """Read until the connection ends, and return how it ended; when cancelled, abort. Called once."""
        ...

    def pause_reading(self) -> None:
        """Stop passing frames to the sink, after the current one at most. Idempotent."""
        ...

    def resume_reading(self) -> None:
        """Continue to pass frames to the sink. Idempotent."""
        ...

    async def close(self, code: int = 1000) -> None:
        """Send a close frame, wait a bounded time for the peer's, and close; then `run` returns."""
        ...

    def abort(self) -> None:
        """Close at once; `run` returns soon."""
        ...


class Transport(Protocol):
    """Opens connections."""

    async def open(self, request: OpenRequest, /) -> Connection:
        """Open a socket, without a timeout of its own. When cancelled, it releases all resources.

        Raises: ConnectError: with `status`, `body` and `retry_after` when the server refused the upgrade.
            InvalidArgumentError: the request cannot be served on this machine, as with a missing extra.
        """
        ...


# --- HTTP ------------------------------------------------------------------------------------------------------------


class HttpRequest(Struct, frozen=True):
    """One request. `url` is percent-encoded and sent as it is; `host`: Host and TLS name instead of the URL's.

    `secrets` are the headers with key and token; `reveal()` returns all headers: use them at once, do not store them.
    """

    url: str
    body: bytes = b""
    headers: Mapping[str, str] = {}
    secrets: Mapping[str, Secret] = {}
    method: str = "POST"
    ssl: "ssl.SSLContext | None" = None
    proxy: Secret | None = None
    host: str | None = None

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {self.url!r}, secrets={sorted(self.secrets)})"

    def reveal(self) -> dict[str, str]:
        """Return all headers, including the secret ones."""
        shown = dict(self.headers) | {name: secret.reveal() for name, secret in self.secrets.items()}
        return shown | ({"Host": self.host} if self.host is not None else {})


class HttpResponse(Struct, frozen=True):
    """One response. Header names are lower case. `body` may be truncated: only its beginning is used."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class HttpClient(Protocol):
    """Sends HTTP requests. The creator closes it: the client closes only clients that it created itself."""

    async def request(self, request: HttpRequest, /) -> HttpResponse:
        """Send the request and return the response, whatever its status. When cancelled, it releases all resources.

        It has no timeout of its own, sends nothing twice, and returns redirects as responses.
        Raises: HttpError: no response was received; `maybe_sent` says whether the request may have reached the server.
            InvalidArgumentError: the request cannot be made on this machine, as with a missing extra.
        """
        ...


_MAX_HEADER: Final = 100
"""Maximum characters of a header that is parsed; a date has 29."""


def parse_retry_after(header: str | None, now: datetime) -> float | None:
    """Return the seconds in a Retry-After header, given as seconds or as a date. None when it cannot be parsed."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit() and len(text) <= _MAX_HEADER:
        return float(text)
    at = parse_date(text)
    return None if at is None else max(0.0, at - now.timestamp())


def parse_date(header: str | None) -> float | None:
    """Parse an HTTP date and return it in Unix seconds, None when it cannot be parsed."""
    text = (header or "").strip()
    if not text or len(text) > _MAX_HEADER:
        return None
    try:
        at = parsedate_to_datetime(text)
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):  # invalid years, zones and lengths
        return None
    return seconds if math.isfinite(seconds) else None
