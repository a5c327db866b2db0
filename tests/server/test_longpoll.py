"""The local server's sessions of long polling, without a network."""

import json
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

import pytest

from supawire.events import Instant
from supawire.server.effects import CloseSocket, Later, PauseReading, Request, RestAnswer, ResumeReading, Send
from supawire.server.hub import Hub
from supawire.server.hub_options import HubOptions
from supawire.server.longpoll import ABORTED, MAX_BODY, LongPolls
from supawire.server.tokens import sign

SECRET = "a secret of at least 32 characters"
JOIN = {"topic": "realtime:room", "event": "phx_join", "ref": "1", "payload": {"config": {"broadcast": {"self": True}}}}


class Net:
    """A hub with long polling under virtual time."""

    def __init__(self) -> None:
        self.hub = Hub(HubOptions(secret=SECRET), Random(1))
        numbers = count(1)
        self.polls = LongPolls(self.hub, Random(2), lambda: next(numbers))
        self.now = Instant(1.0, 1_800_000_000.0)
        self.answers: dict[int, RestAnswer] = {}
        self.key = sign({"role": "anon", "exp": 2_000_000_000}, SECRET)

    def request(self, method: str, body: bytes = b"", kind: str = "application/json", **query: str) -> Any:
        """Send a request; return its answer, or the number of one that waits."""
        params = {"apikey": self.key, "vsn": "1.0.0"} | query
        answer = self.polls.answer(method, Request("localhost", params, longpoll=True), kind, body, self.now)
        self.pump()
        return answer.number if isinstance(answer, Later) else read(answer)

    def open(self) -> str:
        """Start a session and return its token."""
        return self.request("GET")["token"]

    def answer(self, number: int) -> Any:
        """Return the answer to a poll that waited."""
        return read(self.answers.pop(number))

    def run_for(self, seconds: float) -> None:
        """Let time pass, deadline by deadline."""
        end = self.now.mono + seconds
        while (at := self.hub.next_deadline) is not None and at <= end:
            self._tick(at)
        self._tick(end)

    def _tick(self, at: float) -> None:
        self.now = Instant(at, self.now.wall + at - self.now.mono)
        self.hub.tick(self.now)
        self.pump()

    def pump(self) -> None:
        while (effect := self.hub.next_effect()) is not None:
            match effect:
                case Send(conn, data, binary) if conn in self.polls:
                    self.polls.send(conn, data, binary, self.now)
                case CloseSocket(conn, code) if conn in self.polls:
                    self.polls.end(conn, code, self.now)
                case PauseReading(conn) | ResumeReading(conn):
                    self.polls.set_reading(conn, isinstance(effect, ResumeReading))
                case _:
                    pass
        self.answers |= dict(self.polls.ready)
        self.polls.ready.clear()


def read(answer: RestAnswer) -> Any:
    if answer is ABORTED or answer.status != 200:
        return answer
    return json.loads(answer.body or b"{}")


@pytest.fixture
def net() -> Net:
    return Net()


def frame(**members: Any) -> bytes:
    return json.dumps(JOIN | members).encode()


def test_a_session_starts_with_410_and_a_token(net: Net):
    """The first answer has status 410 and the token; a poll then waits, and ends with 204 after ten seconds."""
    started = net.request("GET")
    assert started == {"status": 410, "token": started["token"], "messages": []}
    poll = net.request("GET", token=started["token"])
    net.run_for(9.9)
    assert poll not in net.answers
    net.run_for(0.2)
    assert net.answer(poll) == {"status": 204, "token": started["token"], "messages": []}


def test_frames_of_one_batch_are_one_answer(net: Net):
    """The reply to a join, and what follows it at once, answer the poll that waits, in order."""
    token = net.open()
    poll = net.request("GET", token=token)
    event = {"event": "broadcast", "payload": {"type": "broadcast", "event": "x", "payload": {}}}
    body = b"\n".join([frame(), *(frame(ref=str(n), **event) for n in (2, 3))])
    assert net.request("POST", body, "application/x-ndjson", token=token) == {"status": 200}
    net.run_for(0)
    answer = net.answer(poll)
    events = [json.loads(message)["event"] for message in answer["messages"]]
    assert (answer["status"], events[0], events.count("broadcast")) == (200, "phx_reply", 2)


def test_frames_wait_for_the_next_poll(net: Net):
    """Without a poll the frames are kept, and the next one gets them at once."""
    token = net.open()
    net.request("POST", frame(), token=token)
    assert net.request("GET", token=token)["status"] == 200


def test_a_refused_key_gives_403_without_a_reason(net: Net):
    """As in Phoenix, the reason of a refusal is not sent."""
    assert net.request("GET", apikey="wrong") == {"status": 403}


def test_an_unknown_token_is_gone(net: Net):
    """A POST to an unknown session is answered with 410; a GET starts another one."""
    assert net.request("POST", frame(), token="unknown") == {"status": 410}
    assert net.request("GET", token="unknown")["status"] == 410


def test_a_session_that_is_not_polled_ends(net: Net):
    """A session is ended 15 to 30 seconds after its last poll, and its connection leaves the hub."""
    token = net.open()
    net.run_for(14)
    assert len(net.polls) == len(net.hub.connections.peers) == 1
    net.run_for(17)
    assert len(net.polls) == len(net.hub.connections.peers) == 0
    assert net.request("POST", frame(), token=token) == {"status": 410}


@pytest.mark.parametrize(("code", "poll_status"), [(1012, 204), (None, None)])
def test_the_end_of_a_connection_ends_its_session(net: Net, code: int | None, poll_status: int | None):
    """A close answers the poll that waits, an abort cuts its connection; the next request gets 410."""
    token = net.open()
    poll = net.request("GET", token=token)
    net.hub.at(net.now)
    net.hub.faults.drop_connections(code)
    net.pump()
    answer = net.answers.pop(poll)
    assert answer is ABORTED if poll_status is None else read(answer)["status"] == poll_status
    assert net.request("POST", frame(), token=token) == {"status": 410}


def test_lost_answers(net: Net):
    """A request whose answer is lost was executed, and its connection is aborted."""
    token = net.open()
    net.hub.faults.lose_answers("POST")
    net.hub.faults.lose_answers("GET")
    assert net.request("POST", frame(), token=token) is ABORTED
    assert net.request("GET", token=token) is ABORTED
    assert isinstance(net.request("GET", token=token), int)


@pytest.mark.parametrize(
    ("send", "status"),
    [
        (lambda net, token: net.request("PUT", token=token), 400),
        (lambda net, token: net.request("POST", bytes(MAX_BODY + 1), token=token), 400),
        (lambda net, token: net.hub.faults.refuse_connections(status=502) or net.request("GET"), 502),
    ],
)
def test_other_requests_are_refused(net: Net, send: Callable[[Net, str], Any], status: int):
    """Another method, a body that is too long, and a gateway that refuses have an HTTP status of their own."""
    token = net.open()
    assert send(net, token).status == status
