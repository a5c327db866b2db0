"""The life cycle of a channel's joins: requested, active, left, lost.

Everything that the server assigns belongs to one join and is replaced by the next one: binding ids, presence state and
readiness. Frames of an older join are recognised by their join_ref and dropped. What the user wants of the topic is
recorded in `channel`.

`Parts` bundles the other components of a channel. `Rejoin` decides what follows when a join is refused or ends: retry,
retry more slowly, retry with a fresh token, or give up.
"""

from typing import Final, NamedTuple

from msgspec import Raw, Struct

from supawire._server_errors import Action, Known, classify_join, join_error
from supawire.core import frames
from supawire.core.context import Context
from supawire.core.effects import BindingMismatch, Ended, GapReported, Ticket, TokenFailed
from supawire.core.gaps import REJOIN, SETTLED, Gaps
from supawire.core.join_payload import Join, binding_ids, join_payload
from supawire.core.join_queue import JoinQueue
from supawire.core.listeners import Index
from supawire.core.outbox import ChannelOutbox
from supawire.core.presence import ChannelPresence
from supawire.core.presence_tracking import PresenceTracking
from supawire.core.requests import TimerKey, TimerKind
from supawire.core.states import CHANNEL, ChannelOn
from supawire.core.token import on_wire, same, taken_back
from supawire.core.waiters import ChannelReadiness, Reading, Waiters
from supawire.errors import (
    AuthError,
    ClosedError,
    ConnectionLostError,
    OperationTimeout,
    RealtimeError,
    ServerError,
    StateError,
)
from supawire.events import ChannelState, Instant, Status
from supawire.options import ChannelOptions, Secret


class Parts(Struct, frozen=True):
    """The components of a channel; `membership` and `channel` connect them."""

    index: Index
    roster: ChannelPresence
    gaps: Gaps
    tracking: PresenceTracking
    outbox: ChannelOutbox
    waiters: Waiters
    readiness: ChannelReadiness

    @classmethod
    def of(cls, context: Context, topic: str, name: str, options: ChannelOptions) -> "Parts":
        """Create the components of a new channel."""
        return cls(
            index=Index(),
            roster=ChannelPresence(name),
            gaps=Gaps(name, options, context.server_clock),
            tracking=PresenceTracking(context, topic, name),
            outbox=ChannelOutbox(context, topic, name),
            waiters=Waiters(context, topic),
            readiness=ChannelReadiness(),
        )

    def wants_presence(self, options: ChannelOptions) -> bool:
        """Whether the next join enables presence: there is a listener, a presence key or a payload to track."""
        return (
            self.index.wants_presence or options.presence_key is not None or self.tracking.desired_payload is not None
        )

    def unmet(self, join: Join | None, options: ChannelOptions) -> frozenset[str]:
        """Return the kinds of wanted events that this join did not request; an empty set without a join."""
        if join is None:
            return frozenset()
        unmet = set[str]()
        if self.index.lacks(join.bindings):
            unmet.add("changes")
        if self.wants_presence(options) and not join.presence:
            unmet.add("presence")
        return frozenset(unmet)


CHANNEL_LIMIT: Final = "ChannelRateLimitReached"
"""Error code of a join that is refused because the connection has too many channels."""

_STEADY: Final = 5.0
"""Seconds a channel must stay joined before the backoff restarts."""


class RetryDecision(NamedTuple):
    """Whether to retry, and how."""

    again: bool
    slow: bool = False
    stuck: bool = False
    """The provider returned the same token that was refused before."""


class Rejoin:
    """Retry policy for the joins of one channel."""

    __slots__ = (
        "_attempts", "_context", "_failing_since", "_joined_at", "_recounted", "_refused", "_topic",
    )  # fmt: skip

    def __init__(self, context: Context, topic: str) -> None:
        self._context = context
        self._topic = topic
        self._attempts = 0
        self._failing_since: float | None = None
        self._joined_at: float | None = None
        self._refused: tuple[Secret | None] | None = None
        self._recounted = False

    def reset(self) -> None:
        """Restart the attempts, because the user subscribed again."""
        self._attempts, self._failing_since, self._joined_at, self._refused = 0, None, None, None
        self._recounted = False

    def joined(self, now: Instant) -> None:
        """Record that a join was accepted."""
        self._joined_at = now.mono
        self._refused, self._recounted = None, False

    def ended(self, now: Instant) -> None:
        """Record that the join ended. The backoff restarts if it lasted at least `_STEADY` seconds."""
        if self._joined_at is not None and now.mono - self._joined_at >= _STEADY:
            self._attempts, self._failing_since = 0, None
        self._joined_at = None

    def since(self, instant: Instant) -> Instant:
        """Return this instant, or the time of the join if that is later: nothing is missing before the join."""
        late = 0.0 if self._joined_at is None else max(0.0, self._joined_at - instant.mono)
        return Instant(instant.mono + late, instant.wall + late)

    def judge(self, row: Known, token: Secret | None, own: Secret | None, now: Instant) -> RetryDecision:
        """Decide what follows an error. `token`: the refused token; `own`: the channel's own token, if it has one."""
        if self.exhausted(now) or row.action is Action.GIVE_UP:
            return RetryDecision(again=False)
        if row.action is not Action.REFRESH:
            return RetryDecision(again=True, slow=row.action is Action.SLOW_RETRY)
        before, self._refused = self._refused, (token,)
        if not same(token, own or self._context.tokens.current):
            return RetryDecision(again=True)  # the user has set a newer token in the meantime
        if own is not None or not self._context.tokens.has_provider or (row.once and before is not None):
            return RetryDecision(again=False)
        stuck = before is not None and same(before[0], token)
        return RetryDecision(again=True, slow=stuck, stuck=stuck)

    def may_recount(self, now: Instant) -> bool:
        """Return whether to retry once after "too many channels", at most once per subscribe.

        The server's count lags: it may still include a channel that was just left. Our own count is exact, and we never
        request more than `limits.channels`, so if that limit is set, the error is final only the second time.
        """
        first, self._recounted = not self._recounted, True
        return first and not self.exhausted(now) and self._context.options.limits.channels is not None

    def wait(self, now: Instant, *, slow: bool = False) -> None:
        """Set the deadline of the next join after the backoff."""
        backoff = self._context.options.rejoin_backoff
        self._context.wait(TimerKey(TimerKind.REJOIN, self._topic), backoff, self._attempts, now, slow=slow)
        self._attempts += 1

    def wait_for(self, seconds: float, now: Instant) -> None:
        """Set the deadline of the next join after the delay from the user's backoff function."""
        self._context.timers.set(TimerKey(TimerKind.REJOIN, self._topic), now.mono + seconds)

    def exhausted(self, now: Instant) -> bool:
        """Return whether the maximum number of attempts or the maximum duration is reached."""
        if self._failing_since is None:
            self._failing_since = now.mono
        backoff = self._context.options.rejoin_backoff
        return backoff is not None and backoff.ends(self._attempts, now.mono - self._failing_since)


_NO_REFS: Final[tuple[str | None, ...]] = ()


class Membership:
    """The successive joins of one topic."""

    def __init__(self, context: Context, joins: JoinQueue, topic: str, options: ChannelOptions) -> None:
        self.topic = topic
        self.name: str = topic.removeprefix(frames.PREFIX)
        self.options = options
        self.parts: Final = Parts.of(context, topic, self.name, options)
        self.index: Final = self.parts.index
        self.gaps: Final = self.parts.gaps
        self.state: ChannelState = ChannelState.IDLE
        self.error: RealtimeError | None = None
        """Why the channel is not joined."""
        self.wanted: bool = False
        self.token: Secret | None = options.secret
        """The channel's own token, used instead of the client's."""
        self.accepted_refs: tuple[str | None, ...] = _NO_REFS
        """The join_refs accepted on data frames: None and that of the active join."""
        self.active_join: Join | None = None
        self.sent_token: Secret | None = None
        """The last token that the server has received for this channel."""
        self.ever_joined: bool = False
        """Whether a join has succeeded since the user subscribed."""
        self._context = context
        self._joins = joins
        self.rejoin: Final = Rejoin(context, topic)
        self.pending_join: Join | None = None
        self._leaving: tuple[str, str] | None = None
        """Refs of the join that is being left, and of the leave."""
        self._leavers: tuple[Ticket, ...] = ()
        self._marked_at: float | None = None
        """Send time of the heartbeat whose reply follows all replayed messages."""
        self.close_reason: Reading | None = None
        """Why the server is about to close the channel, if it has announced that."""

    @property
    def ready(self) -> bool:
        """Whether the channel is joined and all events that its listeners want are requested and live."""
        return self.state is ChannelState.JOINED and self.parts.readiness.is_ready and not self.missing_kinds

    # --- user requests

    def want(self, now: Instant) -> None:
        """Join, and rejoin until left."""
        if not self.wanted or self.state is ChannelState.FAILED:
            self.rejoin.reset()
        if not self.wanted:
            self.wanted, self.ever_joined = True, False
        self.move(ChannelOn.SUBSCRIBE, now)

    def leave(self, ticket: Ticket | None, bound: float, now: Instant) -> None:
        """Leave. The ticket resolves when the server confirms, or after `bound` seconds."""
        self.wanted = False
        if ticket is not None:
            self._leavers += (ticket,)
        left = StateError("the channel was left", topic=self.name)
        self.parts.waiters.fail(left)
        self.parts.outbox.fail(left)
        self._joins.withdraw(self)
        was, join = self.state, self.pending_join or self.active_join
        self.move(ChannelOn.UNSUBSCRIBE, now)
        if self.state is not ChannelState.LEAVING:
            self._left(now)
        elif was is not ChannelState.LEAVING and join is not None:
            self._end_join(left)
            self._leaving = join.ref, self._push_leave(join.ref, now)
            self._context.timers.set(TimerKey(TimerKind.LEAVE_TIMEOUT, self.topic), now.mono + bound)

    def renew(self, now: Instant) -> None:
        """Join again with a new token after a failure with the old one."""
        self.rejoin.reset()
        self.move(ChannelOn.SUBSCRIBE, now)

    def tell_token(self, now: Instant) -> None:
        """Send the current token to the server if it changed. The server does not reply."""
        token = self.token or self._context.tokens.current
        if self.state is not ChannelState.JOINED or self.active_join is None or same(token, self.sent_token):
            return
        if taken_back(self.sent_token, token):
            self.rejoin_if_needed(now)
            return
        self.sent_token = token
        self.parts.readiness.prompted(now)
        if (shown := on_wire(token)) is not None:
            refs = self.active_join.ref, self._context.next_ref()
            data = self._context.codec.encode(*refs, self.topic, frames.ACCESS_TOKEN, {"access_token": shown})
            self._context.transmit(data, secret=True)

    def rejoin_if_needed(self, now: Instant) -> None:
        """Schedule a rejoin if one is needed, at most one per event-loop iteration.

        The deadline is now, so the shell handles it after the current call: several changes share one join.
        """
        if not self.needs_rejoin:
            self.settle_waiters()
            self.events_flow(now)
        elif not self._joins.waits(self):
            if lost := self.missing_kinds & self.index.kinds():  # a rejoin for `track` loses nothing
                self.gaps.open(now, REJOIN, lost)
            self._context.timers.set(TimerKey(TimerKind.JOIN_AGAIN, self.topic), now.mono)

    def close(self, error: RealtimeError | None, now: Instant) -> None:
        """Close permanently: the channel was removed, the client closed, or the connection ended."""
        if self.state is ChannelState.CLOSED:
            return
        final = error or ClosedError("the channel was closed", topic=self.name)
        for pending in self._context.replies.forget(self.topic):
            self._context.tickets.resolve(pending.ticket, final)
        join = self.pending_join or self.active_join
        if error is None and join is not None and self._joins.is_open:
            self._push_leave(join.ref, now)
        self.wanted = False
        self._joins.withdraw(self)
        self._finish(final)
        self.move(ChannelOn.CLOSE, now, error)
        self._left(now)
        self._context.effects.append(Ended(self.topic, error))

    # --- the join

    def go(self, now: Instant) -> str:
        """Send the join with the current listeners, token and replay position, and return its ref."""
        if self.state is ChannelState.JOINED:
            self.move(ChannelOn.CHANGED, now)
            self.parts.tracking.ended(None)
            self.gaps.open(self.rejoin.since(self._joins.stalled_since(now)), REJOIN, self.index.kinds())
        else:
            self.move(ChannelOn.GO, now)
        self._marked_at = None
        token = self.token or self._context.tokens.current
        join = Join(self._context.next_ref(), self.index.bindings, self.parts.wants_presence(self.options), token)
        self.pending_join = join
        payload = join_payload(join, self.options, self.gaps.replay())
        data = self._context.codec.encode(join.ref, join.ref, self.topic, frames.JOIN, payload)
        self._context.transmit(data, secret=True)
        return join.ref

    def held(self, held: bool, now: Instant) -> None:
        """Pause or resume the waiters' timeouts while other channels delay this one."""
        self.parts.waiters.pause(held, now.mono)

    def accepted(self, ref: str, response: Raw, now: Instant) -> None:
        """Handle an ok reply to the join with this ref."""
        join = self.pending_join
        if join is None or join.ref != ref:
            return
        self.active_join, self.pending_join = join, None
        self.sent_token = join.token
        self.accepted_refs = None, ref
        self.error = self.close_reason = None
        self.ever_joined = True
        ids, errors = binding_ids(join.bindings, response, self.name)
        self.index.joined(ids)
        self.parts.roster.joined(enabled=join.presence)
        self.parts.readiness.joined(join, self.options)
        self.rejoin.joined(now)
        self.gaps.joined()
        self.move(ChannelOn.OK, now)
        self.tell_token(now)
        for error in errors:
            self._context.report(BindingMismatch(error, self.name))
        self.settle_waiters()
        self.parts.tracking.joined(ref)
        if not self.needs_rejoin:  # otherwise the join that follows sends it
            self.parts.tracking.advance(now)
        self.parts.outbox.flush(ref, now)
        self.rejoin_if_needed(now)

    def settle_waiters(self) -> None:
        """Resolve the callers whose state is reached, or can never be reached, while joined.

        Callers that wait for "ready" also wait for the next join if the active one lacks what a listener wants.
        """
        if self.state is not ChannelState.JOINED:
            return
        self.parts.waiters.joined(ready=self.ready)
        if self.parts.readiness.hopeless is not None and not self.missing_kinds:
            self.parts.waiters.unready(self.parts.readiness.hopeless)

    @property
    def keyed(self) -> bool:
        """Whether joins carry the project's API key because there is no token."""
        return self.token is None and self._context.tokens.current is None

    def refused(self, ref: str, reason: str, now: Instant) -> None:
        """Handle an error reply to the join with this ref."""
        if self.pending_join is not None and self.pending_join.ref == ref:
            self._fail(classify_join(reason), join_error(reason, self.name, keyed=self.keyed), "join_refused", now)

    def blocked(self, error: RealtimeError, now: Instant) -> None:
        """Handle that the provider failed before its first token: keep waiting, or give up on a permanent error."""
        if error.retryable:
            self.error = error
        else:
            self._give_up(error, now)

    def join_timed_out(self, ref: str, now: Instant) -> None:
        """Leave and retry an unanswered join. Without the leave the server could keep a join that we do not track."""
        if self.pending_join is None or self.pending_join.ref != ref:
            return
        if self.active_join is not None and self.accepted_refs:
            self._push_leave(self.active_join.ref, now)  # still joined if the server did not process the new join
        self._push_leave(ref, now)
        error = OperationTimeout("the server did not answer the join in time", topic=self.name)
        self.error = error
        self._lose_join("join_timeout", error, now)
        self.move(ChannelOn.TIMEOUT, now, error)
        if self.rejoin.exhausted(now):
            self._give_up(error, now)
        else:
            self.rejoin.wait(now)

    def closed(self, ref: str | None, *, crashed: bool, now: Instant) -> bool:
        """Handle `phx_close` or `phx_error`. Return False if it belongs to an older join."""
        if self._leaving is not None and ref == self._leaving[0]:
            self._left(now)
            return True
        if self.active_join is None or ref != self.active_join.ref:
            return False
        if self.state is ChannelState.REJOINING:
            self.accepted_refs = _NO_REFS  # the join that replaces it was already sent
        elif (
            self.close_reason is not None and self.close_reason.row is not None and self.close_reason.error is not None
        ):
            self._fail(self.close_reason.row, self.close_reason.error, "channel_closed", now)
        else:
            what = "the channel crashed on the server" if crashed else "the server closed the channel"
            error = ServerError(what, topic=self.name, retryable=True)
            self._fail(classify_join(""), error, "channel_crashed" if crashed else "channel_closed", now)
        return True

    def leave_answered(self, ref: str | None, now: Instant) -> None:
        """Handle the reply to a leave."""
        if self._leaving is not None and ref == self._leaving[1]:
            self._left(now)

    def leave_late(self, now: Instant) -> None:
        """Complete the leave without a reply, because its time limit has passed."""
        if self._leaving is not None:
            self._left(now)

    def connection_lost(self, error: ConnectionLostError, last_received_at: Instant, now: Instant) -> None:
        """Handle that the connection was lost."""
        if self.state is ChannelState.LEAVING:
            self._left(now)
        elif self.state in (ChannelState.JOINING, ChannelState.REJOINING, ChannelState.JOINED, ChannelState.RETRYING):
            self.error = error
            self._lose_join("connection_lost", error, self.rejoin.since(last_received_at))
            self.rejoin.ended(now)
            self.move(ChannelOn.CONNECTION_LOST, now, error)

    def delay_ready(self, seconds: float, now: Instant) -> None:
        """Set the rejoin timer to the result of the user's backoff function."""
        if self.state is ChannelState.RETRYING:
            self.rejoin.wait_for(seconds, now)

    def events_flow(self, now: Instant) -> None:
        """Report the open gap if all events arrive again, once the replayed messages have arrived."""
        if not self.gaps.is_open or not self._flows:
            return
        if not self.gaps.replay_pending:
            self._tell_gap(now)
        elif self._marked_at is None and self._context.timers.deadline(TimerKey(TimerKind.GAP, self.topic)) is None:
            self._context.timers.set(TimerKey(TimerKind.GAP, self.topic), now.mono + SETTLED)

    def retry_due(self, now: Instant) -> None:
        """Start the next join: the backoff is over."""
        if self.state is ChannelState.RETRYING:
            self.move(ChannelOn.DUE, now)

    def again_due(self, now: Instant) -> None:
        """Request the join that `rejoin_if_needed` scheduled, if it is still needed."""
        if self.parts.tracking.busy:
            return  # else its presence_diff is sent to the old join but arrives on the new one: a stale entry of ours
        if self.needs_rejoin:
            self._joins.want(self, now)
        else:
            self.parts.tracking.advance(now)  # send what was postponed to the join that is no longer needed
            self.settle_waiters()
            self.events_flow(now)

    def gap_due(self, now: Instant) -> None:
        """Send a heartbeat whose reply follows the replayed messages, since the server has queued them by now.

        It has no timeout, because it waits behind the messages and behind joins. The regular heartbeats detect a dead
        connection.
        """
        if self.gaps.replay_pending:
            self._marked_at = now.mono
            self._context.push(frames.HEARTBEAT, {}, now)
        elif self._flows:
            self._tell_gap(now)

    def beat_answered(self, sent_at: float, now: Instant) -> None:
        """Handle the reply to the heartbeat sent at `sent_at`: everything that was queued before it has arrived."""
        if self._marked_at is not None and sent_at >= self._marked_at:
            self._marked_at = None
            self.gaps.replay_ended()
            self.events_flow(now)

    # --- internal

    @property
    def _flows(self) -> bool:
        """Whether all wanted events are arriving, as far as is known."""
        return self.state is ChannelState.JOINED and self.parts.readiness.changes_live and not self.missing_kinds

    def _tell_gap(self, now: Instant) -> None:
        if (gap := self.gaps.close(now)) is None:
            return
        reported = self.parts.readiness.hopeless is not None  # already reported as an error, with more detail
        if not self.index.gaps and not self._context.watchers and not reported:
            self._context.report(GapReported(gap))
        self._context.deliver((*self.index.gaps, *self._context.watchers), (gap,))

    @property
    def needs_rejoin(self) -> bool:
        """Whether another join is needed: to request missing events, or to make the server drop a token."""
        newest = self.token or self._context.tokens.current
        return bool(self.missing_kinds) or (self.state is ChannelState.JOINED and taken_back(self.sent_token, newest))

    @property
    def missing_kinds(self) -> frozenset[str]:
        """The kinds of wanted events that the active join did not request."""
        return self.parts.unmet(self.active_join if self.state is ChannelState.JOINED else None, self.options)

    def _fail(self, row: Known, error: RealtimeError, reason: str, now: Instant) -> None:
        """Handle a join that was refused, closed or crashed, according to the error table."""
        join = self.pending_join or self.active_join
        self.error = error
        self.rejoin.ended(now)
        verdict = self.rejoin.judge(row, join.token if join else None, self.token, now)
        if not verdict.again and row.code == CHANNEL_LIMIT and self.rejoin.may_recount(now):
            verdict = RetryDecision(again=True)
        self._lose_join(reason, error, self._joins.stalled_since(now))
        if not verdict.again:
            self._give_up(error, now)
            return
        if verdict.stuck:
            stuck = AuthError("the token provider gives a token again that the server refused", topic=self.name)
            stuck.__cause__ = error
            self._context.report(TokenFailed(stuck, self.name))
        self.move(ChannelOn.RETRY, now, error)
        self.rejoin.wait(now, slow=verdict.slow)

    def _give_up(self, error: RealtimeError, now: Instant) -> None:
        """Stop joining; only the user can start again."""
        self.move(ChannelOn.GIVE_UP, now, error)
        self._finish(error)
        self._context.effects.append(Ended(self.topic, error))

    def _lose_join(self, reason: str, error: RealtimeError, since: Instant) -> None:
        """End a join although the user did not leave. If it was active, open a gap that starts at `since`."""
        if self.active_join is not None:
            self.gaps.open(since, reason, self.index.kinds())
        self._end_join(error)

    def _end_join(self, error: RealtimeError) -> None:
        """Discard all state of the join, and fail its pending pushes with `error` as the cause."""
        self.pending_join = self.active_join = self.close_reason = self._marked_at = None
        self.accepted_refs = _NO_REFS
        self.gaps.ended()
        self._joins.withdraw(self)
        for kind in (TimerKind.REJOIN, TimerKind.JOIN_AGAIN, TimerKind.GAP, TimerKind.OUTBOX):
            self._context.timers.cancel(TimerKey(kind, self.topic))
        for pending in self._context.replies.forget(self.topic):
            unanswered = ConnectionLostError("the channel ended before the reply", maybe_sent=True, topic=self.name)
            unanswered.__cause__ = error
            self._context.tickets.resolve(pending.ticket, unanswered)
        self.parts.tracking.ended(error)

    def _finish(self, error: RealtimeError) -> None:
        """Fail all waiting callers, because the channel ended without a leave of the user."""
        self.error = error
        self._end_join(error)
        self.parts.waiters.fail(error)
        self.parts.outbox.fail(error)

    def _left(self, now: Instant) -> None:
        """Complete a leave."""
        self._leaving = None
        self._context.timers.cancel(TimerKey(TimerKind.LEAVE_TIMEOUT, self.topic))
        self._end_join(StateError("the channel was left", topic=self.name))
        self.parts.roster.clear()
        self._tell_gap(now)  # events missed so far cannot be recovered
        self.gaps.forget()
        if self.state is ChannelState.LEAVING:
            self.move(ChannelOn.LEFT_WANTED if self.wanted else ChannelOn.LEFT, now)
        if not self.wanted and self.state is ChannelState.IDLE:
            self.error = None
            self._context.effects.append(Ended(self.topic))
        leavers, self._leavers = self._leavers, ()
        for ticket in leavers:
            self._context.tickets.resolve(ticket, None)

    def _push_leave(self, join_ref: str, now: Instant) -> str:
        timeout = self._context.options.timeout
        return self._context.push(frames.LEAVE, {}, now, topic=self.topic, join_ref=join_ref, timeout=timeout)

    def move(self, on: ChannelOn, now: Instant, cause: RealtimeError | None = None, *, announce: bool = False) -> None:
        move = CHANNEL.get((self.state, on))
        if move is None:
            self._context.impossible(f"the channel {self.name}", self.state, on)
            return
        previous, self.state = self.state, move.next  # the only assignment of a channel's state
        if previous is not self.state or announce:
            self._context.announce(Status(self.name, self.state, previous, cause, self.ready), self.index.status)
        if self.state is ChannelState.WAITING and previous is not self.state:
            self._joins.want(self, now)
