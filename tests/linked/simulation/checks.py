"""The invariants of the simulation, each with its number."""

from typing import Any

from supawire.core.token import expiry
from supawire.errors import ConnectionLostError, OperationTimeout, RealtimeError, StateError
from supawire.events import ChannelState, ConnectionState, Sent
from supawire.testing.harness import NOT_YET

from .model import TOPICS, Event, RecordedListener
from .stage import InvariantError, Stage

_ON_ITS_WAY = 2.5
"""Seconds that a frame may take on a slow connection."""

_ROUNDING = 0.001
"""Seconds by which two wall times of the same instant may differ."""

_NOTICED = 150.0
"""Seconds within which the client notices a half-open connection, or receives frames that waited behind slow joins."""

_CHECKS = 5.0
"""Seconds that the checks after healing take, at most."""

HEALING = 200.0
"""Seconds after which everything must work: maximum backoff, slow retries, and joins behind slow ones."""


def always(stage: Stage) -> None:
    """Check what holds after every step."""
    live = [wire for wire in stage.world.live() if wire.client is stage.ada and wire.open and not wire.deaf]
    require(len(live) <= 1, f"5: {len(live)} live sockets")
    context = stage.ada.session._context
    require(len(context.replies) <= 300, "7: too many pending pushes")
    require(len(context.timers) <= 200, "7: too many deadlines")
    for topic in TOPICS:
        require(stage.ada.session.channels[f"realtime:{topic}"].queued <= 5, "7: the queue is over its bound")
    stage.settle_subscriptions()
    require(not stage.rate_limited, "5: the server had to enforce its presence limit")


def healed(stage: Stage) -> None:
    """Check what holds after all faults have ended."""
    stage.heal()
    stage.settle_subscriptions()
    subscribed = [topic for topic in TOPICS if stage.history.desired[topic].subscribed]

    def is_healed() -> bool:
        session, wire = stage.ada.session, stage.ada.wire
        if (
            session.state is not ConnectionState.OPEN or wire is None or wire.deaf
        ):  # it may not have noticed that it is half-open
            return False
        return all(session.channels[f"realtime:{topic}"].ready for topic in subscribed)

    stage.world.run_until(is_healed, HEALING)
    stage.world.run_for(40)  # presence calls that waited for their window, and gaps for late replays
    _no_expiry_ahead(stage)
    stage.settle_subscriptions()
    subscribed = [topic for topic in TOPICS if stage.history.desired[topic].subscribed]
    for topic in subscribed:
        channel = stage.ada.session.channels[f"realtime:{topic}"]
        require(channel.ready, f"3: {topic} is {channel.state}, error {channel.error!r}")
    for topic in set(TOPICS) - set(subscribed):
        state = stage.ada.session.channels[f"realtime:{topic}"].state
        require(state is ChannelState.IDLE, f"3: {topic} is not subscribed and {state}")
    _fresh_events(stage, subscribed)
    for topic in subscribed:
        _presence(stage, topic)


def _no_expiry_ahead(stage: Stage) -> None:
    """Let tokens expire that would do so during the checks: a client whose clock is behind then joins again."""
    expires = None if stage.ada.newest is None else expiry(stage.ada.newest)
    if expires is not None and 0 <= (left := expires - stage.world.clock.now.wall) < _CHECKS:
        stage.world.run_for(left + _CHECKS)


def _fresh_events(stage: Stage, subscribed: list[str]) -> None:
    """3: each listener receives exactly the events of its selector, once."""
    first = len(stage.history.events)
    for act in (stage.acts["server_broadcast"], stage.acts["server_change"]) * 6:
        act(stage)
    stage.world.run_for(3)
    for listener in stage.history.listeners:
        if listener.until is not None or listener.topic not in subscribed:
            continue
        expected = [event.number for event in stage.history.events[first:] if listener.matches(event)]
        fresh = [number for number in listener.received if number in set(expected)]
        require(fresh == expected, f"3: {listener.topic} {listener.selector} received {fresh}, not {expected}")


def _presence(stage: Stage, topic: str) -> None:
    """4: own presence is the desired one, and both clients have the same state."""
    desired = stage.history.desired[topic].presence
    ours, theirs = (_payloads(client.session.presence_state(f"realtime:{topic}")) for client in (stage.ada, stage.bob))
    expected = [] if desired is None else [{"p": desired}]
    require(theirs.get("ada", []) == expected, f"4: {topic} holds {theirs.get('ada')}, expected {expected}")
    require(ours == theirs, f"4: on {topic} ada sees {ours}, bob {theirs}")


def _payloads(state: Any) -> dict[str, list[Any]]:
    return {key: [meta.payload for meta in metas] for key, metas in state.items()}


def closed(stage: Stage) -> None:
    """1: after close no call is pending and nothing runs."""
    stage.ada.call(stage.ada.session.close)
    stage.world.run_for(10)
    session = stage.ada.session
    require(session.state is ConnectionState.CLOSED, f"1: {session.state}")
    require(session.stats().pending == 0, "1: tickets are open after close")
    require(session.next_deadline is None, "1: a deadline is set after close")
    require(not [wire for wire in stage.world.live() if wire.client is stage.ada], "1: a socket is open after close")
    for topic, ticket in stage.joins:
        settled = stage.ada.outcome(ticket) is not NOT_YET
        require(settled or ticket in stage.cancelled, f"1: {ticket} of {topic} was never settled")


def sends(stage: Stage) -> None:
    """2: confirmed broadcasts arrived once, failed ones never if they were not written; none twice, all in order."""
    for topic in TOPICS:
        received = stage.history.received_by_witness[topic]
        require(len(received) == len(set(received)), f"2: a broadcast arrived twice on {topic}: {received}")
        acked = [number for number in received if number in _acked(stage, topic)]
        require(acked == sorted(acked), f"2: order on {topic}: {acked}")
    for sending in stage.history.sendings:
        arrived = sending.number in stage.history.received_by_witness[sending.topic]
        outcome = sending.error or (stage.ada.outcome(sending.ticket) if sending.ticket is not None else None)
        require(outcome is not NOT_YET, f"1: send {sending.number} was never settled")
        if isinstance(outcome, Sent) and outcome.acked:
            require(arrived, f"2: send {sending.number} was acked and did not arrive")
        if isinstance(outcome, RealtimeError) and _not_sent(outcome, acked=sending.ack):
            require(not arrived, f"2: send {sending.number} failed with {outcome!r} and arrived")


def _acked(stage: Stage, topic: str) -> set[int]:
    """Return the confirmed broadcasts; those written to a dying connection may arrive after those of the next one."""
    outcomes = ((sending, stage.ada.outcome(sending.ticket)) for sending in stage.history.sendings if sending.ticket)
    done = (sending for sending, outcome in outcomes if isinstance(outcome, Sent) and outcome.acked)
    return {sending.number for sending in done if sending.topic == topic}


def _not_sent(error: RealtimeError, *, acked: bool) -> bool:
    """Return whether the error says that the broadcast was certainly not sent."""
    if isinstance(error, ConnectionLostError):
        return not error.maybe_sent
    if isinstance(error, OperationTimeout):
        return not acked or "not sent" in str(error)
    return isinstance(error, StateError)


def deliveries(stage: Stage) -> None:
    """3 and 6: no event arrives twice or unrequested, and missed events are in a gap that names their kind."""
    # In 1.0.0 "Subscribed" has no join_ref: that of an earlier join may arrive after the reply to the next one, or
    # before any reply if the reply was dropped. A gap is correct then: it is unknown since when changes are delivered.
    named = stage.ada.session._context.options.protocol == "2.0.0"
    for gap in stage.history.gaps:
        require(gap.started_at <= gap.ended_at, f"6: a gap ends before it begins: {gap}")
        known = gap.verdict != "complete" or not stage.ada.hides_time
        anew = gap.reason != "resubscribed" or not named
        require(anew, f"6: the server did not subscribe anew by itself, only for a token: {gap}")
        require(known, f"6: complete, although the server's time is unknown: {gap}")
    by_number = {event.number: event for event in stage.history.events}
    for listener in stage.history.listeners:
        require(
            len(listener.received) == len(set(listener.received)),
            f"3: {listener.topic} received twice: {listener.received}",
        )
        received = set(listener.received)
        for number in received:
            event = by_number.get(number)
            require(event is None or listener.matches(event), f"3: {listener.selector} received {event}")
        for event in stage.history.events:
            if event.number not in received and listener.matches(event) and _should_receive(stage, listener, event):
                _inside_a_gap(stage, listener, event)


def _should_receive(stage: Stage, listener: RecordedListener, event: Event) -> bool:
    """Return whether the listener should have received an event.

    It existed long enough before it, and its channel had been joined. For changes the channel had been ready: a first
    join receives none before.
    """
    if listener.since >= event.number:
        return False
    swallowed = any(event.at <= at <= event.at + _ON_ITS_WAY for at in stage.history.deaf)
    enough = event.at + (_NOTICED if event.hidden or swallowed else _ON_ITS_WAY)
    if listener.until is not None and listener.until <= enough:
        return False
    promised = (stage.history.ready if event.kind == "changes" else stage.history.joined)[event.topic]
    for begin, end in stage.history.desired[event.topic].intervals:
        if begin <= event.at and enough < end:
            return any(begin < at <= event.at for at in promised)  # at `begin` itself: the earlier one
    return False


def _inside_a_gap(stage: Stage, listener: RecordedListener, event: Event) -> None:
    if any(abs(jump - event.at) < 60 for jump in stage.history.jumps):
        return  # the wall clock jumped near it: a gap's wall times do not compare
    gaps = [
        gap
        for gap in stage.history.gaps
        if gap.topic == event.topic
        and gap.started_at.timestamp() <= event.wall + _ON_ITS_WAY
        and event.wall <= gap.ended_at.timestamp() + _ROUNDING
    ]
    require(
        any(event.kind in gap.lost for gap in gaps),
        f"6: {listener.selector} since {listener.since} missed {event}, and no gap says so: {gaps}",
    )
    if event.stored and listener.until is None:
        require(
            any(gap.verdict != "complete" for gap in gaps),
            f"6: {listener.selector} missed the stored {event}, and the gap says complete: {gaps}",
        )


def require(holds: bool, message: str) -> None:
    """Fail the schedule when a condition does not hold."""
    if not holds:
        raise InvariantError(message)
