"""The decisions of a worker, without clocks and waiting: when to claim and how many, which leases to extend, what
follows an attempt that failed. `now` is a monotonic time in seconds.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct

from supawire.core.pacing import Uniform, delay
from supawire.options import Backoff

POLL_JITTER: Final = 0.1
"""Part of the poll interval that is added at random, so that workers started together do not poll together."""
MIN_DUE_DELAY: Final = 0.01
"""Least seconds between two claims because of `next_due`."""
OVERDUE_DELAY: Final = 1.0
"""Seconds until a job is asked for again that is due but was not given out: another transaction locks its row."""
MAX_CLAIM: Final = 100
"""Jobs that are claimed at once."""
EXTENSIONS_PER_LEASE: Final = 3
CLAIM_BACKOFF: Final = Backoff(initial=0.5, maximum=10.0)
"""Delays after a claim that failed."""


class ClaimSchedule:
    """When to claim, and how many jobs.

    A claim is wanted at the start, after each wake-up, after a claim that returned as many jobs as were asked for, when
    a job becomes due, and when the poll interval has passed. Wake-ups during a claim are remembered until it ends; any
    number of them causes one claim.
    """

    def __init__(self, concurrency: int, poll: float, random: Uniform) -> None:
        self._concurrency: Final = concurrency
        self._poll: Final = poll
        self._random: Final = random
        self._cause: str | None = "start"
        self._next_at: float | None = None
        self._next_cause = "poll"
        self._not_before = float("-inf")
        self._failures = 0
        self.claiming = False
        self.draining = False
        self.last_cause = ""
        self.causes: Final = Counter[str]()
        """How many claims were made, by cause."""

    @property
    def wanted(self) -> bool:
        """Whether a claim is made as soon as a slot is free."""
        return self._cause is not None

    def wake(self, cause: str) -> None:
        """Ask for a claim as soon as a slot is free."""
        if self._cause is None:
            self._cause = cause

    def drain(self) -> None:
        """Claim nothing from now on."""
        self.draining: bool = True

    def begin(self, now: float, used: int) -> int:
        """Return how many jobs to claim now, and count the claim as running; 0: none now.

        used: the slots that are in use.
        """
        free = min(self._concurrency - used, MAX_CLAIM)
        if self.claiming or self.draining or free <= 0 or now < self._not_before:
            return 0
        if self._cause is None and self._next_at is not None and now >= self._next_at:
            self._cause = self._next_cause
        if self._cause is None:
            return 0
        self.causes[self._cause] += 1
        self.last_cause: str = self._cause
        self._cause = None
        self.claiming = True
        return free

    def end(self, now: float, *, asked: int, got: int, next_due: float | None) -> None:
        """Note the result of the claim."""
        self.claiming = False
        self._failures = 0
        wait = self._poll * (1 + self._random.uniform(0.0, POLL_JITTER))
        due = float("inf")
        if next_due is not None:
            due = max(next_due, MIN_DUE_DELAY) if next_due > 0 else OVERDUE_DELAY
        self._next_at, self._next_cause = now + min(wait, due), "due" if due < wait else "poll"
        if got >= asked:
            self.wake("more")

    def failed(self, now: float) -> float:
        """Note that the claim failed. Return the seconds until it is made again."""
        self.claiming: bool = False
        wait = delay(CLAIM_BACKOFF, self._failures, self._random)
        self._failures += 1
        self._not_before = now + wait
        self.wake("retry")
        return wait

    def deadline(self, used: int) -> float | None:
        """Return when `begin` may return more than 0 without a wake-up or a freed slot; None: not before one."""
        if self.claiming or self.draining or used >= self._concurrency:
            return None
        if self._cause is not None:
            return self._not_before
        return self._next_at


class Leases:
    """The leases of the claims that this worker holds, by token.

    Times count from before the statement that claimed or extended was sent, so a lease never ends here later than it
    does in the source.
    """

    def __init__(self, lease: float) -> None:
        self.lease: Final = lease
        self._step: Final = lease / EXTENSIONS_PER_LEASE
        self._since: Final[dict[Any, float]] = {}
        self._not_before = float("-inf")

    def __len__(self) -> int:
        return len(self._since)

    def hold(self, tokens: Iterable[Any], now: float) -> None:
        """Add claims whose lease began at `now`."""
        for token in tokens:
            self._since[token] = now

    def drop(self, token: Any) -> None:
        """Remove a claim that has ended."""
        self._since.pop(token, None)

    def due(self, now: float) -> list[Any]:
        """Return the claims to extend in one statement; none until a third of the oldest lease has passed."""
        if not self._since or now < self._not_before or now < min(self._since.values()) + self._step:
            return []
        return [token for token, since in self._since.items() if now >= since + self._step / 2]

    def extended(self, tokens: Iterable[Any], held: Iterable[Any], began_at: float) -> list[Any]:
        """Note the result of an extension that was sent at `began_at`. Return the claims that are lost."""
        still = set(held)
        lost: list[Any] = []
        for token in tokens:
            if token not in self._since:
                continue  # the job ended meanwhile
            if token in still:
                self._since[token] = began_at
            else:
                del self._since[token]
                lost.append(token)
        return lost

    def failed(self, now: float) -> None:
        """Note that an extension failed; it is made again after a tenth of the lease."""
        self._not_before = now + self.lease / 10

    def expired(self, now: float) -> list[Any]:
        """Remove and return the claims whose lease has ended because it could not be extended."""
        ended = [token for token, since in self._since.items() if now >= since + self.lease]
        for token in ended:
            del self._since[token]
        return ended

    def deadline(self) -> float | None:
        """Return when the next extension is due, or the next lease ends."""
        if not self._since:
            return None
        oldest = min(self._since.values())
        return min(max(oldest + self._step, self._not_before), oldest + self.lease)


class RetryPolicy(Struct, frozen=True):
    """What follows an attempt that failed. max_attempts: None for no limit."""

    backoff: Backoff
    max_attempts: int | None

    def delay_after(self, attempt: int, age: float, random: Uniform) -> float | None:
        """Return the seconds until the next attempt; None: there is none, and the job has failed.

        attempt: the number of the attempt that failed, from 1. age: seconds since the job was first claimed.
        """
        if self.is_last(attempt) or self.backoff.ends(attempt, age):
            return None
        return delay(self.backoff, attempt - 1, random)

    def is_last(self, attempt: int) -> bool:
        """Return whether no attempt may follow this one."""
        return self.max_attempts is not None and attempt >= self.max_attempts

    def is_exhausted(self, attempt: int) -> bool:
        """Return whether this attempt may not begin: earlier ones ended without a result, such as with their worker."""
        return self.max_attempts is not None and attempt > self.max_attempts
