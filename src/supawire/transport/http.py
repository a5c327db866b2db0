"""The protocol `HttpClient`, which sends HTTP requests, and parsers for response headers.

An HTTP client is independent of Realtime: it does not retry, follow redirects or interpret the status; its caller
decides when to send again. To write your own, pass it as `http=`; `supawire.testing.http.FakeHttp` is the one for
tests.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from supawire.options import Secret

if TYPE_CHECKING:
    import ssl


_LONGEST: Final = 100
"""Maximum characters of a header that is parsed; a date has 29."""


def retry_after(header: str | None, now: datetime) -> float | None:
    """Return the seconds in a Retry-After header, given as seconds or as a date. None when it cannot be parsed."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit() and len(text) <= _LONGEST:
        return float(text)
    at = date(text)
    return None if at is None else max(0.0, at - now.timestamp())


def date(header: str | None) -> float | None:
    """Parse an HTTP date and return it in Unix seconds, None when it cannot be parsed."""
    text = (header or "").strip()
    if not text or len(text) > _LONGEST:
        return None
    try:
        at = parsedate_to_datetime(text)
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):  # invalid years, zones and lengths
        return None
    return seconds if math.isfinite(seconds) else None


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
