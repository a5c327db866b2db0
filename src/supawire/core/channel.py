"""One topic from the user's side: listeners, broadcasts, presence, tokens and pending calls.

This module records what the user wants; `membership` runs the joins that achieve it.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from supawire.core import http_broadcast
from supawire.core.context import Context
from supawire.core.effects import ChangesFailed, Ticket, UnreadableFrame
from supawire.core.join_queue import JoinQueue
from supawire.core.listeners import Listener
from supawire.core.membership import Membership
from supawire.core.outbox import OutgoingBroadcast
from supawire.core.presence import ChannelPresence
from supawire.core.states import ChannelOn
from supawire.core.waiters import Said, Waiter
from supawire.errors import ClosedError, InvalidArgumentError, OperationTimeout, RealtimeError, StateError
from supawire.events import ChannelState, Instant, PresenceEvent, PresenceState, System
from supawire.options import ChannelOptions, Secret

_keys: Final = msgspec.json.Decoder(dict[str, Raw])

_REPLACED: Final = 60.0
"""Seconds for which changes may have been missing before the server reports a new subscription; 37 were measured."""


class CoreChannel:
    """The client side of one topic."""

    __slots__ = ("_context", "_joins", "_member", "_parts", "begun", "membership", "name", "options", "topic")

    def __init__(self, context: Context, joins: JoinQueue, topic: str, options: ChannelOptions) -> None:
        self.topic: Final = topic
        self.options: Final = options
        self.membership: Final = Membership(context, joins, topic, options)
        self.name: Final = self.membership.name
        self.begun: bool = False
        """Whether the user ever subscribed or unsubscribed, not counting a subscribe withdrawn before the join."""
        self._member = self.membership
        self._context = context
        self._joins = joins
        self._parts = self._member.parts

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
    def ready(self) -> bool:
        """Whether the channel is joined and all requested events are live."""
        return self._member.ready

    @property
    def hopeless(self) -> RealtimeError | None:
        """The error because of which the wanted changes will never arrive although the channel is joined, else None."""
        if self.state is not ChannelState.JOINED or self._member.missing_kinds:
            return None
        return self._parts.readiness.hopeless

    @property
    def queued(self) -> int:
        """Number of queued broadcasts."""
        return len(self._parts.outbox)

    @property
    def own_token(self) -> bool:
        """Whether the channel has its own token."""
        return self._member.token is not None

    # --- user requests

    def has_listener(self, deliver: Callable[[Any], None]) -> bool:
        """Return whether this callable is already registered."""
        return self._parts.index.has(deliver)

    def listen(self, listener: Listener, now: Instant) -> None:
        """Add a listener. New bindings, and the first presence listener, require a new join."""
        self._parts.index.add(listener)
        self._parts.gaps.widen(self._parts.index.kinds())
        self._member.rejoin_if_needed(now)

    def unlisten(self, listener: Listener) -> None:
        """Remove a listener."""
        self._parts.index.remove(listener)

    def subscribe(self, waiter: Waiter, now: Instant) -> None:
        """Join and stay joined. The waiter is resolved when the channel is joined or ready."""
        self.begun = True
        self._parts.waiters.add(waiter, now.mono)
        self._member.want(now)
        self._member.settle_waiters()

    def unsubscribe(self, ticket: Ticket | None, bound: float, now: Instant) -> None:
        """Leave. The ticket resolves when the server confirms, or after `bound` seconds."""
        self.begun = True
        self._member.leave(ticket, bound, now)

    def close(self, error: RealtimeError | None, now: Instant) -> None:
        """Close permanently: the channel was removed, the client was closed, or the connection ended with `error`."""
        self._member.close(error, now)

    def set_token(self, token: Secret | None, now: Instant) -> None:
        """Set the channel's own token, used instead of the client's."""
        self._member.token = token
        self.token_changed(now)

    def drop_channel_token(self, now: Instant) -> None:
        """Drop a token set by `set_token` because the provider returned a newer one. A token in the options is kept."""
        if self.options.secret is None and self._member.token is not None:
            self.set_token(None, now)

    def token_changed(self, now: Instant) -> None:
        """Send a changed token to the server once. A channel that failed with the old token joins again."""
        if self.state is ChannelState.FAILED and self.wanted:
            self._member.renew(now)
        else:
            self._member.tell_token(now)

    def token_missing(self, error: RealtimeError, now: Instant) -> None:
        """Record why there is no token to join with. A permanent error fails the waiting callers at once."""
        if self.state is ChannelState.WAITING:
            self._member.blocked(error, now)

    def track(self, wish: bytes | None, ticket: Ticket, timeout: float | None, now: Instant) -> None:
        """Set the desired presence. The ticket resolves at once if not joined, else when the server confirms it."""
        self._parts.tracking.set_desired(wish)
        if self.state not in (ChannelState.JOINED, ChannelState.REJOINING):
            self._context.tickets.resolve(ticket, None)
            return
        self._parts.tracking.add_waiter(ticket, timeout, now)
        if self._member.needs_rejoin:
            self._member.rejoin_if_needed(now)
        else:
            self._parts.tracking.advance(now)

    def broadcast(self, message: OutgoingBroadcast, now: Instant) -> Ticket | None:
        """Send a broadcast, or apply the `offline` option. Return None if it was sent and no reply is expected."""
        self._check_broadcast(message)
        if self.state is ChannelState.JOINED and self._member.active_join is not None:
            return self._parts.outbox.send(message, self._member.active_join.ref, now)
        offline = self._context.options.offline
        if self.state is ChannelState.REJOINING or offline in ("wait", "queue"):
            return self._parts.outbox.keep(message, now)
        if offline == "http":
            return self._parts.outbox.publish(message, private=self.options.private, token=self._member.token)
        raise StateError(
            f"the channel is {self.state}, not joined" + self._because(),
            topic=self.name,
            hint=(
                "It is joined by itself, and subscribe() waits for that; or choose offline='wait', 'queue' or 'http'."
                if self.wanted and self.state is not ChannelState.FAILED
                else "subscribe() first, or choose offline='wait', 'queue' or 'http'."
            ),
        )

    def expired(self, ticket: Ticket, now: Instant) -> None:
        """Fail a call whose timeout has passed."""
        joined = self.state is ChannelState.JOINED
        if self._parts.outbox.expired(ticket, joined=joined) or self._parts.tracking.expired(ticket):
            return
        waiter = self._parts.waiters.take(ticket)
        if waiter is None:
            return
        what = "ready" if waiter.ready and joined else "joined"
        error = OperationTimeout(f"the channel is not {what} in time" + self._because(), topic=self.name)
        error.__cause__ = self.error
        self._context.tickets.resolve(ticket, error)
        self._withdraw(now)

    def cancel(self, ticket: Ticket, now: Instant) -> None:
        """Discard the ticket of a cancelled call."""
        self._parts.outbox.drop(ticket)
        self._parts.tracking.dropped(ticket)
        if self._parts.waiters.take(ticket) is not None:
            self._withdraw(now)

    def check_presence(self, wish: bytes | None) -> None:
        """Raise an error for a payload that the server would refuse or close the channel for."""
        if wish is None:
            return
        limits = self._context.options.limits
        http_broadcast.check_size(wish, limits.payload_bytes, self.name)
        if limits.presence_keys is not None and (keys := len(_keys.decode(wish))) > limits.presence_keys:
            raise InvalidArgumentError(
                f"the presence payload has {keys} keys, the project takes at most {limits.presence_keys}",
                topic=self.name,
                hint="Put the rest below one key, or set Limits(presence_keys=…) to your project's limit.",
            )

    def presence(self) -> PresenceState:
        """Return an immutable snapshot of the presence state."""
        return self._parts.roster.state()

    # --- frames of the active join

    def system(self, message: System, now: Instant) -> None:
        """Handle a `system` message: readiness, an error of Postgres changes, or the reason of an imminent close."""
        self._context.deliver(self._parts.index.system, (message,))
        reading = self._parts.readiness.read(message, now, keyed=self._member.keyed)
        joined = self.state is ChannelState.JOINED  # else the message is about the join that is being replaced
        match reading.said:
            case Said.READY:
                self._member.move(ChannelOn.RECOVERED, now, announce=True)
                self._member.settle_waiters()
            case Said.DEGRADED:
                since = self._member.rejoin.since(self._joins.stalled_since(now))  # maybe delayed behind a join
                self._parts.gaps.open(since, "degraded", frozenset({"changes"}))
                self._member.move(ChannelOn.DEGRADED, now, reading.error, announce=True)
                if joined and reading.error is not None and reading.error is self._parts.readiness.hopeless:
                    self._member.settle_waiters()
                    self._context.report(ChangesFailed(reading.error, self.name))
            case Said.ANEW:  # also before a rejoin is answered: frames of the new join come only after its reply
                earlier = Instant(now.mono - _REPLACED, now.wall - _REPLACED)
                self._parts.gaps.open(self._member.rejoin.since(earlier), "resubscribed", frozenset({"changes"}))
            case Said.ENDING:
                self._member.close_reason = reading
            case Said.NOTHING:
                pass
        self._member.events_flow(now)

    def missed_change(self, now: Instant) -> None:
        """Open a gap, if there are change listeners, because a frame that may have been a change could not be read."""
        if self._member.accepted_refs and self._parts.index.bindings:
            self._parts.gaps.open(now, "unreadable", frozenset({"changes"}))
            self._member.events_flow(now)

    def presence_state(self, raw: Raw) -> None:
        """Apply a `presence_state` and deliver the resulting events."""
        self._tell_presence(lambda roster: roster.replace(raw))

    def presence_diff(self, joins: Raw, leaves: Raw) -> None:
        """Apply a `presence_diff` and deliver the resulting events."""
        self._tell_presence(lambda roster: roster.apply(joins, leaves))

    def _tell_presence(self, change: Callable[[ChannelPresence], list[PresenceEvent]]) -> None:
        roster = self._parts.roster
        malformed = roster.malformed
        self._context.deliver(self._parts.index.presence, change(roster))
        if roster.malformed != malformed:
            self._context.counts.malformed_presence += roster.malformed - malformed
            self._context.report(UnreadableFrame("presence that is malformed, or of too many", self.name))

    def older_join_ended(self) -> None:
        """Record that the server has closed a join older than the active one."""
        self._parts.roster.older_ended()

    def track_answered(self, error: RealtimeError | None, now: Instant) -> None:
        """Handle the reply to a presence request, or its timeout."""
        self._parts.tracking.answered(error, now)
        self._member.rejoin_if_needed(now)

    # --- deadlines

    def track_due(self, now: Instant) -> None:
        """Send a delayed presence request, now that the rate limit allows it."""
        self._parts.tracking.advance(now)

    def flush_due(self, now: Instant) -> None:
        """Send queued broadcasts, now that the rate limit allows it."""
        if self.state is ChannelState.JOINED and self._member.active_join is not None:
            self._parts.outbox.flush(self._member.active_join.ref, now)

    # --- internal

    def _withdraw(self, now: Instant) -> None:
        """Leave a channel that was never joined once its last waiter is gone, as if it had never been subscribed."""
        if self.wanted and not self._member.ever_joined and not self._parts.waiters:
            self._member.leave(None, self._context.options.timeout, now)
            self.begun = False  # so that iterators read later subscribe again instead of ending

    def _check_broadcast(self, message: OutgoingBroadcast) -> None:
        if self.state is ChannelState.CLOSED:
            raise ClosedError("the channel was closed", topic=self.name)
        if message.ack and not self.options.ack:
            raise StateError(
                "ack=True needs a channel that was opened with ack=True: the server decides at the join",
                topic=self.name,
                hint=f"client.channel({self.name!r}, ack=True)",
            )
        self._parts.outbox.check(message)

    def _because(self) -> str:
        if self.error is not None:
            return f": {self.error.message}"
        tokens = self._context.tokens
        unanswered = self.state is ChannelState.WAITING and tokens.fetching and not tokens.fetched
        return ": the token provider has not answered yet" if unanswered else ""
