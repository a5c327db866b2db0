"""The local server without a socket: inputs with the time they happened, effects out (architecture: the hub).

    hub.connect(1, Request(host, query), now)            # Accepted, or the Refusal to answer with
    hub.receive(1, data, binary, now)                    # a frame came
    while (effect := hub.next_effect()) is not None: ... # perform, in order
    hub.tick(now)                                        # when hub.next_deadline has passed

Nothing here waits, opens or reads a clock, and randomness comes from the given generator, so the same inputs give the
same outputs. The hub composes: sockets, rooms, broadcasts, tracking, changes and joins each know one subject; here
each frame finds its way to one of them.
"""

from collections.abc import Callable, Iterable
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
from supawire.server.authorization import Policy
from supawire.server.bindings import Change
from supawire.server.broadcasts import Broadcasts, server_message
from supawire.server.changes import Changes, Delivery, SubscriptionReadiness
from supawire.server.connection import Inbound, Peer, ServerChannel
from supawire.server.context import Bits, HubContext, HubOptions, Watcher
from supawire.server.dev import Dev
from supawire.server.effects import Accepted, Effect, Later, Refusal, Request, RestAnswer, RestRequest
from supawire.server.fault_rules import sub_topic
from supawire.server.faults import Faults
from supawire.server.handshake import Handshake, key_of, x_headers
from supawire.server.inspector.overview import Overview, overview
from supawire.server.join import Joined, JoinHandler, JoinIgnored, JoinRefused, Outcome
from supawire.server.limits import ServerLimits
from supawire.server.message_store import StoredMessage
from supawire.server.presence_push import PresencePush
from supawire.server.queries import Answer, QueryError
from supawire.server.recorder import Recorder
from supawire.server.rest import Rest
from supawire.server.schedule import Timer
from supawire.server.token_refresh import TokenRefresh
from supawire.server.websocket import Sockets
from supawire.server.wire import DECODE_ERRORS, NULL, Push, encode, read, text

UNMATCHED: Final = b'{"status":"error","response":{"reason":"unmatched topic"}}'
DISCONNECT: Final = b'{"message":"Server requested disconnect","status":"ok","extension":"system"}'


class Hub:
    """The whole state of one local server."""

    def __init__(self, options: HubOptions, random: Bits) -> None:
        desk = self._context = HubContext(options, random, self._take)
        self._outbox = desk.outbox
        self._broadcasts = Broadcasts(desk)
        self._tracking = PresencePush(desk)
        self._changes = Changes(desk)
        self._renewal = TokenRefresh(desk, self._changes)
        self._readiness = SubscriptionReadiness(desk)
        self._joining = JoinHandler(desk, self._broadcasts, self._tracking, self._changes, self._readiness)
        self._handshake = Handshake(desk, self._joining)
        self._sockets = Sockets(desk, self._take)
        self._rest = Rest(desk, self._broadcasts)
        self._dev = Dev(desk, self._changes)
        self._recovery: Timer | None = None
        """When joins are no longer refused after an outage of the database."""
        self.received: Final = Recorder()
        """What clients sent."""
        self.faults: Final = Faults(desk, self._sockets)
        """Orders to misbehave; like every input they are given after `at(now)`."""

    # --- inputs of the shell ---

    def connect(self, conn_id: int, request: Request, now: Instant) -> Accepted | Refusal:
        """Somebody wants to open a socket; `conn_id` is the shell's name for it. Accepted, it is open from now on."""
        self.at(now)
        answer = self._handshake.check(request)
        if isinstance(answer, Accepted):
            peer = Peer(conn_id, answer.v2, key_of(request) or "", x_headers(request.headers), now.mono, now.wall)
            self._sockets.open(peer)
            self.faults.apply_faults(peer)
        return answer

    def receive(self, conn_id: int, data: bytes, binary: bool, now: Instant) -> None:
        """A frame came in; text as its bytes, which need not be UTF-8 (protocol §2.2)."""
        self.at(now)
        peer = self._context.peers.get(conn_id)
        if peer is not None and not peer.gone:
            self.received.note(conn_id, peer.v2, data, binary)
            self._sockets.received(peer, data, binary, now)

    def heard(self, conn_id: int, now: Instant) -> None:
        """Bytes came that are no frame of the protocol, such as a ping: the socket is not idle."""
        self.at(now)
        if (peer := self._context.peers.get(conn_id)) is not None:
            peer.last_received_at = now.mono

    def disconnected(self, conn_id: int, now: Instant) -> None:
        """The socket has ended, whoever ended it."""
        self.at(now)
        if (peer := self._context.peers.get(conn_id)) is not None:
            self._sockets.gone(peer)

    def rest(self, request: RestRequest, now: Instant) -> RestAnswer | Later:
        """Answer an HTTP request (protocol §6.5, §6.6), now or with a later `Respond`."""
        self.at(now)
        return self._dev.answer(request) or self._rest.answer(request)

    def tick(self, now: Instant) -> None:
        """Do what is due."""
        self.at(now)
        self._context.schedule.run(now.mono)

    def at(self, now: Instant) -> None:
        """What follows happens at this time."""
        self._outbox.now = now

    def next_effect(self) -> Effect | None:
        """The next order to the shell, or None when there is nothing to do."""
        return self._outbox.effects.popleft() if self._outbox.effects else None

    @property
    def next_deadline(self) -> float | None:
        """The reading of the monotonic clock at which `tick` is wanted, or None."""
        return self._context.schedule.next_at

    @property
    def limits(self) -> ServerLimits:
        """What it lets clients do, and how large a row may be that it tells of."""
        return self._context.limits

    # --- inputs of a database ---

    def answered(self, number: int, answer: Answer, now: Instant) -> None:
        """The answer to an `Ask`; one that nobody waits for any more is dropped."""
        self.at(now)
        self._context.asking.answered(number, answer)

    def deliver(self, message: StoredMessage, now: Instant) -> None:
        """A message was stored in the database: tell those who listen (protocol §6.4)."""
        self.at(now)
        self._broadcasts.deliver(message)

    def changed(self, deliveries: Iterable[Delivery], now: Instant) -> None:
        """Rows changed in the database (protocol §4)."""
        self.at(now)
        self._changes.deliver(deliveries)

    def interrupted(self, now: Instant) -> None:
        """Changes of rows are lost from now on: channels are told, and again when each is `relisted`."""
        self.at(now)
        self._changes.interrupted()

    def losing(self, problem: str | None, now: Instant) -> None:
        """Changes of rows are lost without a word to clients, and why; None: no longer. The inspector shows it."""
        self.at(now)
        self._context.problem = problem

    def lost(self, changes: Iterable[tuple[str, str, str]], now: Instant) -> None:
        """Show changes that nobody gets to those who look on, by schema, table and type."""
        self.at(now)
        self._changes.lost(changes, self._context.problem or "lost")

    def relisted(self, channel: int, answer: str | None, now: Instant) -> None:
        """The database has asked itself the channel's `Subscription` once more; the answer (protocol §4.6)."""
        self.at(now)
        self._changes.relisted(channel, answer)

    def flows(self, yes: bool, now: Instant) -> None:
        """Messages from the database flow from now on, or no more (protocol §3.6)."""
        self.at(now)
        self._readiness.flows(yes)

    def troubled(self, trouble: QueryError | None, now: Instant) -> None:
        """What is wrong with the database, None for nothing: meanwhile nobody joins (protocol §3.1).

        After an outage the real server refuses joins for a while longer; how long, the timings say.
        """
        self.at(now)
        asking, recovery = self._context.asking, self._context.timings.recovery
        if self._recovery is not None:
            if trouble is None:
                return
            self._recovery.cancel()
            self._recovery = None
        if trouble is None and asking.trouble is not None and recovery:
            self._recovery = self._context.schedule.at(now.mono + recovery, self._recovered)
            trouble = QueryError.BUSY
        asking.trouble = trouble

    def _recovered(self) -> None:
        self._recovery = None
        self._context.asking.trouble = None

    # --- for those who look on ---

    @property
    def options(self) -> HubOptions:
        """How it behaves."""
        return self._context.options

    def overview(self, now: Instant) -> Overview:
        """Who is connected, in which channels, and who is present."""
        self.at(now)
        return overview(self._context)

    def watch(self, watcher: Watcher) -> None:
        """Show every change to this one, until `unwatch`."""
        self._context.watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """No more."""
        self._context.watchers.remove(watcher)

    # --- inputs of the server's owner ---

    def emit(self, change: Change, now: Instant) -> None:
        """A row changed (protocol §4)."""
        self.at(now)
        self._changes.emit(change)

    def send(
        self, topic: str, event: str, payload: dict[str, Any] | bytes, now: Instant, *, private: bool = True
    ) -> str:
        """Store a message and deliver it, as `realtime.send` does (protocol §6.4); the id of the message."""
        self.at(now)
        message_id = self._context.new_message_id()
        raw = payload if isinstance(payload, bytes) else encode({"id": message_id, **payload})
        json = not isinstance(payload, bytes)
        self._broadcasts.keep(StoredMessage(message_id, sub_topic(topic), event, raw, json, private, now.wall))
        return message_id

    def broadcast(self, topic: str, event: str, payload: Any, now: Instant, *, private: bool = False) -> None:
        """Deliver a message that is not stored, as REST does."""
        self.at(now)
        topic = sub_topic(topic)
        self._broadcasts.publish(topic, server_message(topic, event, payload), private=private)

    def set_policy(self, policy: Policy) -> None:
        """Ask this function for the rights on private channels from now on."""
        self._context.rights.policy = policy

    def request_disconnect(self, now: Instant) -> None:
        """`Server requested disconnect` on every channel, then 1012 on every socket (protocol §3.6)."""
        self.at(now)
        for peer in list(self._context.peers.values()):
            for channel in peer.channels.values():
                self._outbox.send(peer, text(peer.v2, channel.wire_topic, SYSTEM, DISCONNECT))
            self._sockets.close(peer, 1012)

    def shutdown(self, now: Instant) -> None:
        """The server ends: 1012 on every socket (protocol §8)."""
        self.at(now)
        for peer in list(self._context.peers.values()):
            self._sockets.close(peer, 1012)

    # --- the way of a frame ---

    def _take(self, peer: Peer, data: bytes, binary: bool) -> None:
        push = read(peer.v2, data, binary)
        if push is None:  # dropped without a word (protocol §2.2)
            return
        topic = push.topic
        channel = peer.channels.get(topic) if isinstance(topic, str) else None
        if channel is not None and channel.waiting is not None:
            self._context.standing.add_to(channel.waiting, peer, Inbound(data, binary))
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
        """Presence and tokens; what else there may be is ignored (protocol §3.9)."""
        if push.kind is not None or push.event not in (PRESENCE, ACCESS_TOKEN):
            return
        try:
            value = push.value()
        except DECODE_ERRORS:
            return
        if push.event == PRESENCE:
            self._tracking.push(channel, push, value)
        else:
            self._renewal.push(channel, value)

    def _join(self, peer: Peer, push: Push, old: ServerChannel | None) -> None:
        """A join replaces an older one of the topic, whose close comes after the answer (protocol §3.2)."""
        if old is not None:
            self._context.rooms.end(old)
        delay = self._context.rules.join_delay(sub_topic(push.topic))
        if delay:
            self._context.standing.suspend(peer, delay, lambda: self._decide(peer, push))
        else:
            self._decide(peer, push)
        if old is not None:
            self._outbox.push(old, CLOSE, b"{}", ref=old.join_ref)

    def _decide(self, peer: Peer, push: Push) -> None:
        """The socket stands still until it is known what becomes of the join."""

        def begin(done: Callable[[Outcome], None]) -> None:
            self._joining.join(peer, push, done)

        self._context.standing.until(peer, begin, lambda outcome: self._decided(peer, push, outcome))

    def _decided(self, peer: Peer, push: Push, outcome: Outcome) -> None:
        if isinstance(outcome, Joined):
            self._joining.send_join_ok(outcome, push)
            if outcome.channel.open:
                self._renewal.watch(outcome.channel)
        elif isinstance(outcome, JoinIgnored):
            pass
        elif outcome.at_once or not self._context.timings.join_error:
            self._refuse(peer, push, outcome)
        else:
            held = self._context.timings.join_error
            self._context.standing.suspend(peer, held, lambda: self._refuse(peer, push, outcome))

    def _refuse(self, peer: Peer, push: Push, refused: JoinRefused) -> None:
        payload = encode({"status": "error", "response": {"reason": refused.reason}})
        self._outbox.reply(peer, encode(push.topic), JOIN, push.ref, push.join_ref, payload)
        if refused.close is not None:
            self._sockets.close(peer, refused.close)

    def _leave(self, peer: Peer, push: Push, channel: ServerChannel | None) -> None:
        """With another join_ref than the channel's it is ignored (protocol §3.3)."""
        if channel is None:
            self._outbox.reply(peer, encode(push.topic), LEAVE, push.ref, push.join_ref)
        elif channel.join_ref == push.join_ref:
            self._context.rooms.end(channel)
            self._outbox.reply(peer, channel.wire_topic, LEAVE, push.ref, channel.join_ref)
            self._outbox.push(channel, CLOSE, b"{}", ref=channel.join_ref)
