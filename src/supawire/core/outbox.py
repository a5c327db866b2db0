"""Outgoing broadcasts of one channel: sent at once, or queued in order until they can be sent.

A queued broadcast has a ticket and a deadline: it is either sent once, after the join, or its caller gets an error. One
with `latest` may instead be replaced by a newer one with the same key.
"""

from typing import Final

from msgspec import Raw, Struct

from supawire.core import frames, http_broadcast
from supawire.core.context import Context
from supawire.core.effects import PublishByHttp, Ticket, TicketKind
from supawire.core.requests import TimerKey, TimerKind
from supawire.core.trace_context import add_to_payload
from supawire.errors import (
    InvalidArgumentError,
    OperationTimeout,
    PayloadTooLargeError,
    RateLimitedError,
    RealtimeError,
    StateError,
)
from supawire.events import Instant, Sent
from supawire.options import Secret

REPLACED: Final = Sent("replaced")
"""The result of a broadcast that was not sent, because a newer one with the same `latest` key took its place."""


class OutgoingBroadcast(Struct, frozen=True, gc=False):
    """One outgoing broadcast. `payload`: JSON text, or raw bytes if not `json`.

    persist: the server stores it; True, or for how many seconds. id: sent as text with this id, which receivers get as
    `Broadcast.id`; only for JSON. timeout: seconds until it is sent and, with ack, answered. ignore_queue_time: the
    timeout applies to each of the two separately, and the reply's does not count time behind unanswered joins. latest:
    while it is queued, a newer broadcast with this key takes its place. traceparent: the trace context that it carries,
    see `core.trace_context`; only for JSON that is not persisted.
    """

    event: str
    payload: bytes
    json: bool = True
    ack: bool = False
    timeout: float | None = None
    ignore_queue_time: bool = False
    persist: bool | int = False
    id: str | None = None
    latest: str | None = None
    traceparent: str | None = None

    @property
    def metadata(self) -> bytes:
        """The metadata of its frame. See docs/protocol.md, Persisted broadcasts."""
        if self.persist is False:
            return b""
        return b'{"persist":true}' if self.persist is True else b'{"persist":{"ttl":%d}}' % self.persist


class ChannelOutbox:
    """The outgoing broadcasts of one channel."""

    __slots__ = ("_context", "_name", "_queued", "_topic", "sent")

    def __init__(self, context: Context, topic: str, name: str) -> None:
        self._context = context
        self._topic = topic
        self._name = name
        self._queued: dict[Ticket | str, tuple[Ticket, OutgoingBroadcast]] = {}
        """Queued broadcasts in sending order, by their `latest` key, or by their ticket if they have none."""
        self.sent: int = 0
        """Broadcasts handed to a connection."""

    def use_socket(self, context: Context) -> None:
        """Use the context of another socket."""
        self._context = context

    def check(self, message: OutgoingBroadcast) -> None:
        """Raise an error for a message that the server would refuse or silently drop."""
        limit = self._context.options.limits.payload_bytes
        if limit is not None and len(message.payload) > limit:
            raise http_broadcast.payload_too_large(message.payload, limit, self._name)
        if self._context.codec.version == frames.V1 and (message.persist or not message.json):
            what = "persist=" if message.json else "bytes"
            if self._context.options.protocol == frames.V1:
                raise InvalidArgumentError(f"{what} cannot be sent with protocol='1.0.0'", hint="Use protocol='2.0.0'.")
            raise InvalidArgumentError(
                f"{what} cannot be sent over long polling", hint="They need a WebSocket; JSON can be sent."
            )

    def send(self, message: OutgoingBroadcast, join_ref: str, now: Instant) -> Ticket | None:
        """Send on the active join. Return None if the frame was written and no reply is expected.

        The broadcast is queued, and its ticket returned, if pacing or earlier broadcasts delay it.
        """
        if self._queued or self._context.messages.ready_at(now.mono) > now.mono:
            ticket = self.enqueue(message, now)
            self.flush(join_ref, now)
            return ticket
        if not message.ack:
            self._transmit(message, join_ref, now, None, None)
            return None
        ticket = self._context.tickets.create(TicketKind.BROADCAST)
        try:
            self._transmit(message, join_ref, now, ticket, message.timeout)
        except PayloadTooLargeError:
            self._context.tickets.drop(ticket)
            raise
        return ticket

    def enqueue(self, message: OutgoingBroadcast, now: Instant) -> Ticket:
        """Queue until the channel is joined, at most for the message's timeout.

        One that replaces another takes its place in the queue: at the end, a key with frequent messages would wait for
        as long as they come.
        """
        replaced = None if message.latest is None else self._queued.get(message.latest)
        if replaced is None and len(self._queued) >= self._context.options.queue_size:
            raise StateError(
                f"{len(self._queued)} broadcasts are already queued for this channel",
                topic=self._name,
                hint="Send less while it is not joined, or raise queue_size.",
            )
        ticket = self._context.tickets.create(TicketKind.BROADCAST)
        if replaced is not None:
            self._settle(replaced[0], REPLACED)
        self._queued[ticket if message.latest is None else message.latest] = ticket, message
        if message.timeout is not None:
            self._context.timers.set(TimerKey(TimerKind.CALL_TIMEOUT, self._topic, ticket), now.mono + message.timeout)
        return ticket

    def publish(self, message: OutgoingBroadcast, *, private: bool, token: Secret | None) -> Ticket:
        """Send by HTTP (`offline="http"`). Raises `InvalidArgumentError` for messages that HTTP cannot carry."""
        payload = message.payload
        if message.traceparent is not None:
            payload = add_to_payload(payload, message.traceparent, self._context.options.limits.payload_bytes)
        request = http_broadcast.http_message(
            self._name, message.event, payload, json=message.json, private=private, id=None
        )
        ticket = self._context.tickets.create(TicketKind.BROADCAST)
        self._context.effects.append(PublishByHttp(ticket, request, token, message.timeout))
        return ticket

    def flush(self, join_ref: str, now: Instant) -> None:
        """Send the queued broadcasts in order as fast as pacing allows, and schedule the rest."""
        while self._queued:
            ready_at = self._context.messages.ready_at(now.mono)
            if ready_at > now.mono:
                self._context.timers.set(TimerKey(TimerKind.OUTBOX, self._topic), ready_at)
                return
            ticket, message = self._queued.pop(next(iter(self._queued)))
            deadline = self._context.timers.deadline(TimerKey(TimerKind.CALL_TIMEOUT, self._topic, ticket))
            self._context.timers.cancel(TimerKey(TimerKind.CALL_TIMEOUT, self._topic, ticket))
            remaining = (
                message.timeout if deadline is None or message.ignore_queue_time else max(0.0, deadline - now.mono)
            )
            self._send_queued(ticket, message, join_ref, now, remaining)

    def fail(self, error: RealtimeError) -> None:
        """Fail all queued broadcasts, because the channel ended."""
        queued, self._queued = self._queued, {}
        for ticket, _ in queued.values():
            self._settle(ticket, error)

    def drop(self, ticket: Ticket) -> bool:
        """Remove a queued broadcast whose call was cancelled. Return False if it is not queued here."""
        slot: Ticket | str | None = ticket
        if slot not in self._queued:
            slot = next((key for key, (queued, _) in self._queued.items() if queued is ticket), None)
        if slot is None:
            return False
        del self._queued[slot]
        self._context.timers.cancel(TimerKey(TimerKind.CALL_TIMEOUT, self._topic, ticket))
        return True

    def expired(self, ticket: Ticket, *, joined: bool) -> bool:
        """Fail a queued broadcast that was not sent in time. Return False if it is not queued here."""
        if not self.drop(ticket):
            return False
        error = RateLimitedError(
            "the limit on messages per second delayed the broadcast beyond its timeout", topic=self._name
        )
        late = OperationTimeout("the channel was not joined in time; the broadcast was not sent", topic=self._name)
        self._context.tickets.resolve(ticket, error if joined else late)
        return True

    def __len__(self) -> int:
        return len(self._queued)

    def _settle(self, ticket: Ticket, outcome: Sent | RealtimeError) -> None:
        """Resolve the ticket of a broadcast that was queued, without sending it."""
        self._context.timers.cancel(TimerKey(TimerKind.CALL_TIMEOUT, self._topic, ticket))
        self._context.tickets.resolve(ticket, outcome)

    def _send_queued(
        self, ticket: Ticket, message: OutgoingBroadcast, join_ref: str, now: Instant, timeout: float | None
    ) -> None:
        try:
            self.check(message)  # the connection may carry less than the one before
            self._transmit(message, join_ref, now, ticket if message.ack else None, timeout)
        except (InvalidArgumentError, PayloadTooLargeError) as error:
            self._context.tickets.resolve(ticket, error)
            return
        if not message.ack:
            self._context.tickets.resolve(ticket, Sent("socket"))

    def _transmit(
        self, message: OutgoingBroadcast, join_ref: str, now: Instant, ticket: Ticket | None, timeout: float | None
    ) -> None:
        context = self._context
        ref = context.next_ref()
        if message.id is None and message.traceparent is None:
            data, binary = context.codec.encode_broadcast(
                join_ref, ref, self._topic, message.event, message.payload, json=message.json, metadata=message.metadata
            )
        else:  # the server passes on the keys of the text form, but not the metadata of the binary one
            meta = {"id": message.id, "traceparent": message.traceparent}
            meta = {name: value for name, value in meta.items() if value is not None}
            body = {"type": "broadcast", "event": message.event, "payload": Raw(message.payload), "meta": meta}
            data, binary = context.codec.encode(join_ref, ref, self._topic, frames.BROADCAST, body), False
        context.transmit(data, binary=binary)
        self.sent += 1
        context.messages.spend(now.mono)
        if ticket is not None:
            context.expect(
                ref,
                frames.BROADCAST,
                self._topic,
                ticket,
                timeout,
                now,
                counts_queue_time=not message.ignore_queue_time,
                must_be_stored=bool(message.persist),
            )
