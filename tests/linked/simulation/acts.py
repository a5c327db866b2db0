"""What can happen in one step: acts of the user, the server, the network, and time. Each returns what it did."""

from collections.abc import Callable

from supawire.core.listeners import Listener
from supawire.core.outbox import OutgoingBroadcast
from supawire.errors import RealtimeError
from supawire.options import Secret
from supawire.selectors import BroadcastSelector, ChangesSelector, Selector
from supawire.server.bindings import make_change
from supawire.server.connection import ServerChannel
from supawire.testing.harness import NOT_YET

from .model import EVENTS, TABLES, TOPICS, Act, Event, RecordedListener, Sending
from .stage import Stage

# --- the user


def subscribe(stage: Stage) -> str:
    """Subscribe, sometimes with a short timeout."""
    topic = stage.rng.choice(TOPICS)
    timeout = stage.rng.choice((None, None, 20.0, 0.5))
    stage.history.desired[topic].subscribe(stage.now.mono)
    ticket = stage.ada.call(
        stage.ada.session.join, f"realtime:{topic}", ready=stage.rng.random() < 0.3, timeout=timeout
    )
    stage.joins.append((topic, ticket))
    return f"subscribe {topic} timeout={timeout}"


def unsubscribe(stage: Stage) -> str:
    """Unsubscribe."""
    topic = stage.rng.choice(TOPICS)
    stage.history.desired[topic].leave(stage.now.mono)
    stage.ada.call(stage.ada.session.leave, f"realtime:{topic}", 10.0)
    return f"unsubscribe {topic}"


def send(stage: Stage) -> str:
    """Broadcast, with or without ack."""
    topic, ack = stage.rng.choice(TOPICS), stage.rng.random() < 0.6
    number = stage.history.next()
    message = OutgoingBroadcast("sent", b'{"n":%d}' % number, ack=ack, timeout=stage.rng.choice((10.0, 1.0, 60.0)))
    sending = Sending(number, topic, None, ack)
    stage.history.sendings.append(sending)
    try:
        sending.ticket = stage.ada.call(stage.ada.session.broadcast, f"realtime:{topic}", message)
    except RealtimeError as error:
        sending.error = error
    return f"send {number} to {topic} ack={ack}: {type(sending.error).__name__ if sending.error else 'accepted'}"


def track(stage: Stage) -> str:
    """Track another payload, or untrack."""
    topic = stage.rng.choice(TOPICS)
    desired = None if stage.rng.random() < 0.3 else stage.rng.randrange(3)
    stage.history.desired[topic].presence = desired
    payload = None if desired is None else b'{"p":%d}' % desired
    stage.ada.call(stage.ada.session.track, f"realtime:{topic}", payload, 10.0)
    return f"track {topic} {desired}"


def listen(stage: Stage) -> str:
    """Add a listener."""
    topic = stage.rng.choice(TOPICS)
    selector: Selector[object]
    if topic == "rows" and stage.rng.random() < 0.6:
        selector = ChangesSelector(table=stage.rng.choice((*TABLES, "*")))
    else:
        selector = BroadcastSelector(stage.rng.choice((*EVENTS, "*")))
    listener = RecordedListener(topic, selector, stage.history.numbers)
    listener.listener = Listener((selector,), listener.record)
    stage.history.listeners.append(listener)
    stage.ada.call(stage.ada.session.listen, f"realtime:{topic}", listener.listener)
    return f"listen {topic} {selector}"


def unlisten(stage: Stage) -> str:
    """Cancel a listener."""
    live = [listener for listener in stage.history.listeners if listener.until is None]
    if not live:
        return "unlisten: no listener"
    listener = stage.rng.choice(live)
    listener.until = stage.now.mono
    assert listener.listener is not None
    stage.ada.session.unlisten(f"realtime:{listener.topic}", listener.listener)
    return f"unlisten {listener.topic} {listener.selector}"


def cancel_call(stage: Stage) -> str:
    """Cancel a waiting call."""
    open_tickets = [ticket for _, ticket in stage.joins if stage.ada.outcome(ticket) is NOT_YET]
    if not open_tickets:
        return "cancel call: none is waiting"
    ticket = stage.rng.choice(open_tickets)
    stage.ada.call(stage.ada.session.cancel, ticket)
    stage.cancelled.add(ticket)
    return f"cancel call {ticket}"


def set_token(stage: Stage) -> str:
    """Sign in again."""
    token = Secret(stage.world.token(expires_in=10**6, n=stage.rng.random()))
    stage.ada.newest = token
    stage.ada.call(stage.ada.session.set_token, token)
    return "set token"


def sign_out(stage: Stage) -> str:
    """Sign out: the API key alone is used from now on."""
    stage.ada.newest = None
    stage.ada.call(stage.ada.session.set_token, None)
    return "sign out"


def reconnect(stage: Stage) -> str:
    """Request a new connection."""
    stage.ada.call(stage.ada.session.reconnect)
    return "reconnect"


# --- the server


def server_broadcast(stage: Stage) -> str:
    """Send a message from the server that is not stored."""
    topic, name, number = stage.rng.choice(TOPICS), stage.rng.choice(EVENTS), stage.history.next()
    _happened(stage, number, topic, "broadcast", name)
    private = topic == "private"
    stage.world.act(stage.world.hub.broadcast, topic, name, {"n": number}, stage.now, private=private)
    return f"server broadcasts {number} {name} to {topic}"


def server_store(stage: Stage) -> str:
    """Send stored messages from the database."""
    many = stage.rng.choice((1, 1, 3, 30))
    for _ in range(many):
        number, name = stage.history.next(), stage.rng.choice(EVENTS)
        _happened(stage, number, "private", "broadcast", name, stored=True)
        stage.world.act(stage.world.hub.send, "private", name, {"n": number}, stage.now)
    return f"server stores {many} messages"


def server_change(stage: Stage) -> str:
    """Insert a row."""
    table, number = stage.rng.choice(TABLES), stage.history.next()
    _happened(stage, number, "rows", "changes", table)
    change = make_change("INSERT", table, record={"id": number, "n": number})
    stage.world.act(stage.world.hub.emit, change, stage.now)
    return f"server inserts {number} into {table}"


def others_presence(stage: Stage) -> str:
    """Track, change or untrack the presence of another client."""
    topic = stage.rng.choice(TOPICS)
    payload = stage.rng.choice((None, b'{"b":1}', b'{"b":2}'))
    stage.bob.call(stage.bob.session.track, f"realtime:{topic}", payload, 10.0)
    return f"bob tracks {topic} {payload!r}"


def expire(stage: Stage) -> str:
    """Let the client's tokens expire on the server. The witness has another connection and is not affected."""
    _on_ada(stage, lambda channel: stage.world.hub.rooms.close_with_error(channel, "Token has expired 0 seconds ago"))
    return "tokens expire"


def crash(stage: Stage) -> str:
    """Crash the client's channels."""
    _on_ada(stage, stage.world.hub.rooms.crash)
    return "channels crash"


def close_channels(stage: Stage) -> str:
    """Close the client's channels on the server without a reason."""
    _on_ada(stage, stage.world.hub.rooms.close)
    return "channels are closed"


def stale_close(stage: Stage) -> str:
    """Send a phx_close of an earlier join."""
    topic = stage.rng.choice(TOPICS)
    stage.world.act(stage.world.hub.faults.close_channel, topic, stale=True)
    return f"stale close of {topic}"


def reject(stage: Stage) -> str:
    """Refuse joins of a topic for a temporary reason."""
    topic = stage.rng.choice(TOPICS)
    reasons = "RealtimeRestarting: Realtime is restarting, please standby", "Unknown Error on Channel"
    reason = stage.rng.choice(reasons)
    stage.world.act(stage.world.hub.faults.reject_join, topic, reason)
    return f"joins of {topic} are refused"


def drop_reply(stage: Stage) -> str:
    """Drop the next reply of a kind, for any client."""
    event = stage.rng.choice(("phx_join", "broadcast", "presence", "phx_leave", "heartbeat"))
    stage.world.act(stage.world.hub.faults.drop_reply, event, times=1)
    return f"the next reply to {event} is dropped"


def delay_join(stage: Stage) -> str:
    """Delay joins of a topic."""
    topic, seconds = stage.rng.choice(TOPICS), stage.rng.choice((0.5, 3.0, 12.0, 25.0))
    stage.world.act(stage.world.hub.faults.delay_join, topic, seconds)
    return f"joins of {topic} take {seconds} s"


def garbage(stage: Stage) -> str:
    """Send invalid frames to the client."""
    if stage.ada.wire is not None:
        stage.world.act(stage.world.hub.faults.garbage, connection=stage.ada.wire.number)
    return "garbage"


def behave(stage: Stage) -> str:
    """End the faults of the server."""
    stage.heal_server()
    return "server behaves"


# --- the wire


def cut(stage: Stage) -> str:
    """Break the connection."""
    code = stage.rng.choice((None, None, 1000, 1001, 1006, 1011, 1012, 4000))
    if stage.ada.wire is not None:
        stage.world.cut(stage.ada.wire, code)
    return f"cut with {code}"


def half_open(stage: Stage) -> str:
    """Stop delivering frames without closing the connection."""
    if stage.ada.wire is not None:
        stage.ada.wire.deaf = True
        stage.history.deaf.append(stage.now.mono)
    return "half-open"


def slow(stage: Stage) -> str:
    """Slow the connection down, or restore its speed."""
    seconds = stage.rng.choice((0.001, 0.05, 1.0))
    if stage.ada.wire is not None:
        stage.ada.wire.latency = seconds
    return f"latency {seconds}"


def refuse(stage: Stage) -> str:
    """Refuse handshakes or connections until healed."""
    kind = stage.rng.choice((429, 500, 503, None))
    stage.world.refusing = None if kind is None else (kind, b'{"error":"out of order"}')
    stage.world.unreachable = kind is None
    return f"handshakes are refused with {kind}"


def reachable(stage: Stage) -> str:
    """Accept handshakes again."""
    stage.world.refusing, stage.world.unreachable = None, False
    return "reachable"


def sleep(stage: Stage) -> str:
    """Suspend the machine or set its clock: the wall clock jumps, for all or for the client only."""
    seconds = stage.rng.choice((60.0, 3600.0, -30.0))
    alone = stage.rng.random() < 0.5
    if alone:
        stage.ada.skew += seconds
    else:
        stage.world.clock.sleep(seconds)
    stage.history.jumps.append(stage.now.mono)
    return f"{'own clock' if alone else 'time'} jumps {seconds}"


def provider_fails(stage: Stage) -> str:
    """Let the token provider fail for some time."""
    stage.ada.fails = stage.rng.choice((1, 1, 4))
    return f"provider fails {stage.ada.fails} times"


def wait(stage: Stage) -> str:
    """Let time pass."""
    seconds = stage.rng.choice((0.0, 0.01, 0.1, 1.0, 1.0, 5.0, 30.0))
    stage.world.run_for(seconds)
    return f"wait {seconds}"


def _happened(stage: Stage, number: int, topic: str, kind: str, name: str, *, stored: bool = False) -> None:
    now, hidden = stage.now, stage.hides_events
    stage.history.events.append(Event(number, topic, kind, name, now.mono, stage.ada.now.wall, stored, hidden))


def _on_ada(stage: Stage, act: Callable[[ServerChannel], object]) -> None:
    wire = stage.ada.wire
    peer = stage.world.hub.connections.peers.get(wire.number) if wire is not None else None
    if peer is not None:
        for channel in list(peer.channels.values()):
            stage.world.act(act, channel)


ACTS: dict[Act, int] = {
    wait: 22,
    subscribe: 9,
    unsubscribe: 3,
    send: 9,
    track: 4,
    listen: 5,
    unlisten: 2,
    cancel_call: 1,
    set_token: 1,
    sign_out: 1,
    reconnect: 1,
    server_broadcast: 7,
    server_store: 3,
    server_change: 6,
    others_presence: 3,
    expire: 1,
    crash: 1,
    close_channels: 1,
    stale_close: 1,
    reject: 1,
    drop_reply: 2,
    delay_join: 1,
    garbage: 1,
    behave: 2,
    cut: 3,
    half_open: 1,
    slow: 1,
    refuse: 1,
    reachable: 2,
    sleep: 1,
    provider_fails: 1,
}
"""Each act with its weight."""
