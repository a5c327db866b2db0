"""Delivery of stored messages, in virtual time, against a server that refuses, fails and is away as a test says."""

import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import pytest

from supawire.core.delivery import (
    MAX_BLOCKED_TOPICS,
    Delivery,
    DeliverySettings,
    Load,
    OutboxMessage,
    Send,
    Settle,
    Verdict,
    Wait,
    verdict_of,
)
from supawire.errors import (
    ClosedError,
    ConnectionLostError,
    HttpError,
    InvalidArgumentError,
    OperationTimeout,
    PayloadTooLargeError,
    PushError,
    RateLimitedError,
    RealtimeError,
    StateError,
)
from supawire.events import Instant
from supawire.options import Backoff

Server = Callable[[tuple[OutboxMessage, ...]], RealtimeError | None]

BROKEN = HttpError("500", status=500, maybe_sent=True, retryable=True)
AWAY = HttpError("no connection", retryable=True)
REFUSED = HttpError("422", status=422)

WALL = 1_800_000_000.0


class World:
    """A store, a delivery and a clock. `server` decides about each request; a request takes 10 ms."""

    def __init__(
        self, settings: DeliverySettings | None = None, luck: random.Random | None = None, page: int = 7
    ) -> None:
        self.delivery = Delivery(
            settings or DeliverySettings(Backoff(initial=1, maximum=30, jitter=0)), luck or random.Random(1)
        )
        self.time = 0.0
        self.page = page
        self.pending: dict[int, OutboxMessage] = {}
        self.dead: dict[str, str] = {}
        self.accepted: list[OutboxMessage] = []
        self.requests: list[tuple[float, tuple[OutboxMessage, ...]]] = []
        self.server: Server = lambda messages: None
        self.store_fails = False
        self.loads = 0
        self._seq = 0

    @property
    def now(self) -> Instant:
        return Instant(self.time, WALL + self.time)

    def add(self, topic: str, event: str = "e", payload: bytes = b"{}") -> OutboxMessage:
        self._seq += 1
        message = OutboxMessage(self._seq, f"id-{self._seq}", topic, event, payload, False, self.now.wall)
        self.pending[message.seq] = message
        self.delivery.wake()
        return message

    def step(self, until: float) -> bool:
        """Perform one step; return False when there is nothing to do until then."""
        step = self.delivery.next_step(self.now)
        if not isinstance(step, Wait | Send) and self.store_fails:
            self.delivery.store_failed(self.now)
            return True
        match step:
            case Load(without):
                self.loads += 1
                found = [message for message in self.pending.values() if message.topic not in without]
                self.delivery.loaded(found[: self.page], without, complete=len(found) <= self.page, now=self.now)
            case Send(messages):
                self.requests.append((self.time, messages))
                one_each = self.delivery._settings.one_per_topic
                errors = [self.server((message,)) for message in messages] if one_each else [self.server(messages)]
                self.time += 0.01
                sent = messages if not one_each else [m for m, e in zip(messages, errors, strict=True) if e is None]
                if one_each or errors[0] is None:
                    self.accepted += sent
                self.delivery.sent(messages, errors, self.now)
            case Settle(sent, dead):
                for message in list(self.pending.values()):
                    if message.id in sent or message.id in dict(dead):
                        del self.pending[message.seq]
                self.dead |= dict(dead)
                self.delivery.settled()
            case Wait(moment):
                if moment > until:
                    self.time = until
                    return False
                self.time = moment
        return True

    def run(self, seconds: float) -> None:
        until = self.time + seconds
        for _ in range(200_000):
            if not self.step(until):
                return
        raise AssertionError("it never waits")

    def sent(self, topic: str | None = None) -> list[int]:
        return [message.seq for message in self.accepted if topic in (None, message.topic)]


def poisoned(*seqs: int, error: RealtimeError = REFUSED) -> Server:
    """Return a server that fails for each request with one of these messages."""
    return lambda messages: error if {message.seq for message in messages} & set(seqs) else None


def test_messages_are_sent_in_few_requests():
    """Several messages are sent in one request, in order, and each is removed after it was accepted."""
    world = World(page=500)
    for number in range(250):
        world.add(f"t{number % 3}")
    world.run(1)
    assert world.sent() == list(range(1, 251)) and not world.pending
    assert [len(messages) for _, messages in world.requests] == [100, 100, 50]


def test_a_request_is_bounded_in_bytes():
    """The payloads of one request stay below the limit of the server; a large message is sent alone."""
    world = World(page=500)
    for _ in range(3):
        world.add("a", payload=b"x" * 4_000_000)
    world.add("a")
    world.run(1)
    assert [len(messages) for _, messages in world.requests] == [1, 1, 2]


def test_the_rate_limit_bounds_a_request():
    """A request has at most as many messages as the rate limit allows at once."""
    world = World(page=500)
    world.delivery = Delivery(DeliverySettings(), random.Random(1), 10)
    for _ in range(25):
        world.add("a")
    world.run(1)
    assert [len(messages) for _, messages in world.requests] == [10, 10, 5]


@pytest.mark.parametrize("count", [1, 2, 64, 100])
def test_a_refused_message_is_found_and_the_others_are_sent(count: int):
    """A message that the server refuses becomes dead, and all others are accepted, in order, without a delay."""
    for bad in {1, count // 2 + 1, count}:
        world = World(page=500)
        for number in range(count):
            world.add(f"t{number % 2}")
        world.server = poisoned(bad)
        world.run(1)
        assert set(world.dead) == {f"id-{bad}"} and "422" in world.dead[f"id-{bad}"]
        assert world.sent() == [number for number in range(1, count + 1) if number != bad]
        assert world.time == 1 and not world.pending


def test_a_message_that_breaks_the_server_is_dead_after_ten_failures():
    """A message that always fails without a clear answer delays only its topic, and is dead after `max_attempts`."""
    world = World()
    bad = world.add("a")
    later = world.add("a")
    world.server = poisoned(bad.seq, error=BROKEN)
    for _ in range(300):
        world.add("b")
        world.run(1)
    assert world.dead == {bad.id: "it failed 10 times while others were accepted: 500"}
    assert later.seq in world.sent("a")
    assert world.sent("b") == sorted(world.sent("b")) and len(world.sent("b")) == 300


def test_a_message_is_not_blamed_while_the_server_is_away():
    """While every request fails, nothing becomes dead, however long; then all is sent within one delay."""
    world = World()
    for topic in "abcabc":
        world.add(topic)
    world.server = lambda messages: BROKEN
    world.run(86_400)
    assert not world.dead and len(world.pending) == 6
    world.server = lambda messages: None
    world.run(31)
    assert sorted(world.sent()) == [1, 2, 3, 4, 5, 6] and not world.pending
    assert [world.sent(topic) for topic in "abc"] == [[1, 4], [2, 5], [3, 6]]


def test_a_server_that_accepts_nothing_is_asked_less_and_less_often():
    """Without a connection, requests follow the backoff, with one message each; then the batches grow again."""
    world = World(page=500)
    for _ in range(150):
        world.add("a")
    world.server = lambda messages: AWAY
    world.run(100)
    assert [round(moment) for moment, _ in world.requests] == [0, 1, 3, 7, 15, 31, 61, 91]
    world.server, world.requests = lambda messages: None, []
    world.run(60)
    assert [len(messages) for _, messages in world.requests] == [1, 2, 4, 8, 16, 32, 64, 23]


def test_a_requested_delay_is_kept_up_to_its_limit():
    """A Retry-After delays the next request, at most for `max_retry_after`."""
    for requested, waited in ((20.0, 20.0), (9000.0, 300.0)):
        world = World()
        world.add("a")
        world.server = lambda messages, seconds=requested: HttpError(
            "429", status=429, retryable=True, retry_after=seconds
        )
        world.run(0.5)
        world.server = lambda messages: None
        world.run(400)
        assert world.requests[1][0] - world.requests[0][0] == pytest.approx(waited + 0.01)


def test_an_old_message_is_dead():
    """A message older than `max_age` becomes dead instead of being sent, and newer ones are sent."""
    world = World(DeliverySettings(Backoff(initial=1, maximum=5, jitter=0), max_age=60))
    old = world.add("a")
    world.server = lambda messages: AWAY
    world.run(50)
    new = world.add("a")
    world.run(20)
    world.server = lambda messages: None
    world.delivery.restart()
    world.run(10)
    assert world.dead == {old.id: "it is older than max_age=60 s"} and world.sent() == [new.seq]


def test_a_store_that_fails_is_tried_again_and_nothing_is_sent_meanwhile():
    """While accepted messages cannot be removed, nothing is sent, so that no message is sent twice."""
    world = World(page=500)
    for _ in range(3):
        world.add("a")
    world.step(1)  # reads
    world.step(1)  # sends
    world.store_fails = True
    world.run(60)
    assert len(world.requests) == 1 and len(world.pending) == 3
    world.store_fails = False
    world.run(60)
    assert len(world.requests) == 1 and not world.pending


def test_an_empty_store_is_polled():
    """An empty store is read once in `poll` seconds, and at once after `wake`."""
    world = World()
    world.run(10.5)
    assert world.loads == 11
    world.add("a")
    world.run(0.1)
    assert world.sent() == [1]


def test_a_message_that_is_added_while_the_store_is_read_is_not_missed():
    """A message that is added after the store was read, and before the result is known, is sent without waiting."""
    world = World()
    step = world.delivery.next_step(world.now)
    assert isinstance(step, Load)
    world.add("a")
    world.delivery.loaded([], step.without, complete=True, now=world.now)
    world.run(0.1)
    assert world.sent() == [1]


def test_with_acknowledgements_one_message_of_each_topic_is_on_its_way():
    """With `one_per_topic` each message has its own result: a refused one does not stop the other topics."""
    world = World(DeliverySettings(Backoff(initial=1, jitter=0), one_per_topic=True), page=500)
    for number in range(9):
        world.add(f"t{number % 3}")
    world.server = poisoned(2, error=PayloadTooLargeError("too large"))
    world.run(5)
    assert [message.topic for message in world.requests[0][1]] == ["t0", "t1", "t2"]
    assert world.dead == {"id-2": "too large"}
    assert [world.sent(f"t{number}") for number in range(3)] == [[1, 4, 7], [5, 8], [3, 6, 9]]


def test_many_blocked_topics_are_bounded():
    """However many topics fail, the number of topics with a delay of their own is bounded."""
    world = World(page=500)
    bad = {world.add(f"bad{number}").seq for number in range(MAX_BLOCKED_TOPICS + 50)}
    world.server = poisoned(*bad, error=BROKEN)
    world.run(20_000)
    assert len(world.delivery._blocked) == MAX_BLOCKED_TOPICS


def test_many_blocked_topics_do_not_stop_another():
    """A topic is sent although a hundred topics before it fail."""
    world = World(page=500)
    bad = {world.add(f"bad{number}").seq for number in range(100)}
    world.server = poisoned(*bad, error=BROKEN)
    world.add("good")
    world.run(100 * 31)
    assert len(world.sent("good")) == 1


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (HttpError("", status=400), Verdict.REFUSED),
        (HttpError("", status=413), Verdict.REFUSED),
        (HttpError("", status=422), Verdict.REFUSED),
        (HttpError("", status=422, retryable=True), Verdict.LATER),
        (PayloadTooLargeError(), Verdict.REFUSED),
        (InvalidArgumentError(), Verdict.LATER),
        (HttpError("", status=401), Verdict.LATER),
        (HttpError("", status=403), Verdict.LATER),
        (HttpError("", status=404), Verdict.LATER),
        (HttpError("", status=429, retryable=True), Verdict.LATER),
        (HttpError("", status=503, retryable=True), Verdict.LATER),
        (HttpError("", retryable=True), Verdict.LATER),
        (HttpError("", status=500, maybe_sent=True, retryable=True), Verdict.UNCLEAR),
        (HttpError("", maybe_sent=True, retryable=True), Verdict.UNCLEAR),
        (OperationTimeout(), Verdict.UNCLEAR),
        (PushError(), Verdict.UNCLEAR),
        (ConnectionLostError(), Verdict.LATER),
        (RateLimitedError(), Verdict.LATER),
        (StateError(), Verdict.LATER),
        (ClosedError(), Verdict.LATER),
    ],
)
def test_what_an_error_says(error: RealtimeError, verdict: Verdict):
    """Only answers that are about the message itself refuse it; tokens, URLs and limits concern all messages."""
    assert verdict_of(error) is verdict


def play(seed: int) -> None:  # noqa: C901
    """Play one random schedule: messages of several topics, outages, poison, stores that fail, restarts."""
    luck = random.Random(seed)
    settings = DeliverySettings(
        Backoff(initial=0.5, maximum=20, jitter=luck.choice([0, 1])),
        max_attempts=10,
        batch=luck.choice([1, 3, 100]),
        one_per_topic=luck.random() < 0.3,
    )
    world = World(settings, luck, page=luck.choice([1, 3, 50]))
    refused: set[int] = set()
    breaking: set[int] = set()
    mode = "up"
    added: list[OutboxMessage] = []
    raw: list[OutboxMessage] = []

    def server(messages: tuple[OutboxMessage, ...]) -> RealtimeError | None:
        seqs = {message.seq for message in messages}
        if mode == "away":
            return AWAY
        if mode == "broken":
            if luck.random() < 0.3:
                raw.extend(messages)  # it was accepted, but the answer was lost
            return BROKEN
        if seqs & breaking:
            return BROKEN
        if seqs & refused:
            return REFUSED
        if luck.random() < 0.05:
            return HttpError("429", status=429, retryable=True, retry_after=luck.choice([None, 3.0]))
        raw.extend(messages)
        return None

    world.server = server
    for _ in range(luck.randrange(5, 60)):
        match luck.randrange(8):
            case 0 | 1 | 2:
                for _ in range(luck.randrange(1, 12)):
                    added.append(world.add(luck.choice("abcd")))
                    if luck.random() < 0.08:
                        luck.choice([refused, breaking]).add(added[-1].seq)
            case 3:
                mode = luck.choice(["up", "up", "away", "broken"])
            case 4:
                world.store_fails = luck.random() < 0.5
            case 5:  # the process is killed and starts again: everything but the store is lost
                world.delivery = Delivery(settings, luck)
            case _:
                world.run(luck.choice([0.05, 1, 10, 100]))
    mode, world.store_fails = "up", False
    for _ in range(40 * settings.max_attempts):  # a steady topic, which proves that the server works
        added.append(world.add("steady"))
        world.run(21)
        if len(world.pending) == 0:
            break
    check(world, added, raw, refused | breaking)


def check(world: World, added: Iterable[OutboxMessage], raw: list[OutboxMessage], poison: set[int]) -> None:
    """Check that only poison is dead, everything else arrived, and first copies are in order."""
    assert not world.pending
    assert {f"id-{seq}" for seq in poison} == set(world.dead)
    first: dict[str, OutboxMessage] = {}
    for message in raw:
        first.setdefault(message.id, message)
    wanted = {message.id for message in added if message.seq not in poison}
    assert wanted <= set(first)
    for topic in {message.topic for message in first.values()}:
        order = [message.seq for message in first.values() if message.topic == topic]
        assert order == sorted(order)


@pytest.mark.parametrize("seed", range(300))
def test_random_schedules(seed: int):
    """In random schedules of faults and restarts nothing is lost, only poison is dead, and each topic is in order."""
    play(seed)


def test_the_age_is_of_the_wall_clock():
    """The age of a message is measured with the wall clock, because it survives restarts."""
    assert World().now.at() == datetime.fromtimestamp(WALL, UTC)
