"""The client's token: which token a join carries, and when to fetch a new one.

The source is a string that the user sets, or a provider that the shell calls (`FetchToken`). Answers carry the number
of their request, so that a late answer never overwrites a newer token or restores a token after a sign-out.
"""

import binascii
from base64 import urlsafe_b64decode
from typing import Final

import msgspec
from msgspec import Struct

from supawire.core.pacing import Uniform, delay
from supawire.events import Instant
from supawire.options import Backoff, Secret

REFRESH_FRACTION: Final = (0.75, 0.85)
"""Fraction of the remaining lifetime after which a token is fetched again, drawn at random to spread out clients."""

TOKEN_REUSE: Final = 10.0
"""Seconds for which the sockets of a client share a fetched token, so that opening many calls the provider once."""

_MIN_LIFETIME: Final = 2.0
"""Seconds of remaining lifetime at or below which a token counts as expired."""

_PROVIDER_BACKOFF: Final = Backoff(initial=1, maximum=30)


class _TokenFields(Struct):
    exp: float | None = None


def expiry(token: Secret) -> float | None:
    """Return `exp` of a JWT in Unix seconds. None if it cannot be read; then no refresh is scheduled."""
    parts = token.reveal().split(".")
    if len(parts) != 3:
        return None
    try:
        payload = urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=_TokenFields).exp
    except (ValueError, binascii.Error, msgspec.MsgspecError, RecursionError):
        return None


class Tokens:
    """The client's token and the pending request to the provider. The session decides when to fetch."""

    __slots__ = (
        "_expired_in_a_row",
        "_failures",
        "_fetched_at",
        "_number",
        "_random",
        "_requested",
        "_reuse",
        "current",
        "fetched",
        "has_provider",
    )

    def __init__(self, token: Secret | None, *, has_provider: bool, random: Uniform, reuse: float = 0.0) -> None:
        """Create the tokens of a session. reuse: seconds for which a fetched token is fresh."""
        self.current = token
        self.has_provider: Final = has_provider
        self.fetched: bool = False
        """Whether the provider has ever answered. Before that there is no token to continue with."""
        self._random = random
        self._reuse = reuse
        self._fetched_at: float | None = None
        """When the provider returned the current token; None if a newer one is needed."""
        self._number = 0
        self._requested: int | None = None
        self._failures = 0
        self._expired_in_a_row = 0
        """Number of consecutive tokens that had already expired when they arrived."""

    @property
    def fetching(self) -> bool:
        """Whether a request to the provider is pending."""
        return self._requested is not None

    @property
    def usable(self) -> bool:
        """Whether a join may be sent: there is a token, and no request for a newer one is pending."""
        return not self.has_provider or (self.fetched and not self.fetching)

    def is_fresh(self, now: Instant) -> bool:
        """Return whether the provider returned the current token just now, so that it need not be called again."""
        return self._fetched_at is not None and now.mono - self._fetched_at < self._reuse

    def received(self, now: Instant) -> None:
        """Record that the provider has returned the current token."""
        self._fetched_at = now.mono

    def refused(self) -> None:
        """Record that the server refused the current token: the next attempt needs a newer one."""
        self._fetched_at = None

    def start_request(self) -> int:
        """Start a request to the provider and return its number for `FetchToken`."""
        self._number += 1
        self._requested = self._number
        return self._number

    def finish_request(self, number: int) -> bool:
        """Return whether this is the answer to the pending request, and complete that request."""
        if number != self._requested:
            return False
        self._requested = None
        return True

    def set(self, token: Secret | None) -> bool:
        """Set the token and return whether it changed. Pending requests are superseded."""
        self._requested = None
        self._failures = 0
        self.fetched = True
        changed = not same(token, self.current)
        self.current = token
        return changed

    def drop_request(self) -> None:
        """Discard the pending request because the session is closed."""
        self._requested = None

    def failed(self) -> float:
        """Record a failed request and return the seconds until the next. The current token is kept."""
        self._requested = None
        self._failures += 1
        return delay(_PROVIDER_BACKOFF, self._failures, self._random)

    def refresh_in(self, now: Instant) -> float | None:
        """Return the seconds until the current token must be fetched again, None if not known.

        A provider that returns expired tokens is called at increasing intervals.
        """
        if not self.has_provider or self.current is None or (exp := expiry(self.current)) is None:
            return None
        left = exp - now.wall
        if left <= _MIN_LIFETIME:
            self._expired_in_a_row += 1
            return delay(_PROVIDER_BACKOFF, self._expired_in_a_row, self._random)
        self._expired_in_a_row = 0
        return max(1.0, left * self._random.uniform(*REFRESH_FRACTION))


def same(one: Secret | None, other: Secret | None) -> bool:
    """Return whether two tokens are equal."""
    return (one and one.reveal()) == (other and other.reveal())


def on_wire(token: Secret | None) -> str | None:
    """Return the value for `access_token`. None for `sb_` keys, which are not JWTs. See docs/protocol.md, API keys."""
    return None if token is None or token.reveal().startswith("sb_") else token.reveal()


def must_drop_token(sent: Secret | None, newest: Secret | None) -> bool:
    """Return whether the server has a token that must be dropped and that no other token can replace."""
    return on_wire(sent) is not None and on_wire(newest) is None
