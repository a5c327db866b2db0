"""Pending calls, pending pushes with deadlines in socket time, and the heap of deadlines."""

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from supawire.core.effects import Effects, Settle, Ticket, TicketKind
from supawire.core.requests import Pending, Replies, Tickets, Timers
from supawire.errors import ClosedError

# --- tickets


@given(st.lists(st.tuples(st.sampled_from(["open", "settle", "drop", "all"]), st.integers(0, 9)), max_size=40))
def test_a_ticket_is_resolved_once_in_any_order_of_calls(steps: list[tuple[str, int]]) -> None:
    """Resolving twice, after a drop, or again at the end has no effect; at the end nothing is pending (R31)."""
    effects: Effects = deque()
    tickets = Tickets(effects)
    opened: list[Ticket] = []
    dropped = set[Ticket]()
    for what, number in steps:
        if what == "open":
            opened.append(tickets.create(TicketKind.PING))
        elif what == "all":
            tickets.settle_all(ClosedError("the end"))
        elif opened:
            ticket = opened[number % len(opened)]
            if what == "settle":
                tickets.resolve(ticket, number)
            else:
                resolved = ticket not in tickets
                tickets.drop(ticket)
                if not resolved:
                    dropped.add(ticket)
    tickets.resolve(None, "no caller")
    tickets.settle_all(ClosedError("the end"))
    settled = [effect.ticket for effect in effects if isinstance(effect, Settle)]
    assert len(settled) == len(set(settled))
    assert set(settled) == set(opened) - dropped
    assert len(tickets) == 0


def test_tickets_are_distinct() -> None:
    """Every ticket has its own number and purpose."""
    tickets = Tickets(deque())
    assert len({tickets.create(TicketKind.JOIN) for _ in range(100)}) == 100


# --- replies


def _pending(at: float) -> Pending:
    return Pending("broadcast", "realtime:room", None, 1, at)


def test_deadlines_of_replies_are_paused_while_frozen() -> None:
    """Three freezes of 10 s move a deadline of 5 s by 30 s; while frozen there is no deadline at all (R4)."""
    replies = Replies()
    replies.expect("1", _pending(100.0), 5.0)
    at = 100.0
    for _ in range(3):
        replies.freeze(at + 1)
        replies.freeze(at + 3)
        assert replies.next is None
        assert list(replies.due(at + 1000)) == []
        replies.thaw(at + 11)
        replies.thaw(at + 12)
        at += 11
    assert replies.next == 135.0
    assert list(replies.due(134.9)) == []
    assert len(list(replies.due(135.0))) == 1
    assert len(replies) == 0


def test_a_push_sent_while_frozen_has_its_full_timeout_afterwards() -> None:
    """A push sent while a join is unanswered gets its full timeout from the join's reply on (R4)."""
    replies = Replies()
    replies.freeze(100.0)
    replies.expect("1", _pending(110.0), 5.0)
    replies.thaw(120.0)
    assert replies.next == 125.0


def test_clearing_ends_the_freeze_and_removes_all_pushes() -> None:
    """When the socket is lost, all pending pushes are returned once, and the next socket is not frozen (R5)."""
    replies = Replies()
    replies.expect("1", _pending(100.0), 5.0)
    replies.freeze(101.0)
    assert len(replies.clear()) == 1
    assert replies.clear() == []
    assert (replies.next, len(replies)) == (None, 0)
    replies.expect("2", _pending(200.0), 5.0)
    assert replies.next == 205.0


def test_removing_the_pushes_of_a_channel_keeps_the_others() -> None:
    """The end of one channel removes only its own pushes and their deadlines (R24)."""
    replies = Replies()
    for ref, topic in (("1", "a"), ("2", "b"), ("3", "a")):
        replies.expect(ref, Pending("broadcast", topic, None, 1, 0.0), 5.0)
    assert len(list(replies.forget("a"))) == 2
    assert len(replies) == 1
    assert replies.take("1") is None
    assert replies.take("2") is not None
    assert replies.next is None
    assert replies.late == 1


@given(
    st.floats(0, 1e9),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=5),
    st.floats(0.001, 100),
)
def test_the_next_deadline_is_due_at_its_time(start: float, freezes: list[tuple[float, float]], timeout: float) -> None:
    """At the instant returned by `next`, `due` yields the push, despite freezes and rounding (R4)."""
    replies = Replies()
    replies.expect("1", _pending(start), timeout)
    at = start
    for wait, length in freezes:
        replies.freeze(at + wait)
        replies.thaw(at + wait + length)
        at += wait + length
    assert replies.next is not None
    assert len(list(replies.due(replies.next))) == 1


# --- the heap of deadlines


class TimersMachine(RuleBasedStateMachine):
    """The heap compared with a plain dict of deadlines."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: Timers[int] = Timers()
        self.model: dict[int, float] = {}
        self.clock = 0.0

    @rule(key=st.integers(0, 12), deadline=st.floats(0, 100))
    def set(self, key: int, deadline: float) -> None:
        """Set or replace a deadline."""
        self.timers.set(key, deadline)
        self.model[key] = deadline

    @rule(key=st.integers(0, 12))
    def cancel(self, key: int) -> None:
        """Cancel, whether it is set or not."""
        self.timers.cancel(key)
        self.model.pop(key, None)

    @rule(mono=st.floats(0, 100))
    def due(self, mono: float) -> None:
        """Advance time."""
        due = list(self.timers.due(mono))
        expected = {key for key, deadline in self.model.items() if deadline <= mono}
        assert set(due) == expected
        assert len(due) == len(expected)
        assert [self.model[key] for key in due] == sorted(self.model[key] for key in due)
        for key in due:
            del self.model[key]

    @rule(key=st.integers(0, 3))
    def churn(self, key: int) -> None:
        """Set one key repeatedly, like that of a heartbeat or a paced queue."""
        for number in range(70):
            self.set(key, 50.0 + number)

    @invariant()
    def holds(self) -> None:
        """The next deadline is the earliest, each key has its own deadline, and the heap stays small."""
        assert self.timers.next == min(self.model.values(), default=None)
        assert len(self.timers) == len(self.model)
        assert all(self.timers.deadline(key) == self.model.get(key) for key in range(13))
        assert self.timers.heap_size <= 65 + 4 * 13


def test_deadlines_are_ordered_and_the_heap_stays_small() -> None:
    """The heap keeps the latest deadlines, in order, and stays small, whatever is set, replaced and cancelled."""
    run_state_machine_as_test(TimersMachine, settings=settings(max_examples=40, stateful_step_count=20, deadline=None))
