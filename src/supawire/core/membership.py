"""The life cycle of a channel's joins: request, queue, send, reply, retry, rejoin, close, leave.

`Membership` is a state machine, one for each channel. Its only entry is `handle(event, now)`; the events are the
classes below. Handling an event changes the state as the table `states.CHANNEL` says and appends effects. It never
starts another join and never calls the machine again: a channel that becomes WAITING is put into the join queue, and
`send_joins`, which the session calls after each input, sends the joins that may be sent now.

Everything that the server assigns belongs to one join and is replaced by the next one: binding ids, presence state and
readiness. Frames of an older join are recognised by their join_ref and dropped. What the user wants of the topic is
recorded in `channel`.

`RetryPolicy` decides what follows when a join is refused or ends: retry, retry more slowly, retry with a fresh token,
or give up. `Waiters` are the callers that wait for a join.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from msgspec import Raw, Struct

from supawire._server_errors import Action, Known, classify_join, join_error
from supawire.core import frames
from supawire.core.codec import items, members, read
from supawire.core.context import Context
from supawire.core.effects import BindingMismatch, ChangesFailed, Ended, GapReported, Ticket, TokenFailed
from supawire.core.gaps import REJOIN_REASON, REPLAY_QUEUE_TIME, RESUME_REASON, Gaps
from supawire.core.join_queue import JoinQueue
from supawire.core.listeners import Index
from supawire.core.outbox import ChannelOutbox
from supawire.core.presence import ChannelPresence
from supawire.core.presence_tracking import PresenceTracking
from supawire.core.readiness import ChannelReadiness, SystemMeaning, SystemReading
from supawire.core.requests import TimerKey, TimerKind
from supawire.core.states import CHANNEL, ChannelTrigger
from supawire.core.token import must_drop_token, on_wire, same
from supawire.errors import (
    AuthError,
    ClosedError,
    ConnectionLostError,
    JoinError,
    OperationTimeout,
    RealtimeError,
    ServerError,
    StateError,
)
from supawire.events import ChannelState, Instant, Status, System
from supawire.options import ChannelOptions, Secret
from supawire.selectors import ANY, ChangesSelector

# --- events


class Waiter(Struct):
    """One caller. `remaining`: seconds, None for no limit; `running_since`: None while paused."""

    ticket: Ticket
    ready: bool
    remaining: float | None
    ignore_queue_time: bool
    running_since: float | None = None


class Subscribe(Struct, frozen=True):
    """The user wants to be joined, and rejoined until left. The waiter is resolved when joined or ready."""

    waiter: Waiter


class Leave(Struct, frozen=True):
    """The user wants to leave. The ticket resolves when the server confirms, or after `timeout` seconds.

    withdrawn: the subscribe failed before the join, and counts as if it had never been called.
    """

    ticket: Ticket | None
    timeout: float
    withdrawn: bool = False


class CloseChannel(Struct, frozen=True):
    """The channel was removed, the client was closed, or the connection ended with this error."""

    error: RealtimeError | None


class RequirementsChanged(Struct, frozen=True):
    """Listeners or presence changed, so that the active join may lack something."""


class ChannelTokenSet(Struct, frozen=True):
    """The channel has this token of its own from now on; None: it uses the client's."""

    token: Secret | None


class TokenChanged(Struct, frozen=True):
    """The client's token changed."""


class TokenUnavailable(Struct, frozen=True):
    """The token provider failed before its first token."""

    error: RealtimeError


class SendJoin(Struct, frozen=True):
    """The channel is the next of the join queue."""


class JoinAccepted(Struct, frozen=True):
    """An ok reply to the join with this ref."""

    ref: str
    response: Raw


class JoinRejected(Struct, frozen=True):
    """An error reply to the join with this ref. `elsewhere`: the channel joins again on another socket."""

    ref: str
    reason: str
    elsewhere: bool = False


class JoinTimedOut(Struct, frozen=True):
    """The join with this ref was not answered in time."""

    ref: str


class RetryDelay(Struct, frozen=True):
    """The user's backoff function returned these seconds."""

    seconds: float


class RetryDue(Struct, frozen=True):
    """The backoff before the next join is over."""


class RejoinDue(Struct, frozen=True):
    """The call is over that changed what a joined channel requires."""


class ServerClosed(Struct, frozen=True):
    """The server sent `phx_close`, or `phx_error` if `crashed`, for the join with this ref."""

    ref: str | None
    crashed: bool


class SystemReceived(Struct, frozen=True):
    """A `system` message for the active join."""

    message: System


class ChangeMissed(Struct, frozen=True):
    """A frame that may have been a change of this channel could not be read."""


class GapDue(Struct, frozen=True):
    """The server has queued all replayed messages by now."""


class HeartbeatAnswered(Struct, frozen=True):
    """The reply to the heartbeat sent at this time: all frames that the server queued before it have arrived."""

    sent_at: float


class ConnectionLost(Struct, frozen=True):
    """The connection was lost. Frames may be missing since `last_received_at`."""

    error: ConnectionLostError
    last_received_at: Instant


class LeaveAnswered(Struct, frozen=True):
    """The reply to the leave with this ref."""

    ref: str | None


class LeaveTimedOut(Struct, frozen=True):
    """The time limit of the leave has passed."""


Event = (
    Subscribe
    | Leave
    | CloseChannel
    | RequirementsChanged
    | ChannelTokenSet
    | TokenChanged
    | TokenUnavailable
    | SendJoin
    | JoinAccepted
    | JoinRejected
    | JoinTimedOut
    | RetryDelay
    | RetryDue
    | RejoinDue
    | ServerClosed
    | SystemReceived
    | ChangeMissed
    | GapDue
    | HeartbeatAnswered
    | ConnectionLost
    | LeaveAnswered
    | LeaveTimedOut
)


class Join(Struct, frozen=True):
    """One join as requested. It is active from the server's ok reply until it ends."""

    ref: str
    bindings: tuple[ChangesSelector[Any], ...] = ()
    presence: bool = False
    token: Secret | None = None


class _PendingLeave(NamedTuple):
    join_ref: str
    ref: str


_NO_REFS: Final[tuple[str | None, ...]] = ()

_NOTHING: Final = frozenset[str]()
_CHANGES: Final = frozenset({"changes"})
_PRESENCE: Final = frozenset({"presence"})

_REPLACED: Final = 60.0
"""Seconds for which changes may have been missing before the server reports a new subscription; 37 were measured."""

WAIT_GRACE: Final = 10.0
"""Seconds after the end of a `wait` in which the server may still answer: a refusal is held back for 5 s."""

CHANNEL_LIMIT: Final = "ChannelRateLimitReached"
"""Error code of a join that is refused because the connection has too many channels."""


# --- the machine


class Membership:
    """The successive joins of one topic."""

    __slots__ = (
        "_context", "_joins", "_leave_tickets", "_pending_leave", "_retry", "accepted_refs", "active_join", "begun",
        "close_reason", "error", "ever_joined", "gap_count", "gap_heartbeat_at", "gaps", "index", "join_count", "name",
        "options", "outbox", "pending_join", "presence", "readiness", "received", "sent_token", "state", "token",
        "topic", "tracking", "waiters", "wanted",
    )  # fmt: skip

    def __init__(self, context: Context, joins: "JoinQueue[Membership]", topic: str, options: ChannelOptions) -> None:
        self._context = context
        self._joins = joins
        self.topic: Final = topic
        self.name: Final = topic.removeprefix(frames.PREFIX)
        self.options: Final = options
        self.index: Final = Index()
        self.presence: Final = ChannelPresence(self.name)
        self.gaps: Final = Gaps(self.name, options, context.server_clock)
        self.tracking: Final = PresenceTracking(context, topic, self.name)
        self.outbox: Final = ChannelOutbox(context, topic, self.name)
        self.waiters: Final = Waiters(context, topic)
        self.readiness: Final = ChannelReadiness()
        self._retry: Final = RetryPolicy(context, topic)
        self.state: ChannelState = ChannelState.IDLE
        self.error: RealtimeError | None = None
        """Why the channel is not joined."""
        self.wanted: bool = False
        """Whether the user wants to be joined."""
        self.begun: bool = False
        """Whether the user ever subscribed or unsubscribed, not counting a subscribe withdrawn before the join."""
        self.ever_joined: bool = False
        """Whether a join has succeeded since the user subscribed."""
        self.token: Secret | None = options.secret
        """The channel's own token, used instead of the client's."""
        self.sent_token: Secret | None = None
        """The last token that the server has received for this channel."""
        self.pending_join: Join | None = None
        """The join that is sent and not answered."""
        self.active_join: Join | None = None
        self.accepted_refs: tuple[str | None, ...] = _NO_REFS
        """The join_refs accepted on data frames: None and that of the active join."""
        self.close_reason: SystemReading | None = None
        """Why the server is about to close the channel, if it has announced that."""
        self.gap_heartbeat_at: float | None = None
        """Send time of the heartbeat whose reply follows all replayed messages."""
        self.received: int = 0
        """Broadcasts and changes received. Counted in the hot path, so every other frame is counted elsewhere."""
        self.join_count: int = 0
        self.gap_count: int = 0
        self._pending_leave: _PendingLeave | None = None
        self._leave_tickets: tuple[Ticket, ...] = ()

    def handle(self, event: Event, now: Instant) -> None:  # noqa: C901, PLR0912  one case for each event
        """Change the state as the event requires, and put the channel into the join queue if it waits for a join."""
        previous = self.state
        match event:
            case Subscribe(waiter):
                self._subscribe(waiter, now)
            case RequirementsChanged():
                self._rejoin_if_needed(now)
            case RejoinDue():
                self._rejoin(now)
            case ChannelTokenSet(token):
                self._set_token(token, now)
            case TokenChanged():
                self._token_changed(now)
            case TokenUnavailable(error):
                self._token_unavailable(error, now)
            case SendJoin():
                self._send_join(now)
            case JoinAccepted(ref, response):
                self._accepted(ref, response, now)
            case JoinRejected(ref, reason, elsewhere):
                self._refused(ref, reason, now, elsewhere=elsewhere)
            case JoinTimedOut(ref):
                self._timed_out(ref, now)
            case RetryDelay(seconds):
                self._retry_after(seconds, now)
            case RetryDue():
                self._retry_due(now)
            case SystemReceived(message):
                self._system(message, now)
            case ChangeMissed():
                self._change_missed(now)
            case GapDue():
                self._gap_due(now)
            case HeartbeatAnswered(sent_at):
                self._heartbeat_answered(sent_at, now)
            case ServerClosed(ref, crashed):
                self._closed_by_server(ref, crashed, now)
            case ConnectionLost(error, last_received_at):
                self._connection_lost(error, last_received_at, now)
            case Leave():
                self._leave(event, now)
            case LeaveAnswered(ref):
                self._leave_answered(ref, now)
            case LeaveTimedOut():
                self._leave_timed_out(now)
            case CloseChannel(error):
                self._close(error, now)
        if self.state is ChannelState.WAITING and previous is not ChannelState.WAITING:
            self._queue(now)

    def use_socket(self, context: Context, joins: "JoinQueue[Membership]", now: Instant) -> None:
        """Use another socket from now on. The channel must have no join, and no leave that is not answered."""
        self._joins.withdraw(self)
        self._context, self._joins = context, joins
        for part in (self.tracking, self.outbox, self.waiters, self._retry):
            part.use_socket(context)
        if self.state is ChannelState.WAITING:
            self._queue(now)

    @property
    def has_join(self) -> bool:
        """Whether the server has, or may have, a join of this channel."""
        joins = self.pending_join, self.active_join, self._pending_leave
        return any(join is not None for join in joins)

    def send_joins(self, now: Instant) -> None:
        """Send the joins of this channel's socket that may be sent now."""
        send_joins(self._joins, now)

    def _move(self, on: ChannelTrigger, cause: RealtimeError | None = None, *, announce: bool = False) -> None:
        """Change the state as the table says. Watchers are notified of a new state, or of any with `announce`."""
        move = CHANNEL.get((self.state, on))
        if move is None:
            self._context.report_missing_transition(f"the channel {self.name}", self.state, on)
            return
        previous, self.state = self.state, move.next  # the only assignment of a channel's state
        if previous is not self.state or announce:
            self._context.announce(Status(self.name, self.state, previous, cause, self.ready), self.index.status)

    # --- what the active join lacks

    @property
    def reply_delay(self) -> float:
        """How many seconds the server may hold the reply to a join, at most."""
        held = self.options.wait_seconds
        return 0.0 if held is None or not self.index.bindings else held + WAIT_GRACE

    @property
    def ready(self) -> bool:
        """Whether the channel is joined and all events that its listeners want are requested and live."""
        return self.state is ChannelState.JOINED and self.readiness.is_ready and not self.missing_kinds

    @property
    def missing_kinds(self) -> frozenset[str]:
        """The kinds of wanted events that the active join did not request."""
        join = self.active_join
        if join is None or self.state is not ChannelState.JOINED:
            return _NOTHING
        presence = _PRESENCE if not join.presence and self._wants_presence else _NOTHING
        return presence | _CHANGES if self.index.lacks_binding(join.bindings) else presence

    @property
    def needs_rejoin(self) -> bool:
        """Whether another join is needed: to request missing events, or to make the server drop a token."""
        return bool(self.missing_kinds) or (self.state is ChannelState.JOINED and self._token_taken_back)

    @property
    def _wants_presence(self) -> bool:
        """Whether the next join enables presence: there is a listener, a presence key or a payload to track."""
        return (
            self.index.has_presence
            or self.options.presence_key is not None
            or self.tracking.desired_payload is not None
        )

    @property
    def _newest_token(self) -> Secret | None:
        return self.token or self._context.tokens.current

    @property
    def _token_taken_back(self) -> bool:
        return must_drop_token(self.sent_token, self._newest_token)

    @property
    def _sends_api_key(self) -> bool:
        """Whether joins carry the project's API key because there is no token."""
        return self._newest_token is None

    # --- request a join

    def _subscribe(self, waiter: Waiter, now: Instant) -> None:
        self.begun = True
        self.waiters.add(waiter, now.mono)
        if not self.wanted or self.state is ChannelState.FAILED:
            self._retry.reset()
        if not self.wanted:
            self.wanted, self.ever_joined = True, False
        self._move(ChannelTrigger.SUBSCRIBE)
        self._resolve_waiters()

    def _queue(self, now: Instant) -> None:
        """Put the channel into the join queue. Timeouts run until the queue says that it delays the join."""
        self.waiters.pause(False, now.mono)
        self._joins.request(self, now)

    def pause_waiters(self, paused: bool, now: Instant) -> None:
        """Pause or resume the waiters' timeouts while the join queue delays this channel."""
        self.waiters.pause(paused, now.mono)

    def _rejoin_if_needed(self, now: Instant) -> None:
        if self.needs_rejoin:
            self._schedule_rejoin(now)
        else:
            self._resolve_waiters()
            self._report_gap_if_over(now)

    def _schedule_rejoin(self, now: Instant) -> None:
        """Schedule a rejoin, at most one per event-loop iteration.

        The deadline is now, so the shell handles it after the current call: several changes share one join.
        """
        if self._joins.is_waiting(self):
            return
        if lost := self.missing_kinds & self.index.kinds():  # a rejoin for `track` loses nothing
            self.gaps.open(now, REJOIN_REASON, lost)
        self._context.timers.set(TimerKey(TimerKind.REJOIN, self.topic), now.mono)

    def _rejoin(self, now: Instant) -> None:
        """Request the join that `_schedule_rejoin` scheduled, if it is still needed."""
        if self.tracking.busy:
            return  # else its presence_diff is sent to the old join but arrives on the new one: a stale entry of ours
        if self.needs_rejoin:
            self._queue(now)
        else:
            self.tracking.advance(now)  # send what was postponed to the join that is no longer needed
            self._resolve_waiters()
            self._report_gap_if_over(now)

    def _set_token(self, token: Secret | None, now: Instant) -> None:
        self.token = token
        self._token_changed(now)

    def _token_changed(self, now: Instant) -> None:
        """Send the token to the server, or join again after a failure with the old one."""
        if self.state is ChannelState.FAILED and self.wanted:
            self._retry.reset()
            self._move(ChannelTrigger.SUBSCRIBE)
        else:
            self._send_token(now)

    def _send_token(self, now: Instant) -> None:
        """Send the current token to the server if it changed. The server does not reply."""
        join, token = self.active_join, self._newest_token
        if self.state is not ChannelState.JOINED or join is None or same(token, self.sent_token):
            return
        if must_drop_token(self.sent_token, token):
            self._schedule_rejoin(now)
            return
        self.sent_token = token
        self.readiness.token_sent(now)
        if (wire_token := on_wire(token)) is not None:
            refs = join.ref, self._context.next_ref()
            data = self._context.codec.encode(*refs, self.topic, frames.ACCESS_TOKEN, {"access_token": wire_token})
            self._context.transmit(data, secret=True)

    def _token_unavailable(self, error: RealtimeError, now: Instant) -> None:
        """Keep waiting for a token, or give up on a permanent error."""
        if self.state is not ChannelState.WAITING:
            return
        if error.retryable:
            self.error = error
        else:
            self._give_up(error)

    # --- send it

    def _send_join(self, now: Instant) -> None:
        """Send the join with the current listeners, token and replay position."""
        if self.state is ChannelState.JOINED:
            self._move(ChannelTrigger.CHANGED)
            self.tracking.ended(None)
            self.gaps.open(
                self._retry.not_before_join(self._joins.stalled_since(now)), REJOIN_REASON, self.index.kinds()
            )
        else:
            self._move(ChannelTrigger.SEND)
        self.gap_heartbeat_at = None
        self.join_count += 1
        join = Join(self._context.next_ref(), self.index.bindings, self._wants_presence, self._newest_token)
        self.pending_join = join
        payload = join_payload(join, self.options, self.gaps.replay())
        data = self._context.codec.encode(join.ref, join.ref, self.topic, frames.JOIN, payload)
        self._context.transmit(data, secret=True)

    # --- its reply

    def _accepted(self, ref: str, response: Raw, now: Instant) -> None:
        join = self.pending_join
        if join is None or join.ref != ref:
            return
        self.active_join, self.pending_join = join, None
        self.accepted_refs = None, ref
        self.sent_token = join.token
        self.error = self.close_reason = None
        self.ever_joined = True
        ids, errors = binding_ids(join.bindings, response, self.name)
        self.index.joined(ids)
        self.presence.joined(enabled=join.presence)
        self.readiness.joined(changes=bool(join.bindings), replication=self.options.replication_ready)
        self._retry.joined(now)
        self.gaps.joined()
        self._move(ChannelTrigger.OK)
        self._send_token(now)
        for error in errors:
            self._context.report(BindingMismatch(error, self.name))
        self._resolve_waiters()
        self.tracking.joined(ref)
        needs_rejoin = self.needs_rejoin
        if not needs_rejoin:  # otherwise the join that follows sends it
            self.tracking.advance(now)
        self.outbox.flush(ref, now)
        if needs_rejoin:
            self._schedule_rejoin(now)
        else:
            self._report_gap_if_over(now)

    def _resolve_waiters(self) -> None:
        """Resolve the callers whose state is reached, or can never be reached, while joined.

        Callers that wait for "ready" also wait for the next join if the active one lacks what a listener wants.
        """
        if self.state is not ChannelState.JOINED or not self.waiters:
            return
        self.waiters.joined(ready=self.ready)
        if self.readiness.permanent_error is not None and not self.missing_kinds:
            self.waiters.unready(self.readiness.permanent_error)

    def _refused(self, ref: str, reason: str, now: Instant, *, elsewhere: bool) -> None:
        if self.pending_join is not None and self.pending_join.ref == ref:
            error = join_error(reason, self.name, keyed=self._sends_api_key)
            self._fail(classify_join(reason), error, "join_refused", now, elsewhere=elsewhere)

    def _timed_out(self, ref: str, now: Instant) -> None:
        """Leave and retry an unanswered join. Without the leave the server could keep a join that we do not track."""
        if self.pending_join is None or self.pending_join.ref != ref:
            return
        if self.active_join is not None and self.accepted_refs:
            self._push_leave(self.active_join.ref, now)  # still joined if the server did not process the new join
        self._push_leave(ref, now)
        error = OperationTimeout("the server did not answer the join in time", topic=self.name)
        self.error = error
        self._lose_join("join_timeout", error, now)
        self._move(ChannelTrigger.TIMEOUT, error)
        if self._retry.exhausted(now):
            self._give_up(error)
        else:
            self._retry.wait(now)

    # --- retry

    def _fail(self, row: Known, error: RealtimeError, reason: str, now: Instant, *, elsewhere: bool = False) -> None:
        """Handle a join that was refused, closed or crashed, according to the error table."""
        join = self.pending_join or self.active_join
        self.error = error
        self._retry.ended(now)
        decision = (
            RetryDecision(again=True)
            if elsewhere
            else self._retry.decide(row, join.token if join else None, self.token, now)
        )
        self._lose_join(reason, error, self._joins.stalled_since(now))
        if not decision.again:
            self._give_up(error)
            return
        if decision.same_token:
            repeated = AuthError(
                "the token provider returned the same token that the server refused before", topic=self.name
            )
            repeated.__cause__ = error
            self._context.report(TokenFailed(repeated, self.name))
        self._move(ChannelTrigger.RETRY, error)
        self._retry.wait(now, slow=decision.slow)

    def _retry_after(self, seconds: float, now: Instant) -> None:
        if self.state is ChannelState.RETRYING:
            self._retry.wait_for(seconds, now)

    def _retry_due(self, now: Instant) -> None:
        if self.state is ChannelState.RETRYING:
            self._move(ChannelTrigger.DUE)

    def _give_up(self, error: RealtimeError) -> None:
        """Stop joining; only the user can start again."""
        self._move(ChannelTrigger.GIVE_UP, error)
        self._finish(error)
        self._context.effects.append(Ended(self.topic, error))

    # --- while joined

    def _system(self, message: System, now: Instant) -> None:
        """Handle a `system` message: readiness, an error of Postgres changes, or the reason of an imminent close."""
        self._context.deliver(self.index.system, (message,))
        reading = self.readiness.read(message, now, keyed=self._sends_api_key)
        joined = self.state is ChannelState.JOINED  # else the message is about the join that is being replaced
        match reading.meaning:
            case SystemMeaning.READY:
                self._move(ChannelTrigger.RECOVERED, announce=True)
                self._resolve_waiters()
            case SystemMeaning.DEGRADED:
                since = self._retry.not_before_join(self._joins.stalled_since(now))  # maybe delayed behind a join
                self.gaps.open(since, "degraded", _CHANGES)
                self._move(ChannelTrigger.DEGRADED, reading.error, announce=True)
                if joined and reading.error is not None and reading.error is self.readiness.permanent_error:
                    self._resolve_waiters()
                    self._context.report(ChangesFailed(reading.error, self.name))
            case SystemMeaning.RESUBSCRIBED:  # also while rejoining: frames of the new join come only after its reply
                earlier = Instant(now.mono - _REPLACED, now.wall - _REPLACED)
                self.gaps.open(self._retry.not_before_join(earlier), "resubscribed", _CHANGES)
            case SystemMeaning.CLOSING:
                self.close_reason = reading
            case SystemMeaning.NOTHING:
                pass
        self._report_gap_if_over(now)

    def _change_missed(self, now: Instant) -> None:
        """Open a gap if there are change listeners."""
        if self.accepted_refs and self.index.bindings:
            self.gaps.open(now, "unreadable", _CHANGES)
            self._report_gap_if_over(now)

    def _report_gap_if_over(self, now: Instant) -> None:
        """Report the open gap if all events arrive again, once the replayed messages have arrived."""
        if not self.gaps.is_open or not self._events_arrive:
            return
        if not self.gaps.replay_pending:
            self._report_gap(now)
        elif (
            self.gap_heartbeat_at is None and self._context.timers.deadline(TimerKey(TimerKind.GAP, self.topic)) is None
        ):
            self._context.timers.set(TimerKey(TimerKind.GAP, self.topic), now.mono + REPLAY_QUEUE_TIME)

    def _gap_due(self, now: Instant) -> None:
        """Send a heartbeat whose reply follows the replayed messages, since the server has queued them by now.

        It has no timeout, because it waits behind the messages and behind joins. The regular heartbeats detect a dead
        connection.
        """
        if self.gaps.replay_pending:
            self.gap_heartbeat_at = now.mono
            self._context.push(frames.HEARTBEAT, {}, now)
        elif self._events_arrive:
            self._report_gap(now)

    def _heartbeat_answered(self, sent_at: float, now: Instant) -> None:
        if self.gap_heartbeat_at is not None and sent_at >= self.gap_heartbeat_at:
            self.gap_heartbeat_at = None
            self.gaps.replay_ended()
            self._report_gap_if_over(now)

    @property
    def _events_arrive(self) -> bool:
        """Whether all wanted events are arriving, as far as is known."""
        return self.state is ChannelState.JOINED and self.readiness.changes_live and not self.missing_kinds

    def _report_gap(self, now: Instant) -> None:
        if (gap := self.gaps.close(now)) is None:
            return
        self.gap_count += 1
        self._context.counts.gaps += 1
        reported = self.readiness.permanent_error is not None  # already reported as an error, with more detail
        reported = reported or gap.reason == RESUME_REASON  # concerns only the stream that has asked for it
        if not self.index.gaps and not self._context.watchers and not reported:
            self._context.report(GapReported(gap))
        self._context.deliver((*self.index.gaps, *self._context.watchers), (gap,))

    # --- the end of a join

    def _closed_by_server(self, ref: str | None, crashed: bool, now: Instant) -> None:
        """Handle `phx_close` or `phx_error`, of which the server sends one for each join that ends."""
        reason = self.close_reason
        if self._pending_leave is not None and ref == self._pending_leave.join_ref:
            self._left(now)
        elif self.active_join is None or ref != self.active_join.ref:  # of an older join
            self.presence.older_join_ended()
            self._context.counts.stale += 1
        elif self.state is ChannelState.REJOINING:
            self.accepted_refs = _NO_REFS  # the join that replaces it was already sent
        elif reason is not None and reason.row is not None and reason.error is not None:
            self._fail(reason.row, reason.error, "channel_closed", now)
        else:
            what = "the channel crashed on the server" if crashed else "the server closed the channel"
            error = ServerError(what, topic=self.name, retryable=True)
            self._fail(classify_join(""), error, "channel_crashed" if crashed else "channel_closed", now)

    def _connection_lost(self, error: ConnectionLostError, last_received_at: Instant, now: Instant) -> None:
        if self.state is ChannelState.LEAVING:
            self._left(now)
        elif self.state in (ChannelState.JOINING, ChannelState.REJOINING, ChannelState.JOINED, ChannelState.RETRYING):
            self.error = error
            self._lose_join("connection_lost", error, self._retry.not_before_join(last_received_at))
            self._retry.ended(now)
            self._move(ChannelTrigger.CONNECTION_LOST, error)

    def _lose_join(self, reason: str, error: RealtimeError, since: Instant) -> None:
        """End a join although the user did not leave. If it was active, open a gap that starts at `since`."""
        if self.active_join is not None:
            self.gaps.open(since, reason, self.index.kinds())
        self._end_join(error)

    def _end_join(self, error: RealtimeError) -> None:
        """Discard all state of the join, and fail its pending pushes with `error` as the cause."""
        self.pending_join = self.active_join = self.close_reason = self.gap_heartbeat_at = None
        self.accepted_refs = _NO_REFS
        self.gaps.ended()
        self._joins.withdraw(self)
        for kind in (TimerKind.JOIN_RETRY, TimerKind.REJOIN, TimerKind.GAP, TimerKind.OUTBOX):
            self._context.timers.cancel(TimerKey(kind, self.topic))
        for pending in self._context.replies.forget(self.topic):
            unanswered = ConnectionLostError("the channel ended before the reply", maybe_sent=True, topic=self.name)
            unanswered.__cause__ = error
            self._context.tickets.resolve(pending.ticket, unanswered)
        self.tracking.ended(error)

    def _finish(self, error: RealtimeError) -> None:
        """Fail all waiting callers, because the channel ended without a leave of the user."""
        self.error = error
        self._end_join(error)
        self.waiters.fail(error)
        self.outbox.fail(error)

    # --- leave and close

    def _leave(self, leave: Leave, now: Instant) -> None:
        self.begun = not leave.withdrawn  # so that iterators read later subscribe again instead of ending
        self.wanted = False
        if leave.ticket is not None:
            self._leave_tickets += (leave.ticket,)
        left = StateError("the channel was left", topic=self.name)
        self.waiters.fail(left)
        self.outbox.fail(left)
        self._joins.withdraw(self)
        previous, join = self.state, self.pending_join or self.active_join
        self._move(ChannelTrigger.UNSUBSCRIBE)
        if self.state is not ChannelState.LEAVING:
            self._left(now)
        elif previous is not ChannelState.LEAVING and join is not None:
            self._end_join(left)
            self._pending_leave = _PendingLeave(join.ref, self._push_leave(join.ref, now))
            self._context.timers.set(TimerKey(TimerKind.LEAVE_TIMEOUT, self.topic), now.mono + leave.timeout)

    def _push_leave(self, join_ref: str, now: Instant) -> str:
        timeout = self._context.options.timeout
        return self._context.push(frames.LEAVE, {}, now, topic=self.topic, join_ref=join_ref, timeout=timeout)

    def _leave_answered(self, ref: str | None, now: Instant) -> None:
        if self._pending_leave is not None and ref == self._pending_leave.ref:
            self._left(now)

    def _leave_timed_out(self, now: Instant) -> None:
        if self._pending_leave is not None:
            self._left(now)

    def _left(self, now: Instant) -> None:
        """Complete a leave."""
        self._pending_leave = None
        self._context.timers.cancel(TimerKey(TimerKind.LEAVE_TIMEOUT, self.topic))
        self._end_join(StateError("the channel was left", topic=self.name))
        self.presence.clear()
        self._report_gap(now)  # events missed so far cannot be recovered
        self.gaps.reset()
        if self.state is ChannelState.LEAVING:
            self._move(ChannelTrigger.LEFT_WANTED if self.wanted else ChannelTrigger.LEFT)
        if not self.wanted and self.state is ChannelState.IDLE:
            self.error = None
            self._context.effects.append(Ended(self.topic))
        tickets, self._leave_tickets = self._leave_tickets, ()
        for ticket in tickets:
            self._context.tickets.resolve(ticket, None)

    def _close(self, error: RealtimeError | None, now: Instant) -> None:
        """Close permanently."""
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
        self._move(ChannelTrigger.CLOSE, error)
        self._left(now)
        self._context.effects.append(Ended(self.topic, error))


def send_joins(joins: JoinQueue[Membership], now: Instant) -> None:
    """Send the joins that may be sent now. The session calls this after each input."""
    while (channel := joins.next(now)) is not None:
        _send(channel, joins, now)


def send_join(joins: JoinQueue[Membership], now: Instant) -> bool:
    """Send one join, if one may be sent now; return whether it was."""
    channel = joins.next(now)
    if channel is not None:
        _send(channel, joins, now)
    return channel is not None


def _send(channel: Membership, joins: JoinQueue[Membership], now: Instant) -> None:
    channel.handle(SendJoin(), now)
    if channel.pending_join is not None:
        joins.sent(channel, channel.pending_join.ref, now)


# --- what a join requests, and what its reply confirms


def join_payload(join: Join, options: ChannelOptions, replay: dict[str, int] | None) -> dict[str, Any]:
    """Return the payload of `phx_join`. No member is ever null. See docs/protocol.md, Join payload."""
    broadcast: dict[str, Any] = {"self": options.echo, "ack": options.ack}
    if replay is not None:
        broadcast["replay"] = replay
    if options.replication_ready:
        broadcast["replication_ready"] = True
    presence: dict[str, Any] = {"enabled": join.presence}
    if options.presence_key is not None:
        presence["key"] = options.presence_key
    config: dict[str, Any] = {
        "broadcast": broadcast,
        "presence": presence,
        "postgres_changes": [binding.binding() for binding in join.bindings],
        "private": options.private,
    }
    if options.wait_seconds is not None and join.bindings:
        config["postgres_changes_options"] = {"wait": True, "timeout": max(1, round(options.wait_seconds * 1000))}
    wire_token = on_wire(join.token)
    return {"config": config} if wire_token is None else {"config": config, "access_token": wire_token}


_BINDING_DEFAULTS: Final[dict[str, Any]] = {"event": ANY, "schema": "public", "table": ANY, "filter": "", "select": []}


def binding_ids(
    bindings: Sequence[ChangesSelector[Any]], response: Raw, topic: str
) -> tuple[dict[ChangesSelector[Any], int], list[JoinError]]:
    """Return the server's id of each binding, and an error for each binding that was not confirmed as sent.

    See docs/protocol.md, Join reply.
    """
    if not bindings:
        return {}, []
    echoed = items((members(read(response)) or {}).get("postgres_changes"))
    ids: dict[ChangesSelector[Any], int] = {}
    errors: list[JoinError] = []
    for place, binding in enumerate(bindings):
        echo = members(echoed[place]) if place < len(echoed) else None
        number = echo.get("id") if echo is not None else None
        if isinstance(number, int) and not isinstance(number, bool):
            ids[binding] = number
        if binding not in ids or _plain(echo) != _plain(binding.binding()):
            errors.append(_mismatch(binding, echo, topic))
    return ids, errors


def _plain(binding: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a binding with defaults for missing and null members, and the event in upper case."""
    if binding is None:
        return None
    plain: dict[str, Any] = {name: binding.get(name) or default for name, default in _BINDING_DEFAULTS.items()}
    return {**plain, "event": str(plain["event"]).upper()}


def _mismatch(binding: ChangesSelector[Any], echo: Any, topic: str) -> JoinError:
    return JoinError(
        f"the server confirmed {binding.binding()} as {echo}: its changes may not arrive",
        topic=topic,
        retryable=True,
        hint="An older server ignores select and newer filters; compare its version with the documentation.",
    )


# --- when to join again


class RetryDecision(NamedTuple):
    """Whether to retry, and how."""

    again: bool
    slow: bool = False
    same_token: bool = False
    """The provider returned the same token that was refused before."""


class RetryPolicy:
    """Retry policy for the joins of one channel."""

    __slots__ = (
        "_attempts", "_context", "_failing_since", "_joined_at", "_refused_token", "_retried_at_limit",
        "_steady_after", "_topic",
    )  # fmt: skip

    def __init__(self, context: Context, topic: str, *, steady_after: float = 5.0) -> None:
        """Create the policy of a channel. steady_after: seconds joined after which the backoff restarts."""
        self._context = context
        self._topic = topic
        self._steady_after = steady_after
        self._attempts = 0
        self._failing_since: float | None = None
        self._joined_at: float | None = None
        self._refused_token: tuple[Secret | None] | None = None
        self._retried_at_limit = False

    def use_socket(self, context: Context) -> None:
        """Use the context of another socket."""
        self._context = context

    def reset(self) -> None:
        """Restart the attempts, because the user subscribed again."""
        self._attempts, self._failing_since, self._joined_at, self._refused_token = 0, None, None, None
        self._retried_at_limit = False

    def joined(self, now: Instant) -> None:
        """Record that a join was accepted."""
        self._joined_at = now.mono
        self._refused_token, self._retried_at_limit = None, False

    def ended(self, now: Instant) -> None:
        """Record that the join ended. The backoff restarts if it lasted long enough."""
        if self._joined_at is not None and now.mono - self._joined_at >= self._steady_after:
            self._attempts, self._failing_since = 0, None
        self._joined_at = None

    def not_before_join(self, instant: Instant) -> Instant:
        """Return this instant, or the time of the join if that is later: nothing is missing before the join."""
        later = 0.0 if self._joined_at is None else max(0.0, self._joined_at - instant.mono)
        return Instant(instant.mono + later, instant.wall + later)

    def decide(self, row: Known, token: Secret | None, own: Secret | None, now: Instant) -> RetryDecision:
        """Decide what follows an error. `token`: the refused token; `own`: the channel's own token, if it has one."""
        decision = self._decide(row, token, own, now)
        if not decision.again and row.code == CHANNEL_LIMIT and self._may_retry_at_limit(now):
            return RetryDecision(again=True)
        return decision

    def _decide(self, row: Known, token: Secret | None, own: Secret | None, now: Instant) -> RetryDecision:
        if self.exhausted(now) or row.action is Action.GIVE_UP:
            return RetryDecision(again=False)
        if row.action is not Action.REFRESH:
            return RetryDecision(again=True, slow=row.action is Action.SLOW_RETRY)
        before, self._refused_token = self._refused_token, (token,)
        self._context.tokens.refused()
        if not same(token, own or self._context.tokens.current):
            return RetryDecision(again=True)  # the user has set a newer token in the meantime
        if own is not None or not self._context.tokens.has_provider or (row.once and before is not None):
            return RetryDecision(again=False)
        stuck = before is not None and same(before[0], token)
        return RetryDecision(again=True, slow=stuck, same_token=stuck)

    def _may_retry_at_limit(self, now: Instant) -> bool:
        """Return whether to retry once after "too many channels", at most once per subscribe.

        The server's count lags: it may still include a channel that was just left. Our own count is exact, and we never
        request more than `limits.channels`, so if that limit is set, the error is final only the second time.
        """
        first, self._retried_at_limit = not self._retried_at_limit, True
        options = self._context.options
        counted = options.limits.channels is not None or options.max_sockets > 1
        return first and counted and not self.exhausted(now)

    def wait(self, now: Instant, *, slow: bool = False) -> None:
        """Set the deadline of the next join after the backoff."""
        backoff = self._context.options.rejoin_backoff
        self._context.set_backoff_timer(
            TimerKey(TimerKind.JOIN_RETRY, self._topic), backoff, self._attempts, now, slow=slow
        )
        self._attempts += 1

    def wait_for(self, seconds: float, now: Instant) -> None:
        """Set the deadline of the next join after the delay from the user's backoff function."""
        self._context.timers.set(TimerKey(TimerKind.JOIN_RETRY, self._topic), now.mono + seconds)

    def exhausted(self, now: Instant) -> bool:
        """Return whether the maximum number of attempts or the maximum duration is reached."""
        if self._failing_since is None:
            self._failing_since = now.mono
        backoff = self._context.options.rejoin_backoff
        return backoff is not None and backoff.ends(self._attempts, now.mono - self._failing_since)


# --- who waits for it


class Waiters:
    """The callers that wait for a channel to be joined or ready, and their timeouts.

    A default timeout does not count the time behind pacing or behind other unanswered joins of the connection: it is
    paused while the join queue delays the channel.
    """

    __slots__ = ("_context", "_paused", "_topic", "_waiters")

    def __init__(self, context: Context, topic: str) -> None:
        self._context = context
        self._topic = topic
        self._waiters: dict[Ticket, Waiter] = {}
        self._paused = False

    def use_socket(self, context: Context) -> None:
        """Use the context of another socket."""
        self._context = context

    def add(self, waiter: Waiter, mono: float) -> None:
        """Add a waiter and start its timeout unless it is paused."""
        self._waiters[waiter.ticket] = waiter
        if not (self._paused and waiter.ignore_queue_time):
            self._start(waiter, mono)

    def pause(self, paused: bool, mono: float) -> None:
        """Pause or resume the timeouts that ignore time in the queue."""
        if paused is self._paused:
            return
        self._paused = paused
        for waiter in self._waiters.values():
            if not waiter.ignore_queue_time or waiter.remaining is None:
                continue
            if paused:
                self._stop(waiter, mono)
            else:
                self._start(waiter, mono)

    def joined(self, *, ready: bool) -> None:
        """Resolve the waiters for "joined" and, with `ready`, those for "ready"."""
        for waiter in list(self._waiters.values()):
            if ready or not waiter.ready:
                self._resolve(waiter.ticket, None)

    def unready(self, error: RealtimeError) -> None:
        """Fail the waiters for "ready": it will never be reached. The channel stays joined."""
        for waiter in list(self._waiters.values()):
            if waiter.ready:
                self._resolve(waiter.ticket, error)

    def fail(self, error: RealtimeError) -> None:
        """Fail all waiters."""
        for ticket in list(self._waiters):
            self._resolve(ticket, error)

    def pop(self, ticket: Ticket) -> Waiter | None:
        """Remove and return a waiter, None if unknown."""
        self._context.timers.cancel(self._key(ticket))
        waiter = self._waiters.pop(ticket, None)
        if not self._waiters:
            self._waiters.clear()  # otherwise each joined channel would keep an empty table of 160 bytes
        return waiter

    def __len__(self) -> int:
        return len(self._waiters)

    def _resolve(self, ticket: Ticket, outcome: RealtimeError | None) -> None:
        self.pop(ticket)
        self._context.tickets.resolve(ticket, outcome)

    def _start(self, waiter: Waiter, mono: float) -> None:
        if waiter.remaining is not None:
            waiter.running_since = mono
            self._context.timers.set(self._key(waiter.ticket), mono + waiter.remaining)

    def _stop(self, waiter: Waiter, mono: float) -> None:
        if waiter.remaining is not None and waiter.running_since is not None:
            waiter.remaining -= mono - waiter.running_since
            waiter.running_since = None
            self._context.timers.cancel(self._key(waiter.ticket))

    def _key(self, ticket: Ticket) -> TimerKey:
        return TimerKey(TimerKind.CALL_TIMEOUT, self._topic, ticket)
