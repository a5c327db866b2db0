"""Delivery of stored messages: what an outbox sends next, when it tries again, and which messages it gives up.

`Delivery` never waits: the shell calls `next_step`, performs the step, and reports its result. There is one step at a
time, so the messages of a topic are sent in the order in which they are stored.

A failure concerns either the server or one message, and a response does not always tell which. The rules:

* After each failure the number of messages in a request is halved, down to one; after a success it is doubled. So a
  message that the server refuses is soon sent alone. Refused alone, with an answer that will not change, it is *dead*.
* A failure without a clear answer (500, or none) of a message that was sent alone blocks its topic for a delay of its
  own, longer than that of all messages. Then the topic is tried alone, and after messages of other topics if there are
  any. A failure counts only if another message was accepted since the last one that counted: while the server is away,
  nothing counts. After `max_attempts` the message is dead.
* When messages of several topics have failed and then one is accepted, the server was away. All topics are tried again
  at once.
* Everything else (429, no connection, a refused token) delays all messages, as long as it lasts.
* A message older than `max_age` is dead, unless it is None.

Nothing is removed before the server has accepted it. If the process ends between the two, the message is sent again
with the same id, and receivers drop the second copy.
"""

import enum
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from supawire.core.http_broadcast import BATCH_BYTES, weight
from supawire.core.pacing import Uniform, delay
from supawire.errors import (
    HttpError,
    OperationTimeout,
    PayloadTooLargeError,
    PushError,
    RealtimeError,
)
from supawire.events import Instant
from supawire.options import Backoff

MAX_BLOCKED_TOPICS: Final = 500
"""Maximum number of topics with a delay of their own."""

_REFUSED_STATUSES: Final = frozenset({400, 413, 422})
"""HTTP answers that are about the messages, not about the token, the URL or the project."""


class OutboxMessage(Struct, frozen=True):
    """A stored message. `seq` is its place in the outbox, `payload` a JSON object as text, `added_at` Unix seconds."""

    seq: int
    id: str
    topic: str
    event: str
    payload: bytes
    private: bool
    added_at: float


class DeliverySettings(Struct, frozen=True):
    """Settings of an outbox.

    backoff: delays after failures. max_attempts: failures of one message alone, while others are accepted, until it is
    dead. max_age: seconds until a message is dead, None for never. poll: seconds between two looks at an empty store.
    batch: most messages in one request. one_per_topic: send at most one message of a topic at once, each with a
    result of its own. max_retry_after: the longest delay that the server may request.
    """

    backoff: Backoff = Backoff(initial=0.5)
    max_attempts: int = 10
    max_age: float | None = None
    poll: float = 1.0
    batch: int = 100
    one_per_topic: bool = False
    max_retry_after: float = 300.0


class Load(Struct, frozen=True):
    """Read the first messages of the store, without those of these topics."""

    without: frozenset[str]


class Send(Struct, frozen=True):
    """Send these messages once."""

    messages: tuple[OutboxMessage, ...]


class Settle(Struct, frozen=True):
    """Remove the messages that were accepted from the store, and move others to the dead ones: ids and errors."""

    sent: tuple[str, ...]
    dead: tuple[tuple[str, str], ...]


class Wait(Struct, frozen=True):
    """Do nothing until then, or until `wake`."""

    until: float


Step = Load | Send | Settle | Wait


class Verdict(enum.Enum):
    """What an error says about the messages that were sent."""

    REFUSED = "the server will never accept one of them"
    UNCLEAR = "it may be due to one of them or to the server"
    LATER = "the server accepts nothing at the moment"


class _Blocked(Struct):
    """A topic whose first message has failed alone. failures: how many of them count for this message."""

    id: str
    not_before: float = 0.0
    attempts: int = 0
    failures: int = 0
    accepted: int = -1
    """Value of the counter of accepted messages at the last failure that counted."""


class Delivery:
    """Decides what one outbox does next.

    Args: max_messages: the largest number of messages that the rate limit allows at once, None for no limit.
    """

    def __init__(self, settings: DeliverySettings, random: Uniform, max_messages: int | None = None) -> None:
        self._settings = settings
        self._random = random
        self._largest = settings.batch if max_messages is None else min(settings.batch, max_messages)
        self._limit = self._largest
        """Most messages in the next request."""
        self._window: deque[OutboxMessage] = deque()
        """The first messages of the store, without those of blocked topics."""
        self._window_without = frozenset[str]()
        self._is_complete = False
        """Whether the window has all messages of its topics."""
        self._load_at = 0.0
        self._wakes = self._wakes_at_load = 0
        """How often `wake` was called, in all and before the last `Load`."""
        self._only_blocked = False
        """Whether the store has messages of blocked topics only."""
        self._blocked: dict[str, _Blocked] = {}
        self._not_before = 0.0
        self._attempts = 0
        self._store_not_before = 0.0
        self._store_attempts = 0
        self._failed_topics: set[str] = set()
        """Topics that have failed since the last success; two are enough to know that the server is away."""
        self._sent: list[str] = []
        self._dead: list[tuple[str, str]] = []
        self.accepted: int = 0
        """How many messages were accepted."""
        self.failed: int = 0
        """How many requests failed."""

    @property
    def settling(self) -> bool:
        """Whether messages wait to be removed from the store."""
        return bool(self._sent or self._dead)

    def next_step(self, now: Instant) -> Step:
        """Return what to do now."""
        if self._store_not_before > now.mono:
            return Wait(self._store_not_before)
        if self.settling:
            return Settle(tuple(self._sent), tuple(self._dead))
        if self._not_before > now.mono:
            return Wait(self._not_before)
        excluded = self._excluded(now)
        if self._window_without - excluded:  # a topic that was left out may be tried again
            return self._load(excluded)
        if messages := self._batch():
            return Send(messages)
        if not self._is_complete or self._load_at <= now.mono:
            return self._load(excluded)
        if any(one.not_before <= now.mono for one in self._blocked.values()):
            self._only_blocked = True
            return self._load(self._excluded(now))
        return Wait(min([self._load_at, *(one.not_before for one in self._blocked.values())]))

    def wake(self) -> None:
        """Look into the store as soon as nothing else is left to do, because a message was added."""
        self._wakes += 1
        self._is_complete = self._only_blocked = False

    # --- results

    def loaded(
        self, messages: Iterable[OutboxMessage], without: frozenset[str], *, complete: bool, now: Instant
    ) -> None:
        """Take the first messages of the store; complete: whether these are all."""
        self._store_attempts = 0
        self._window_without, self._is_complete = without, complete and self._wakes == self._wakes_at_load
        self._load_at = now.mono + self._settings.poll
        self._window = deque()
        oldest = None if self._settings.max_age is None else now.at().timestamp() - self._settings.max_age
        for message in messages:
            if oldest is not None and message.added_at < oldest:
                self._dead.append((message.id, f"it is older than max_age={self._settings.max_age:g} s"))
            else:
                self._window.append(message)
        if complete:
            found = {message.topic for message in self._window}
            for topic in self._blocked.keys() - without - found:
                del self._blocked[topic]  # it has no messages left
            self._only_blocked = found <= self._blocked.keys()

    def settled(self) -> None:
        """Record that the store has carried out the last `Settle`."""
        self._store_attempts = 0
        self._sent, self._dead = [], []

    def store_failed(self, now: Instant) -> None:
        """Delay everything, because the store could not be read or written."""
        self._store_not_before = now.mono + delay(self._settings.backoff, self._store_attempts, self._random)
        self._store_attempts += 1

    def restart(self) -> None:
        """Forget what was read, because another process may have sent it meanwhile."""
        self._window.clear()
        self._is_complete = False

    def sent(self, messages: Sequence[OutboxMessage], errors: Sequence[RealtimeError | None], now: Instant) -> None:
        """Handle the results of a `Send`: one for all of its messages, or with `one_per_topic` one for each."""
        alone = self._settings.one_per_topic or len(messages) == 1
        if not alone:
            errors = [errors[0]] * len(messages)
        accepted = [message.id for message, error in zip(messages, errors, strict=True) if error is None]
        if accepted:
            self._accept(messages, accepted, now)
        failures = [(message, error) for message, error in zip(messages, errors, strict=True) if error is not None]
        if not failures:
            return
        self.failed += 1
        self._limit = max(1, len(messages) // 2)
        verdicts = [verdict_of(error) for _, error in failures]
        if alone:
            for (message, error), verdict in zip(failures, verdicts, strict=True):
                self._failed_alone(message, error, verdict, now)
        if any(verdict is Verdict.LATER or (verdict is Verdict.UNCLEAR and not accepted) for verdict in verdicts):
            is_suspect = alone and Verdict.LATER not in verdicts and len(self._failed_topics) < 2
            self._wait(0 if is_suspect else self._attempts, max(_retry_after(error) for _, error in failures), now)

    # --- internal

    def _load(self, without: frozenset[str]) -> Load:
        self._wakes_at_load = self._wakes
        return Load(without)

    def _accept(self, messages: Sequence[OutboxMessage], ids: list[str], now: Instant) -> None:
        self._sent += ids
        self._take(frozenset(ids))
        self.accepted += len(ids)
        self._limit = min(self._largest, self._limit * 2)
        self._attempts = 0
        for message in messages:
            if message.id in ids:
                self._blocked.pop(message.topic, None)
        if len(self._failed_topics) > 1:  # the server was away, and no message is to blame
            for one in self._blocked.values():
                one.not_before = min(one.not_before, now.mono)
        self._failed_topics.clear()

    def _failed_alone(self, message: OutboxMessage, error: RealtimeError, verdict: Verdict, now: Instant) -> None:
        if verdict is Verdict.REFUSED:
            self._give_up(message, error.message)
        elif verdict is Verdict.UNCLEAR:
            one = self._blocked.get(message.topic)
            if one is None or one.id != message.id:
                one = _Blocked(message.id)
            if one.accepted != self.accepted:
                one.failures, one.accepted = one.failures + 1, self.accepted
            if one.failures >= self._settings.max_attempts:
                self._give_up(message, f"it failed {one.failures} times while others were accepted: {error.message}")
            else:
                self._block(message.topic, one, now)

    def _give_up(self, message: OutboxMessage, why: str) -> None:
        self._dead.append((message.id, why))
        self._take(frozenset((message.id,)))
        self._blocked.pop(message.topic, None)

    def _block(self, topic: str, one: _Blocked, now: Instant) -> None:
        """Delay a topic, and take its messages out of the window; they are read again afterwards."""
        one.attempts += 1
        one.not_before = now.mono + delay(self._settings.backoff, one.attempts, self._random)
        self._blocked.pop(topic, None)
        self._blocked[topic] = one
        if len(self._blocked) > MAX_BLOCKED_TOPICS:
            del self._blocked[next(iter(self._blocked))]
        if len(self._failed_topics) < 2:
            self._failed_topics.add(topic)
        self._window = deque(message for message in self._window if message.topic != topic)
        self._window_without |= {topic}
        self._only_blocked = False

    def _wait(self, attempt: int, requested: float, now: Instant) -> None:
        seconds = delay(self._settings.backoff, attempt, self._random)
        self._not_before = now.mono + max(seconds, min(requested, self._settings.max_retry_after))
        self._attempts = attempt + 1

    def _take(self, ids: frozenset[str]) -> None:
        self._window = deque(message for message in self._window if message.id not in ids)

    def _excluded(self, now: Instant) -> frozenset[str]:
        """Return the topics that are not read: after a failure all blocked ones, as long as there are others."""
        every = bool(self._failed_topics) and not self._only_blocked
        return frozenset(topic for topic, one in self._blocked.items() if every or one.not_before > now.mono)

    def _batch(self) -> tuple[OutboxMessage, ...]:
        """Return the next messages to send, in order, within the limits of one request."""
        chosen: list[OutboxMessage] = []
        topics: set[str] = set()
        size = 0
        for message in self._in_turn():
            if self._settings.one_per_topic and message.topic in topics:
                continue
            size += weight(message.payload, message.topic, message.event)
            if chosen and (size > BATCH_BYTES or len(chosen) >= self._limit or message.topic in self._blocked):
                break
            chosen.append(message)
            topics.add(message.topic)
            if message.topic in self._blocked:
                break
        return tuple(chosen)

    def _in_turn(self) -> Iterable[OutboxMessage]:
        """Return the window with the topics that have failed at the front after a success, and at the end otherwise.

        They are sent alone, and after each success one of them, so neither they nor the others wait endlessly.
        """
        if not self._blocked:
            return self._window
        turns = {topic: turn for turn, topic in enumerate(self._blocked, 1)}  # the one that failed longest ago first
        others = 0 if self._failed_topics else len(turns) + 1
        return sorted(self._window, key=lambda message: turns.get(message.topic, others))


def verdict_of(error: RealtimeError) -> Verdict:
    """Return what an error says about the messages that were sent."""
    match error:
        case PayloadTooLargeError():
            return Verdict.REFUSED
        case HttpError(status=status) if status in _REFUSED_STATUSES and not error.retryable:
            return Verdict.REFUSED
        case HttpError(maybe_sent=True) | OperationTimeout() | PushError():
            return Verdict.UNCLEAR
        case _:
            return Verdict.LATER


def _retry_after(error: RealtimeError) -> float:
    return (error.retry_after or 0.0) if isinstance(error, HttpError) else 0.0
