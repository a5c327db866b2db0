"""Messages as signed webhooks. Needs the package `standardwebhooks`."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import urlsplit

from supawire._webhooks import WebhookSender, check_url, make_signer, webhook_sender
from supawire.bridge.messages import BridgeMessage, Failure, Result
from supawire.options import Secret, check_count

RECEIVER_AWAY: Final = frozenset(
    {*range(300, 400), 401, 402, 403, 404, 405, 407, 410, 429, 502, 503, 504, *range(520, 531)}
)
"""Statuses that say something about the receiver and not about this message: wrong address or secret, overload, a proxy
that does not reach it. Redirections are not followed."""
REFUSED: Final = frozenset({408, 409, 423, 425})
"""Statuses from 400 to 499 after which the same message may be accepted later."""
MAX_WAIT: Final = 300.0
"""The most seconds of a header Retry-After that are waited for."""


class Webhook:
    """Posts each message to a URL, signed by the Standard Webhooks specification; `webhook-id` is the message's id.

    Messages with the same key are posted one after another, others at the same time. An answer 200 to 299 confirms.
    500 and most other statuses from there on count as a refusal of this message, which is tried some times. Statuses
    such as 400, 413 or 422 reject it. Without an answer, and with 300 to 399, 401, 402, 403, 404, 405, 407, 410, 429,
    502, 503, 504 and 520 to 530, the receiver counts as away.

    Args: url: of the receiver. secret: of the signatures, `whsec_` and base64. wave: the most requests at once.
    """

    ordered: bool = False

    def __init__(self, url: str, *, secret: str | Secret, wave: int = 8) -> None:
        self._url: Final = check_url(url, "url")
        self._signer: Final = make_signer(secret.reveal() if isinstance(secret, Secret) else secret, "secret")
        self.name: str = f"the webhook of {urlsplit(url).hostname}"
        self.wave: int = check_count("wave", wave, maximum=1000)
        self._stack: AsyncExitStack | None = None
        self._sender: WebhookSender | None = None

    def __repr__(self) -> str:
        return f"<Webhook {urlsplit(self._url).hostname}>"

    async def publish(self, messages: Sequence[BridgeMessage]) -> Sequence[Result]:
        """Post messages at the same time."""
        if self._sender is None:
            self._stack = AsyncExitStack()
            self._sender = await self._stack.enter_async_context(webhook_sender(self._url, self._signer))
        sender = self._sender
        return await asyncio.gather(*(_send(sender, message) for message in messages))

    async def close(self) -> None:
        """Close the connections."""
        stack, self._stack, self._sender = self._stack, None, None
        if stack is not None:
            await stack.aclose()


async def _send(sender: WebhookSender, message: BridgeMessage) -> Result:
    try:
        body = message.body.decode()
    except UnicodeDecodeError:
        return Failure("the payload is binary, and a webhook is text", "rejected")
    status, detail, retry_after = await sender.send(message.id, body)
    return result_of(status, detail, retry_after)


def result_of(status: int | None, detail: str, retry_after: str | None) -> Result:
    """Return the result for an answer. status: None without one. retry_after: the header."""
    if status is not None and 200 <= status < 300:
        return "stored"
    number = retry_after[:9] if retry_after and retry_after.isascii() and retry_after[:9].isdigit() else "0"
    after = min(MAX_WAIT, float(number))
    if status is None or status in RECEIVER_AWAY:
        return Failure(detail, "away", after)
    if status >= 500 or status in REFUSED:
        return Failure(detail, "refused", after)
    return Failure(detail, "rejected")
