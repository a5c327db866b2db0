"""Signed webhooks: their secrets, URLs, requests and retries. For `supawire listen` and for bridges.

They follow the Standard Webhooks specification, so that receivers can verify them with existing libraries: the headers
`webhook-id`, `webhook-timestamp` and `webhook-signature`.
"""

import secrets
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from standardwebhooks import Webhook

from supawire._display import printable
from supawire.errors import InvalidArgumentError

ATTEMPTS: Final = 6
FIRST_DELAY: Final = 0.5
MAX_DELAY: Final = 60.0
REQUEST_TIMEOUT: Final = 15.0
"""Seconds for one request, as the specification recommends."""
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  the beginning of every secret
MIN_SECRET: Final = 24
MAX_SECRET: Final = 64
"""Bytes of a secret, by the specification."""
RETRIED: Final = frozenset({408, 425, 429})
"""Client errors that are temporary; besides them every status from 500 on is."""


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


def make_signer(secret: str, name: str = "--secret") -> Webhook:
    """Return what signs with a secret of the form `whsec_…`. Raises: InvalidArgumentError."""
    try:
        key = b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not MIN_SECRET <= len(key) <= MAX_SECRET:
        raise InvalidArgumentError(
            f"{name} must be {SECRET_PREFIX} and base64 of {MIN_SECRET} to {MAX_SECRET} bytes",
            hint="Leave it out to use a new one.",
        )
    return Webhook(key)


def check_url(url: str, name: str = "--forward-to") -> str:
    """Return the URL of a receiver. Raises: InvalidArgumentError."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # UnicodeError, a ValueError, for a name that cannot be looked up
        valid = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidArgumentError(
            f"{name} must be a URL that begins with http:// or https:// and has a valid host, not {printable(url, 100)}"
        )
    return url


class WebhookSender:
    """Sends signed requests to one URL."""

    def __init__(self, url: str, signer: Webhook, http: aiohttp.ClientSession) -> None:
        self._url: Final = url
        self._signer: Final = signer
        self._http: Final = http

    async def send(self, message_id: str, body: str) -> tuple[int | None, str, str | None]:
        """Send one request; return the status (None without an answer), a description, the header Retry-After."""
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
            return None, printable(str(error) or type(error).__name__, 200), None


@asynccontextmanager
async def webhook_sender(url: str, signer: Webhook) -> AsyncGenerator[WebhookSender]:
    """Open what sends requests to a URL."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield WebhookSender(url, signer, http)
