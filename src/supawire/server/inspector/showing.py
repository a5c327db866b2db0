"""Payloads as somebody may see them: without tokens, and not longer than a page wants."""

from typing import Final

from supawire._shown import hide_tokens
from supawire.server.recorder import redact
from supawire.server.wire import DECODE_ERRORS, decode, encode

SHOWN: Final = 4_000
"""Characters that are shown of a payload, unless somebody wants less."""
WHOLE: Final = 64_000
"""Bytes up to which a payload is read; of a longer one only its beginning is shown, unless it holds a token."""


def shown(payload: bytes, *, json: bool = True, whole: bool = False, most: int = SHOWN) -> tuple[str, bool]:
    """A payload to look at, and whether it was cut. `whole`: it is read to its end, however long it is."""
    if not json:
        head = payload[:64]
        return head.hex(" "), len(payload) > len(head)
    if whole or len(payload) <= WHOLE:
        payload = _redacted(payload)
    head = payload[: 4 * most].decode(errors="replace")
    text = hide_tokens(head)
    return text[:most], len(text) > most or len(payload) > 4 * most


def _redacted(payload: bytes) -> bytes:
    try:
        return encode(redact(decode(payload)))
    except DECODE_ERRORS:  # no JSON: it is shown as it came
        return payload
