"""One topic as its user sees it: listeners, sends, presence, tokens, and who waits for what.

The wishes are kept here and in the parts; whether and how they are fulfilled is `membership`'s.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from supawire.core import http_broadcast
from supawire.core.context import Context
from supawire.core.effects import Ticket
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
"""Seconds for which the server may have told no changes before it says that it has subscribed anew; 37 were seen."""


class CoreChannel:
    """The client's side of one topic."""

    __slots__ = ("_context", "_joins", "_member", "_parts", "begun", "membership", "name", "options", "topic")

    def __init__(self, context: Context, joins: JoinQueue, topic: str, options: ChannelOptions) -> None:
        self.topic: Final = topic
        self.options: Final = options
        self.membership: Final = Membership(context, joins, topic, options)
        self.name: Final = self.membership.name
        self.begun: bool = False
        """Whether the user ever wanted in or out, not counting a wish that was withdrawn before the join."""
        self._member = self.membership
        self._context = context
        self._joins = joins
        self._parts = self._member.parts

    @property
    def state(self) -> ChannelState:
        """Where it stands."""
        return self._member.state

    @property
    def error(self) -> RealtimeError | None:
        """Why it is not joined."""
        return self._member.error

    @property
    def wanted(self) -> bool:
        """Whether the user wants to be joined."""
        return self._member.wanted

    @property
    def ready(self) -> bool:
        """Whether it is joined and everything that was asked for is live."""
        return self._member.ready

    @property
    def hopeless(self) -> RealtimeError | None:
        """Why the changes that are wanted will never come, while the channel is joined; None while they may come."""
        if self.state is not ChannelState.JOINED or self._member.missing_kinds:
            return None
        return self._parts.readiness.hopeless

    @property
    def queued(self) -> int:
        """How many broadcasts are kept."""
        return len(self._parts.outbox)

    @property
    def own_token(self) -> bool:
        """Whether it has a token of its own."""
        return self._member.token is not None

    # --- what the user wants

    def has_listener(self, deliver: Callable[[Any], None]) -> bool:
        """Whether this very callable listens already."""
        return self._parts.index.has(deliver)

    def listen(self, listener: Listener, now: Instant) -> None:
        """Add a listener; new changes, and the first for presence, need a new join (R17)."""
        self._parts.index.add(listener)
        self._parts.gaps.widen(self._parts.index.kinds())
        self._member.rejoin_if_needed(now)

    def unlisten(self, listener: Listener) -> None:
        """Remove a listener."""
        self._parts.index.remove(listener)

    def subscribe(self, waiter: Waiter, now: Instant) -> None:
        """Be joined, from now on; the waiter is told when."""
        self.begun = True
        self._parts.waiters.add(waiter, now.mono)
        self._member.want(now)
        self._member.settle_waiters()

    def unsubscribe(self, ticket: Ticket | None, bound: float, now: Instant) -> None:
        """Be out; settled when the server has confirmed, or after the bound."""
        self.begun = True
        self._member.leave(ticket, bound, now)

    def close(self, error: RealtimeError | None, now: Instant) -> None:
        """For good: removed, the client closed, or the link ended with this error."""
        self._member.close(error, now)

    def set_token(self, token: Secret | None, now: Instant) -> None:
        """The channel's own token, instead of the client's."""
        self._member.token = token
        self.token_changed(now)

    def drop_channel_token(self, now: Instant) -> None:
        """The provider has answered, and wins over `set_token`, unless the channel was made with a token of its own."""
        if self.options.secret is None and self._member.token is not None:
            self.set_token(None, now)

    def token_changed(self, now: Instant) -> None:
        """Tell the server of a newer token, once; a channel that failed with the old one tries again."""
        if self.state is ChannelState.FAILED and self.wanted:
            self._member.renew(now)
        else:
            self._member.tell_token(now)

    def token_missing(self, error: RealtimeError, now: Instant) -> None:
        """Note why there is no token to join with; an error that will not pass ends the wait at once."""
        if self.state is ChannelState.WAITING:
            self._member.blocked(error, now)

    def track(self, wish: bytes | None, ticket: Ticket, timeout: float | None, now: Instant) -> None:
        """Take a presence wish: settled at once when not joined, else when the server has it (R45)."""
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
        """Send a broadcast, or do with it what `offline` says; None: handed over, and nothing more will come."""
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
        """A caller's time is over."""
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
        """A caller went away."""
        self._parts.outbox.drop(ticket)
        self._parts.tracking.dropped(ticket)
        if self._parts.waiters.take(ticket) is not None:
            self._withdraw(now)

    def check_presence(self, wish: bytes | None) -> None:
        """Refuse at once a payload that the server would refuse, or close the channel for."""
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
        """Everyone who is here, as an immutable snapshot."""
        return self._parts.roster.state()

    # --- frames of the living join

    def system(self, message: System, now: Instant) -> None:
        """Readiness, trouble with changes, or why the channel is about to be closed."""
        self._context.deliver(self._parts.index.system, (message,))
        reading = self._parts.readiness.read(message, now, keyed=self._member.keyed)
        joined = self.state is ChannelState.JOINED  # else it speaks of the join that is being replaced
        match reading.said:
            case Said.READY:
                self._member.move(ChannelOn.RECOVERED, now, announce=True)
                self._member.settle_waiters()
            case Said.DEGRADED:
                since = self._member.rejoin.since(self._joins.stalled_since(now))  # it may have waited behind a join
                self._parts.gaps.open(since, "degraded", frozenset({"changes"}))
                self._member.move(ChannelOn.DEGRADED, now, reading.error, announce=True)
                if joined and reading.error is not None and reading.error is self._parts.readiness.hopeless:
                    self._member.settle_waiters()
                    self._context.report("changes", topic=self.name, error=reading.error)
            case Said.ANEW:  # also before a rejoin is answered: nothing of the new join comes before its answer
                earlier = Instant(now.mono - _REPLACED, now.wall - _REPLACED)
                self._parts.gaps.open(self._member.rejoin.since(earlier), "resubscribed", frozenset({"changes"}))
            case Said.ENDING:
                self._member.close_reason = reading
            case Said.NOTHING:
                pass
        self._member.events_flow(now)

    def missed_change(self, now: Instant) -> None:
        """A frame that may have been a change of this channel could not be read: a gap, if changes are listened to."""
        if self._member.accepted_refs and self._parts.index.bindings:
            self._parts.gaps.open(now, "unreadable", frozenset({"changes"}))
            self._member.events_flow(now)

    def presence_state(self, raw: Raw) -> None:
        """Everyone who is here."""
        self._tell_presence(lambda roster: roster.replace(raw))

    def presence_diff(self, joins: Raw, leaves: Raw) -> None:
        """Who came and went."""
        self._tell_presence(lambda roster: roster.apply(joins, leaves))

    def _tell_presence(self, change: Callable[[ChannelPresence], list[PresenceEvent]]) -> None:
        roster = self._parts.roster
        malformed = roster.malformed
        self._context.deliver(self._parts.index.presence, change(roster))
        if roster.malformed != malformed:
            self._context.report("garbage", topic=self.name, detail_of="presence that is malformed, or of too many")

    def older_join_ended(self) -> None:
        """An older join than the living one is over on the server as well."""
        self._parts.roster.older_ended()

    def track_answered(self, error: RealtimeError | None, now: Instant) -> None:
        """The server answered a presence request, or did not in time."""
        self._parts.tracking.answered(error, now)
        self._member.rejoin_if_needed(now)

    # --- deadlines

    def track_due(self, now: Instant) -> None:
        """The presence limit allows another request."""
        self._parts.tracking.advance(now)

    def flush_due(self, now: Instant) -> None:
        """The message limit allows another broadcast."""
        if self.state is ChannelState.JOINED and self._member.active_join is not None:
            self._parts.outbox.flush(self._member.active_join.ref, now)

    # --- inside

    def _withdraw(self, now: Instant) -> None:
        """Leave a channel that was never joined when its last waiter is gone, as if nobody had begun it."""
        if self.wanted and not self._member.ever_joined and not self._parts.waiters:
            self._member.leave(None, self._context.options.timeout, now)
            self.begun = False  # iterators that are read later begin it anew, they do not end

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
