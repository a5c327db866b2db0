"""What stands in headers of answers, over whatever client they came."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

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
