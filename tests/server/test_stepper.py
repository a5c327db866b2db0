"""Generators of the hub: waiting, answers, and what happens to the frames of their owner."""

from typing import Any

import pytest

from supawire.events import Instant
from supawire.server.connection import Inbound, Peer
from supawire.server.effects import SendQuery
from supawire.server.faults import FaultRules
from supawire.server.mailboxes import Mailboxes
from supawire.server.outbox import Outbox
from supawire.server.queries import MessagesQuery, QueryError, QueryFailed, Replay, Sleep, Steps, run_queries, run_query
from supawire.server.schedule import Schedule
from supawire.server.stepper import GeneratorStepper

QUERY = MessagesQuery("lab", Replay(0, 1))


class Bench:
    """A stepper with a connection as owner; `log` has what its generators and frames did."""

    def __init__(self, *, external: bool = True) -> None:
        self.schedule = Schedule()
        self.outbox = Outbox(self.schedule, FaultRules())
        self.mailboxes = Mailboxes(self.outbox, lambda peer, data, binary: self.log.append(data))
        self.stepper = GeneratorStepper(self.schedule, self.outbox, self.mailboxes, 10.0, external=external)
        self.peer = Peer(1, True, "", {}, 0.0)
        self.log: list[Any] = []

    def steps(self) -> Steps[str]:
        """Log the answer to a query, and the end."""
        try:
            self.log.append((yield from run_query(QUERY)))
        except QueryFailed as failed:
            self.log.append(failed.error)
        finally:
            self.log.append("end")
        return "result"

    def queries(self) -> list[int]:
        """Return the numbers of the queries that were sent."""
        return [effect.number for effect in self.outbox.effects if isinstance(effect, SendQuery)]


def test_local_answers_need_no_waiting() -> None:
    """Without a backend the generator runs to its end at once."""
    bench = Bench(external=False)
    bench.stepper.register_local(MessagesQuery, lambda query: ())
    task = bench.stepper.run(bench.steps(), bench.peer)
    assert (task.result, bench.log, bench.peer.suspended) == ("result", [(), "end"], False)


def test_the_frames_of_the_owner_wait_for_the_generator() -> None:
    """They are handled once it has returned."""
    bench = Bench()
    task = bench.stepper.run(bench.steps(), bench.peer)
    assert bench.peer.suspended and task.result is None
    bench.mailboxes.add(bench.peer, Inbound(b"frame", False))
    bench.stepper.answered(bench.queries()[0], ())
    assert (task.result, bench.log, bench.peer.suspended) == ("result", [(), "end", b"frame"], False)
    assert bench.schedule.next_at is None


def test_an_error_is_raised_in_the_generator() -> None:
    """It is raised for an error of the backend, and for a query without an answer."""
    bench = Bench()
    for _ in range(2):
        bench.stepper.run(bench.steps())
    first, second = bench.queries()
    bench.stepper.answered(first, QueryError.DOWN)
    bench.schedule.run(10.0)
    bench.stepper.answered(second, ())
    assert bench.log == [QueryError.DOWN, "end", QueryError.BUSY, "end"]
    assert bench.stepper.late == 1


def test_a_generator_is_closed_when_its_owner_has_ended() -> None:
    """Its `finally` blocks run, and nothing else of it."""
    bench = Bench()
    bench.stepper.run(bench.steps(), bench.peer)
    bench.peer.closed = True
    bench.stepper.answered(bench.queries()[0], ())
    assert bench.log == ["end"]


def test_queries_can_be_made_at_the_same_time() -> None:
    """The generator continues when all are answered, with the answers in the order of the queries."""
    bench = Bench()

    def steps() -> Steps[None]:
        bench.log.extend((yield from run_queries([QUERY, QUERY])))

    bench.stepper.run(steps())
    first, second = bench.queries()
    bench.stepper.answered(second, QueryError.BUSY)
    assert bench.log == []
    bench.stepper.answered(first, ())
    assert bench.log == [(), QueryError.BUSY]


def test_a_generator_suspends_its_owner_once() -> None:
    """The owner resumes when the generator ends, not between two waits."""
    bench = Bench()

    def steps() -> Steps[None]:
        yield Sleep(2.0)
        yield from run_query(QUERY)

    bench.stepper.run(steps(), bench.peer)
    bench.mailboxes.add(bench.peer, Inbound(b"frame", False))
    bench.outbox.now = Instant(2.0, 0.0)
    bench.schedule.run(2.0)
    assert (bench.peer.suspensions, bench.log) == (1, [])
    bench.stepper.answered(bench.queries()[0], ())
    assert (bench.peer.suspensions, bench.log) == (0, [b"frame"])


def test_a_generator_that_raises_resumes_its_owner() -> None:
    """The exception is raised where the answer is passed on."""
    bench = Bench()

    def steps() -> Steps[None]:
        yield from run_query(QUERY)
        raise ValueError("a bug")

    bench.stepper.run(steps(), bench.peer)
    with pytest.raises(ValueError, match="a bug"):
        bench.stepper.answered(bench.queries()[0], ())
    assert not bench.peer.suspended
