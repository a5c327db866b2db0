"""Which token a join carries, and when to ask for a new one (R25-R28).

The source is a string that the user sets, or a provider that the shell asks for us (`FetchToken`). Answers carry the
number of their question: a slow older answer never overwrites a newer one, nor brings a token back after sign-out.
"""

import binascii
from base64 import urlsafe_b64decode
from typing import Final

import msgspec
from msgspec import Struct

from supawire.core.pacing import Uniform, delay
from supawire.events import Instant
from supawire.options import Backoff, Secret

REFRESH_AT: Final = (0.75, 0.85)
"""Part of the remaining lifetime after which a token is fetched anew; jittered, so that clients do not ask together."""

_DEAD: Final = 2.0
"""Seconds: a token that lives no longer is as good as run out."""

_PROVIDER_BACKOFF: Final = Backoff(initial=1, maximum=30)


class _Claims(Struct):
    exp: float | None = None


def expiry(token: Secret) -> float | None:
    """`exp` of a JWT in Unix seconds; None when it cannot be read: then it is just not scheduled for refresh (R28)."""
    parts = token.reveal().split(".")
    if len(parts) != 3:
        return None
    try:
        payload = urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=_Claims).exp
    except (ValueError, binascii.Error, msgspec.MsgspecError, RecursionError):
        return None


class Tokens:
    """The client's token. Whether to fetch is decided by the session; this knows what is newest."""

    __slots__ = ("_asked", "_dead", "_failures", "_number", "_random", "current", "fetched", "has_provider")

    def __init__(self, token: Secret | None, *, has_provider: bool, random: Uniform) -> None:
        self.current = token
        self.has_provider: Final = has_provider
        self.fetched: bool = False
        """Whether the provider has ever answered; before that there is no token to go on with."""
        self._random = random
        self._number = 0
        self._asked: int | None = None
        self._failures = 0
        self._dead = 0
        """How many answers in a row had run out when they came."""

    @property
    def fetching(self) -> bool:
        """Whether a question to the provider is open."""
        return self._asked is not None

    @property
    def usable(self) -> bool:
        """Whether a join may go out: the newest token is there, and no newer one is on its way."""
        return not self.has_provider or (self.fetched and not self.fetching)

    def ask(self) -> int:
        """Open a question to the provider; its number goes with `FetchToken`."""
        self._number += 1
        self._asked = self._number
        return self._number

    def answers(self, number: int) -> bool:
        """Whether this is the answer to the open question; closes it."""
        if number != self._asked:
            return False
        self._asked = None
        return True

    def put(self, token: Secret | None) -> bool:
        """Take a token; True when it differs from the one before. Open questions lose their claim."""
        self._asked = None
        self._failures = 0
        self.fetched = True
        changed = not same(token, self.current)
        self.current = token
        return changed

    def forget(self) -> None:
        """The session is over: no answer counts any more."""
        self._asked = None

    def failed(self) -> float:
        """The provider raised or was late: seconds until it is asked again. The current token is kept (R27)."""
        self._asked = None
        self._failures += 1
        return delay(_PROVIDER_BACKOFF, self._failures, self._random)

    def refresh_in(self, now: Instant) -> float | None:
        """Seconds until the token that was just put is to be fetched anew, None when nothing says so.

        A provider that gives tokens that have run out is asked ever more rarely (R26).
        """
        if not self.has_provider or self.current is None or (exp := expiry(self.current)) is None:
            return None
        left = exp - now.wall
        if left <= _DEAD:
            self._dead += 1
            return delay(_PROVIDER_BACKOFF, self._dead, self._random)
        self._dead = 0
        return max(1.0, left * self._random.uniform(*REFRESH_AT))


def same(one: Secret | None, other: Secret | None) -> bool:
    """Whether two tokens are equal."""
    return (one and one.reveal()) == (other and other.reveal())


def on_wire(token: Secret | None) -> str | None:
    """What may stand in `access_token`: nothing for `sb_` keys, which are no JWTs (protocol §7.5, §10)."""
    return None if token is None or token.reveal().startswith("sb_") else token.reveal()


def taken_back(told: Secret | None, newest: Secret | None) -> bool:
    """Whether the server has a token that shall not count any more, and no other one can be pushed in its place."""
    return on_wire(told) is not None and on_wire(newest) is None
