"""What stands in headers of answers, over whatever client they came.

What carries HTTP requests, behind one small protocol: one request in, one answer out.

The client is free of Realtime: it repeats nothing, follows no redirect and judges no status; when to send again is
decided by who asks. Write one of your own and pass it as `http=`; `supawire.testing.http.FakeHttp` is that of tests.
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
"""Characters of a header that is read; a date has 29."""


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for; it holds seconds or a date. None when it cannot be read."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit() and len(text) <= _LONGEST:
        return float(text)
    at = date(text)
    return None if at is None else max(0.0, at - now.timestamp())


def date(header: str | None) -> float | None:
    """Read an HTTP date and return it in Unix seconds, None when it cannot be read."""
    text = (header or "").strip()
    if not text or len(text) > _LONGEST:
        return None
    try:
        at = parsedate_to_datetime(text)
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):  # years, zones and lengths that no date has
        return None
    return seconds if math.isfinite(seconds) else None


class HttpRequest(Struct, frozen=True):
    """One request. `url` is percent-encoded and goes out as it is; `host`: Host and TLS name instead of the URL's.

    `secrets` are the headers that hold key and token; `reveal()` gives all headers: use them at once, never keep them.
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
        """Every header, as it goes out."""
        shown = dict(self.headers) | {name: secret.reveal() for name, secret in self.secrets.items()}
        return shown | ({"Host": self.host} if self.host is not None else {})


class HttpResponse(Struct, frozen=True):
    """One answer. Names of headers are lower case. `body` may end early: only its beginning is looked at."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class HttpClient(Protocol):
    """Carries requests. Who makes one closes it: the client closes only its own."""

    async def request(self, request: HttpRequest, /) -> HttpResponse:
        """Send it and wait for the answer, whatever its status; cancelled, it leaves nothing behind.

        No time limit of its own, nothing is sent twice, and redirects are answers.
        Raises: HttpError: no answer came; `maybe_sent` says whether the request may have reached the server.
            InvalidArgumentError: the request cannot be made on this machine, as with a missing extra.
        """
        ...
