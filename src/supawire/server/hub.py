"""Pure core of the local server: a state machine without sockets, clocks or tasks.

    hub.connect(1, Request(host, query), now)            # Accepted, or the Refusal to answer with
    hub.receive(1, data, binary, now)                    # a frame was received
    while (effect := hub.next_effect()) is not None: ... # perform, in order
    hub.tick(now)                                        # when hub.next_deadline has passed

The shell passes each input with the time at which it happened and performs the effects that the hub returns. The hub
does no I/O, does not read a clock and takes random bits from the generator it is given, so the same inputs always give
the same outputs. Sockets, rooms, broadcasts, presence, changes and joins are components of their own; this module
dispatches each frame to one of them.
"""

from collections.abc import Iterable
from typing import Any, Final

from supawire.core.frames import (
    ACCESS_TOKEN,
    BROADCAST,
    CLOSE,
    HEARTBEAT,
    JOIN,
    LEAVE,
    PHOENIX,
    PREFIX,
    PRESENCE,
    SYSTEM,
)
from supawire.events import Instant
from supawire.server.authorization import Authorization, Policy
from supawire.server.bindings import RowChange
from supawire.server.broadcasts import Broadcasts, server_message
from supawire.server.changes import Changes, Delivery, Watcher
from supawire.server.connection import Inbound, Peer, ServerChannel
from supawire.server.connections import Connections
from supawire.server.database_state import BroadcastReadiness, DatabaseState
from supawire.server.dev import Dev
from supawire.server.effects import Accepted, Effect, Later, Refusal, Request, RestAnswer, RestRequest
from supawire.server.faults import FaultRules, Faults
from supawire.server.handshake import HandshakeValidator, key_of, x_headers
from supawire.server.hub_options import Bits, HubOptions, Ids
from supawire.server.join import JoinHandler
from supawire.server.limits import Meter, ServerLimits
from supawire.server.mailboxes import Mailboxes
from supawire.server.outbox import Outbox
from supawire.server.presence import PresenceHandler
from supawire.server.queries import Answer, PermissionsQuery, Query, QueryError, StoredMessage
from supawire.server.recorder import Recorder
from supawire.server.rest import Rest
from supawire.server.rooms import Rooms
from supawire.server.schedule import Schedule
from supawire.server.stepper import GeneratorStepper
from supawire.server.token_refresh import ChannelTokens
from supawire.server.wire import DECODE_ERRORS, NULL, Push, encode, read, sub_topic, text

UNMATCHED: Final = b'{"status":"error","response":{"reason":"unmatched topic"}}'
DISCONNECT: Final = b'{"message":"Server requested disconnect","status":"ok","extension":"system"}'


class Hub:
    """The complete state of one local server."""

    def __init__(self, options: HubOptions, random: Bits) -> None:
        limits, timings = options.limits, options.timings
        self.options: Final = options
        self._ids = Ids(random)
        self.fault_rules: Final = FaultRules()
        self._joins_meter = Meter(limits.joins)
        self.schedule: Final = Schedule()
        self._outbox = Outbox(self.schedule, self.fault_rules)
        self.rooms: Final = Rooms(self._outbox, limits)
        self._mailboxes = Mailboxes(self._outbox, self._take)
        self._stepper = GeneratorStepper(
            self.schedule, self._outbox, self._mailboxes, timings.answer, external=options.database
        )
        self.connections: Final = Connections(
            self.schedule, self._outbox, self.rooms, self._mailboxes, timings, limits.connections, self._take
        )
        self._database = DatabaseState(self.schedule, self._outbox, timings.recovery)
        self._readiness = BroadcastReadiness(
            self.schedule, self._outbox, self.rooms, timings.replication, flowing=not options.database
        )
        self._rights = Authorization(options.policy, self._outbox.report)
        self._stepper.register_local(PermissionsQuery, self._rights.decide)
        self._broadcasts = Broadcasts(self._outbox, self.rooms, self._rights, self._stepper, limits, self._ids)
        self._presence = PresenceHandler(
            self._outbox, self.rooms, self._rights, self._stepper, limits, self._ids.presence_ref
        )
        self._changes = Changes(self._outbox, self.rooms, self.connections, self._stepper, limits)
        self._token_refresh = ChannelTokens(
            options, self.schedule, self._outbox, self.rooms, self._rights, self._stepper, self._changes
        )
        self._joins = JoinHandler(
            options=options,
            ids=self._ids,
            meter=self._joins_meter,
            rules=self.fault_rules,
            outbox=self._outbox,
            connections=self.connections,
            rooms=self.rooms,
            rights=self._rights,
            database=self._database,
            broadcasts=self._broadcasts,
            presence=self._presence,
            changes=self._changes,
            readiness=self._readiness,
            token_refresh=self._token_refresh,
        )
        self._handshake = HandshakeValidator(
            options, self.fault_rules, self._outbox, self.connections, self._joins_meter
        )
        self._rest = Rest(options, self._outbox, self.rooms, self._rights, self._stepper, self._broadcasts)
        self._dev = Dev(options, self._outbox, self._changes)
        self.received: Final = Recorder()
        """Frames that clients sent."""
        self.faults: Final = Faults(self.fault_rules, self._outbox, self.rooms, self._mailboxes, self.connections)
        """Fault injection. As with every input, call `at(now)` first."""

    # --- inputs of the shell ---

    def connect(self, conn_id: int, request: Request, now: Instant) -> Accepted | Refusal:
        """Handle an upgrade request. The shell chooses `conn_id`; after `Accepted` the connection is open."""
        self.at(now)
        answer = self._handshake.check(request)
        if isinstance(answer, Accepted):
            peer = Peer(conn_id, answer.v2, key_of(request) or "", x_headers(request.headers), now.mono, now.wall)
            peer.longpoll = request.longpoll
            self.connections.open(peer)
            self.faults.apply_faults(peer)
        return answer

    def receive(self, conn_id: int, data: bytes, binary: bool, now: Instant) -> None:
        """Handle a frame. Text is passed as bytes and may be invalid UTF-8. See docs/protocol.md, Malformed frames."""
        self.at(now)
        peer = self.connections.peers.get(conn_id)
        if peer is not None and not peer.closed:
            self.received.record(conn_id, peer.v2, data, binary)
            self.connections.received(peer, data, binary, now)

    def reset_idle_timeout(self, conn_id: int, now: Instant) -> None:
        """Reset the idle timeout after bytes that are not a protocol frame, such as a ping."""
        self.at(now)
        if (peer := self.connections.peers.get(conn_id)) is not None:
            peer.last_received_at = now.mono

    def disconnected(self, conn_id: int, now: Instant) -> None:
        """Handle the end of a socket, whichever side closed it."""
        self.at(now)
        if (peer := self.connections.peers.get(conn_id)) is not None:
            self.connections.disconnected(peer)

    def rest(self, request: RestRequest, now: Instant) -> RestAnswer | Later:
        """Answer an HTTP request now, or return `Later` and answer with a `Respond` effect."""
        self.at(now)
        return self._dev.answer(request) or self._rest.answer(request)

    def tick(self, now: Instant) -> None:
        """Run all timers that are due."""
        self.at(now)
        self.schedule.run(now.mono)

    def at(self, now: Instant) -> None:
        """Set the time for the operations that follow."""
        self._outbox.now = now

    @property
    def now(self) -> Instant:
        """The time of the input being handled."""
        return self._outbox.now

    def next_effect(self) -> Effect | None:
        """Return the next effect for the shell to perform, or None when there is none."""
        return self._outbox.effects.popleft() if self._outbox.effects else None

    @property
    def next_deadline(self) -> float | None:
        """Monotonic time at which `tick` must be called, or None."""
        return self.schedule.next_at

    @property
    def limits(self) -> ServerLimits:
        """The limits that apply to clients and to the size of a row in a change."""
        return self.options.limits

    # --- inputs of a database ---

    def answered(self, number: int, answer: Answer, now: Instant) -> None:
        """Handle the answer to a `SendQuery`; dropped when the query has already timed out."""
        self.at(now)
        self._stepper.answered(number, answer)

    def deliver(self, message: StoredMessage, now: Instant) -> None:
        """Deliver a message that was stored in the database. See docs/protocol.md, Broadcast from the database."""
        self.at(now)
        self._broadcasts.deliver(message)

    def deliver_changes(self, deliveries: Iterable[Delivery], now: Instant) -> None:
        """Deliver row changes from the database."""
        self.at(now)
        self._changes.deliver(deliveries)

    def changes_interrupted(self, now: Instant) -> None:
        """Notify channels that row changes are being lost; each is notified again when it is `resubscribed`."""
        self.at(now)
        self._changes.interrupted()

    def set_changes_problem(self, problem: str | None, now: Instant) -> None:
        """Record why row changes are lost silently, or None when the problem is solved; shown in the inspector."""
        self.at(now)
        self._changes.problem = problem

    def changes_lost(self, changes: Iterable[tuple[str, str, str]], now: Instant) -> None:
        """Show the watchers changes that were delivered to no channel, as tuples of schema, table and type."""
        self.at(now)
        self._changes.show_lost(changes)

    def resubscribed(self, channel: int, answer: str | None, now: Instant) -> None:
        """Handle the result when the backend has subscribed the bindings of a channel again."""
        self.at(now)
        self._changes.resubscribed(channel, answer)

    def set_broadcasts_ready(self, ready: bool, now: Instant) -> None:
        """Record whether messages from the database are delivered."""
        self.at(now)
        self._readiness.set_ready(ready)

    def set_database_error(self, error: QueryError | None, now: Instant) -> None:
        """Record an error of the database, because of which joins are refused, or None when it works again."""
        self.at(now)
        self._database.report(error)

    # --- inspection ---

    @property
    def database_error(self) -> QueryError | None:
        """The database error because of which joins are refused, or None."""
        return self._database.error

    @property
    def late_answers(self) -> int:
        """The number of answers that came after the timeout of their query."""
        return self._stepper.late

    def answer_locally(self, query: Query[Any]) -> Answer:
        """Return the answer that the hub gives to a query without a database, for simulations of one."""
        return self._stepper.answer_locally(query)

    @property
    def changes_problem(self) -> str | None:
        """Why row changes are currently lost, or None."""
        return self._changes.problem

    @property
    def watchers(self) -> tuple[Watcher, ...]:
        """The receivers of every change."""
        return tuple(self._changes.watchers)

    def watch(self, watcher: Watcher) -> None:
        """Pass every change to this watcher until `unwatch`."""
        self._changes.watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Stop passing changes to this watcher."""
        self._changes.watchers.remove(watcher)

    # --- inputs from the owner of the server ---

    def emit(self, change: RowChange, now: Instant) -> None:
        """Deliver a row change to the subscribed channels."""
        self.at(now)
        self._changes.emit(change)

    def send(
        self, topic: str, event: str, payload: dict[str, Any] | bytes, now: Instant, *, private: bool = True
    ) -> str:
        """Store and deliver a message, as `realtime.send` does, and return its id."""
        self.at(now)
        message_id = self._ids.message_id()
        raw = payload if isinstance(payload, bytes) else encode({"id": message_id, **payload})
        json = not isinstance(payload, bytes)
        self._broadcasts.store_and_deliver(
            StoredMessage(message_id, sub_topic(topic), event, raw, json, private, now.wall)
        )
        return message_id

    def broadcast(self, topic: str, event: str, payload: Any, now: Instant, *, private: bool = False) -> None:
        """Deliver a message without storing it, as the HTTP endpoint does."""
        self.at(now)
        topic = sub_topic(topic)
        self._broadcasts.publish(topic, server_message(topic, event, payload), private=private)

    def set_policy(self, policy: Policy) -> None:
        """Use this function to authorize private channels from now on."""
        self._rights.policy = policy

    def request_disconnect(self, now: Instant) -> None:
        """Send `Server requested disconnect` on every channel, then close every socket with 1012."""
        self.at(now)
        for peer in list(self.connections.peers.values()):
            for channel in peer.channels.values():
                self._outbox.send(peer, text(peer.v2, channel.wire_topic, SYSTEM, DISCONNECT))
            self.connections.close(peer, 1012)

    def shutdown(self, now: Instant) -> None:
        """Close every socket with 1012."""
        self.at(now)
        for peer in list(self.connections.peers.values()):
            self.connections.close(peer, 1012)

    # --- dispatch of frames ---

    def _take(self, peer: Peer, data: bytes, binary: bool) -> None:
        push = read(peer.v2, data, binary)
        if push is None:  # dropped without an answer
            return
        topic = push.topic
        channel = peer.channels.get(topic) if isinstance(topic, str) else None
        if channel is not None and channel.queued is not None:
            self._mailboxes.add_to(channel.queued, peer, Inbound(data, binary))
            return
        if push.event == BROADCAST and channel is not None:
            self._broadcasts.push(channel, push)
        elif topic == PHOENIX and push.event == HEARTBEAT:
            self._outbox.reply(peer, encode(topic), HEARTBEAT, push.ref, NULL)
        elif push.event == JOIN and isinstance(topic, str) and topic.startswith(PREFIX):
            self._join(peer, push, channel)
        elif push.event == LEAVE:
            self._leave(peer, push, channel)
        elif channel is None:
            event = push.event if isinstance(push.event, str) else ""
            self._outbox.reply(peer, encode(topic), event, push.ref, NULL, UNMATCHED)
        else:
            self._channel_event(channel, push)

    def _channel_event(self, channel: ServerChannel, push: Push) -> None:
        """Handle presence and token pushes; other events are ignored, as on the real server."""
        if push.kind is not None or push.event not in (PRESENCE, ACCESS_TOKEN):
            return
        try:
            value = push.value()
        except DECODE_ERRORS:
            return
        if push.event == PRESENCE:
            self._presence.push(channel, push, value)
        else:
            self._token_refresh.push(channel, value)

    def _join(self, peer: Peer, push: Push, old: ServerChannel | None) -> None:
        """Handle a join. One for a topic already joined replaces that channel, whose close follows the reply."""
        if old is not None:
            self.rooms.end(old)
        self._stepper.run(self._joins.join(peer, push), peer)
        if old is not None:
            self._outbox.push(old, CLOSE, b"{}", ref=old.join_ref)

    def _leave(self, peer: Peer, push: Push, channel: ServerChannel | None) -> None:
        """Handle a leave; one with a join_ref other than the channel's is ignored."""
        if channel is None:
            self._outbox.reply(peer, encode(push.topic), LEAVE, push.ref, push.join_ref)
        elif channel.join_ref == push.join_ref:
            self.rooms.end(channel)
            self._outbox.reply(peer, channel.wire_topic, LEAVE, push.ref, channel.join_ref)
            self._outbox.push(channel, CLOSE, b"{}", ref=channel.join_ref)
