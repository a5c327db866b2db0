"""One topic from the user's side: listeners, broadcasts, presence, tokens and pending calls.

This module records what the user wants; `membership` runs the joins that achieve it.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from supawire.core import http_broadcast
from supawire.core.context import Context
from supawire.core.effects import Ticket, UnreadableFrame
from supawire.core.join_queue import JoinQueue
from supawire.core.listeners import Listener
from supawire.core.membership import (
    ChannelTokenSet,
    Leave,
    Membership,
    RequirementsChanged,
    TokenChanged,
    TokenUnavailable,
)
from supawire.core.outbox import OutgoingBroadcast
from supawire.core.presence import ChannelPresence
from supawire.errors import ClosedError, InvalidArgumentError, OperationTimeout, RealtimeError, StateError
from supawire.events import ChannelState, ChannelStats, Instant, PresenceEvent, PresenceState
from supawire.options import ChannelOptions, Secret

_keys: Final = msgspec.json.Decoder(dict[str, Raw])


class CoreChannel:
    """The client side of one topic."""

    __slots__ = ("_context", "_member", "handler_errors", "membership", "name", "options", "topic")

    def __init__(self, context: Context, joins: JoinQueue[Membership], topic: str, options: ChannelOptions) -> None:
        self.topic: Final = topic
        self.options: Final = options
        self.membership: Final = Membership(context, joins, topic, options)
        self.name: Final = self.membership.name
        self.handler_errors: int = 0
        """How often handlers have raised; counted by the shell."""
        self._member = self.membership
        self._context = context

    @property
    def state(self) -> ChannelState:
        """The state of the channel."""
        return self._member.state

    @property
    def error(self) -> RealtimeError | None:
        """Why the channel is not joined."""
        return self._member.error

    @property
    def wanted(self) -> bool:
        """Whether the user wants to be joined."""
        return self._member.wanted

    @property
    def begun(self) -> bool:
        """Whether the user ever subscribed or unsubscribed, not counting a subscribe withdrawn before the join."""
        return self._member.begun

    @property
    def ready(self) -> bool:
        """Whether the channel is joined and all requested events are live."""
        return self._member.ready

    @property
    def permanent_error(self) -> RealtimeError | None:
        """The error because of which the wanted changes will never arrive although the channel is joined, else None."""
        if self.state is not ChannelState.JOINED or self._member.missing_kinds:
            return None
        return self._member.readiness.permanent_error

    @property
    def queued(self) -> int:
        """Number of queued broadcasts."""
        return len(self._member.outbox)

    def stats(self) -> ChannelStats:
        """Return the counters for the user, without those of the shell."""
        member = self._member
        return ChannelStats(
            state=member.state,
            ready=member.ready,
            joins=member.join_count,
            messages_received=member.received,
            messages_sent=member.outbox.sent,
            queued=len(member.outbox),
            gaps=member.gap_count,
            handler_errors=self.handler_errors,
            malformed_presence=member.presence.malformed,
        )

    @property
    def has_own_token(self) -> bool:
        """Whether the channel has its own token."""
        return self._member.token is not None

    @property
    def socket(self) -> int:
        """The number of the socket that the channel is on."""
        return self._context.number

    def use_socket(self, context: Context, joins: JoinQueue[Membership], now: Instant) -> None:
        """Use another socket from now on, see `Membership.use_socket`."""
        self._context = context
        self._member.use_socket(context, joins, now)

    # --- user requests

    def has_listener(self, deliver: Callable[[Any], None]) -> bool:
        """Return whether this callable is already registered."""
        return self._member.index.has_callback(deliver)

    def listen(self, listener: Listener, now: Instant) -> None:
        """Add a listener. New bindings, and the first presence listener, require a new join."""
        self._member.index.add(listener)
        self._member.gaps.add_kinds(self._member.index.kinds())
        self._member.handle(RequirementsChanged(), now)

    def unlisten(self, listener: Listener) -> None:
        """Remove a listener."""
        self._member.index.remove(listener)

    def set_token(self, token: Secret | None, now: Instant) -> None:
        """Set the channel's own token, used instead of the client's."""
        self._member.handle(ChannelTokenSet(token), now)

    def drop_channel_token(self, now: Instant) -> None:
        """Drop a token set by `set_token` because the provider returned a newer one. A token in the options is kept."""
        if self.options.secret is None and self._member.token is not None:
            self.set_token(None, now)

    def token_changed(self, now: Instant) -> None:
        """Send a changed token to the server once. A channel that failed with the old token joins again."""
        self._member.handle(TokenChanged(), now)

    def token_unavailable(self, error: RealtimeError, now: Instant) -> None:
        """Record why there is no token to join with. A permanent error fails the waiting callers at once."""
        self._member.handle(TokenUnavailable(error), now)

    def track(self, payload: bytes | None, ticket: Ticket, timeout: float | None, now: Instant) -> None:
        """Set the desired presence. The ticket resolves at once if not joined, else when the server confirms it."""
        self._member.tracking.set_desired(payload)
        if self.state not in (ChannelState.JOINED, ChannelState.REJOINING):
            self._context.tickets.resolve(ticket, None)
            return
        self._member.tracking.add_waiter(ticket, timeout, now)
        if self._member.needs_rejoin:
            self._member.handle(RequirementsChanged(), now)
        else:
            self._member.tracking.advance(now)

    def broadcast(self, message: OutgoingBroadcast, now: Instant) -> Ticket | None:
        """Send a broadcast, or apply the `offline` option. Return None if it was sent and no reply is expected."""
        self.check_broadcast(message)
        state, join = self._member.state, self._member.active_join
        if state is ChannelState.JOINED and join is not None:
            return self._member.outbox.send(message, join.ref, now)
        offline = self._context.options.offline
        if state is ChannelState.REJOINING or offline in ("wait", "queue"):
            return self._member.outbox.enqueue(message, now)
        if offline == "http":
            return self._member.outbox.publish(message, private=self.options.private, token=self._member.token)
        raise StateError(
            f"the channel is {state}, not joined" + self._reason_suffix(),
            topic=self.name,
            hint=(
                "It joins automatically, and subscribe() waits for that; or set offline='wait', 'queue' or 'http'."
                if self.wanted and state is not ChannelState.FAILED
                else "Call subscribe() first, or set offline='wait', 'queue' or 'http'."
            ),
        )

    def expired(self, ticket: Ticket, now: Instant) -> None:
        """Fail a call whose timeout has passed."""
        joined = self.state is ChannelState.JOINED
        if self._member.outbox.expired(ticket, joined=joined) or self._member.tracking.expired(ticket):
            return
        waiter = self._member.waiters.pop(ticket)
        if waiter is None:
            return
        what = "ready" if waiter.ready and joined else "joined"
        error = OperationTimeout(f"the channel was not {what} in time" + self._reason_suffix(), topic=self.name)
        error.__cause__ = self.error
        self._context.tickets.resolve(ticket, error)
        self._withdraw(now)

    def cancel(self, ticket: Ticket, now: Instant) -> None:
        """Discard the ticket of a cancelled call."""
        self._member.outbox.drop(ticket)
        self._member.tracking.cancel(ticket)
        if self._member.waiters.pop(ticket) is not None:
            self._withdraw(now)

    def check_presence(self, payload: bytes | None) -> None:
        """Raise an error for a payload that the server would refuse or close the channel for."""
        if payload is None:
            return
        limits = self._context.options.limits
        http_broadcast.check_size(payload, limits.payload_bytes, self.name)
        if limits.presence_keys is not None and (keys := len(_keys.decode(payload))) > limits.presence_keys:
            raise InvalidArgumentError(
                f"the presence payload has {keys} keys, at most {limits.presence_keys} are allowed",
                topic=self.name,
                hint="Nest the other keys under one key, or set Limits(presence_keys=…) to your project's limit.",
            )

    def presence(self) -> PresenceState:
        """Return an immutable snapshot of the presence state."""
        return self._member.presence.state()

    # --- presence frames of the active join

    def presence_state(self, raw: Raw) -> None:
        """Apply a `presence_state` and deliver the resulting events."""
        self._apply_presence(lambda presence: presence.replace(raw))

    def presence_diff(self, joins: Raw, leaves: Raw) -> None:
        """Apply a `presence_diff` and deliver the resulting events."""
        self._apply_presence(lambda presence: presence.apply(joins, leaves))

    def _apply_presence(self, change: Callable[[ChannelPresence], list[PresenceEvent]]) -> None:
        presence = self._member.presence
        malformed = presence.malformed
        self._context.deliver(self._member.index.presence, change(presence))
        if presence.malformed != malformed:
            self._context.counts.malformed_presence += presence.malformed - malformed
            self._context.report(UnreadableFrame("malformed presence, or too many presence entries", self.name))

    def track_answered(self, error: RealtimeError | None, now: Instant) -> None:
        """Handle the reply to a presence request, or its timeout."""
        self._member.tracking.answered(error, now)
        self._member.handle(RequirementsChanged(), now)

    # --- deadlines

    def track_due(self, now: Instant) -> None:
        """Send a delayed presence request, now that the rate limit allows it."""
        self._member.tracking.advance(now)

    def flush_due(self, now: Instant) -> None:
        """Send queued broadcasts, now that the rate limit allows it."""
        if self.state is ChannelState.JOINED and self._member.active_join is not None:
            self._member.outbox.flush(self._member.active_join.ref, now)

    # --- internal

    def _withdraw(self, now: Instant) -> None:
        """Leave a channel that was never joined once its last waiter is gone, as if it had never been subscribed."""
        if self.wanted and not self._member.ever_joined and not self._member.waiters:
            self._member.handle(Leave(None, self._context.options.timeout, withdrawn=True), now)

    def check_broadcast(self, message: OutgoingBroadcast) -> None:
        """Raise an error for a message that this channel can never send."""
        if self._member.state is ChannelState.CLOSED:
            raise ClosedError("the channel was closed", topic=self.name)
        if message.ack and not self.options.ack:
            raise StateError(
                "ack=True requires a channel created with ack=True, because it is set at the join",
                topic=self.name,
                hint=f"client.channel({self.name!r}, ack=True)",
            )
        if message.persist:
            self._check_persist(message)
        self._member.outbox.check(message)

    def _check_persist(self, message: OutgoingBroadcast) -> None:
        """Raise an error for a message that the server would not store, or of which it would not say so."""
        if not self.options.private:
            raise InvalidArgumentError(
                "persist= requires private=True: the server stores messages of private topics only", topic=self.name
            )
        if not message.ack:
            raise StateError(
                "persist= requires ack=True: only the reply says whether the message was stored",
                topic=self.name,
                hint=f"client.channel({self.name!r}, private=True, ack=True)",
            )
        joined = self._member.state in (ChannelState.JOINED, ChannelState.REJOINING)
        if self._context.options.offline == "http" and not joined:
            raise StateError(
                f"the channel is {self._member.state}, and by HTTP no answer says whether a message was stored",
                topic=self.name,
                hint="Send it while the channel is joined, or use another offline= than 'http'.",
            )

    def _reason_suffix(self) -> str:
        if self.error is not None:
            return f": {self.error.message}"
        tokens = self._context.tokens
        unanswered = self.state is ChannelState.WAITING and tokens.fetching and not tokens.fetched
        return ": the token provider has not returned a token yet" if unanswered else ""
