"""One topic: what the user wants of it, and the join that gives it (architecture: Channel).

The wish (listeners, options, presence, token) outlives joins; everything that the server gave belongs to one join and is
replaced by the next: binding ids, presence state, readiness. A frame of an older join is dropped by its join_ref (R12).
"""

from typing import Final

from msgspec import Raw

from supawire.core import frames
from supawire.core.context import Context
from supawire.core.effects import Ended, Ticket
from supawire.core.gaps import SETTLED, Gaps
from supawire.core.join import Join, binding_ids, join_payload
from supawire.core.joins import JoinQueue
from supawire.core.listeners import Index, Listener
from supawire.core.outbox import Message, Outbox
from supawire.core.presence import Roster
from supawire.core.readiness import Readiness, Reading, Said
from supawire.core.rejoin import Rejoin
from supawire.core.states import CHANNEL, ChannelOn
from supawire.core.token import on_wire, same
from supawire.core.tracking import Tracking
from supawire.core.waiters import Waiter, Waiters
from supawire.errors import (
    Action,
    AuthError,
    ClosedError,
    ConnectionLostError,
    Known,
    OperationTimeout,
    RealtimeError,
    ServerError,
    StateError,
    classify_join,
    join_error,
)
from supawire.options import ChannelOptions, Secret
from supawire.types import ChannelState, Instant, Status, System

_NO_REFS: Final[frozenset[str | None]] = frozenset()
_CLOSED_WITHOUT_REASON: Final = classify_join("")


class Channel:
    """The client's side of one topic."""

    def __init__(self, context: Context, joins: JoinQueue, topic: str, options: ChannelOptions) -> None:
        self.topic = topic
        self.name = topic.removeprefix(frames.PREFIX)
        self.options = options
        self.state = ChannelState.IDLE
        self.error: RealtimeError | None = None
        """Why it is not joined."""
        self.wanted = False
        self.token = options.secret
        self.index = Index()
        self.live = _NO_REFS
        """The join_refs that data may carry now: None, and that of the living join (protocol §3.9)."""
        self.roster = Roster(self.name)
        self.gaps = Gaps(self.name, options)
        self._context = context
        self._joins = joins
        self._tracking = Tracking(context, topic)
        self._outbox = Outbox(context, topic)
        self._waiters = Waiters(context, topic)
        self._rejoin = Rejoin(context, topic)
        self._readiness = Readiness()
        self._asked: Join | None = None
        self._living: Join | None = None
        self._leaving: tuple[str, str] | None = None
        """Refs of the join that is being left, and of the leave."""
        self._leavers: list[Ticket] = []
        self._ending: Reading | None = None
        self._ever_joined = False

    # --- what the user wants

    def listen(self, listener: Listener, now: Instant) -> None:
        """Add a listener; new changes, and the first for presence, need a new join (R17)."""
        self.index.add(listener)
        self._rejoin_if_needed(now)

    def unlisten(self, listener: Listener) -> None:
        """Remove a listener."""
        self.index.remove(listener)

    def subscribe(self, waiter: Waiter, now: Instant) -> None:
        """Be joined, from now on; the waiter is told when."""
        self._waiters.add(waiter, now.mono)
        if not self.wanted:
            self.wanted, self._ever_joined = True, False
            self._rejoin.reset()
        self._move(ChannelOn.SUBSCRIBE, now)
        if self.state is ChannelState.JOINED:
            self._waiters.joined(ready=self.ready)

    def unsubscribe(self, ticket: Ticket | None, bound: float, now: Instant) -> None:
        """Be out; settled when the server has confirmed, or after the bound."""
        self.wanted = False
        if ticket is not None:
            self._leavers.append(ticket)
        left = StateError("the channel was left", topic=self.name)
        self._waiters.fail(left)
        self._outbox.fail(left)
        self._joins.withdraw(self)
        was, join = self.state, self._asked or self._living
        self._move(ChannelOn.UNSUBSCRIBE, now)
        if self.state is not ChannelState.LEAVING:
            self._left(now)
        elif was is not ChannelState.LEAVING and join is not None:
            self._end_join(left, now)
            self._leaving = join.ref, self._push_leave(join.ref, now)
            self._context.timers.set(("leave", self.topic), now.mono + bound)

    def set_token(self, token: Secret | None, now: Instant) -> None:
        """The channel's own token, instead of the client's."""
        self.token = token
        self.token_changed(now)

    def token_changed(self, now: Instant) -> None:
        """Tell the server of a newer token, once; a channel that failed with the old one tries again."""
        token = self.token or self._context.tokens.current
        if self.state is ChannelState.FAILED and self.wanted:
            self._rejoin.reset()
            self._move(ChannelOn.SUBSCRIBE, now)
        elif self.state is ChannelState.JOINED and self._living is not None and not same(token, self._living.token):
            self._living = Join(self._living.ref, self._living.bindings, self._living.presence, token)
            if (shown := on_wire(token)) is not None:
                self._push_token(shown, self._living.ref)

    def track(self, wish: bytes | None, ticket: Ticket, timeout: float | None, now: Instant) -> None:
        """Take a presence wish: settled at once when not joined, else when the server has it (R45)."""
        self._tracking.want(wish)
        if self.state not in (ChannelState.JOINED, ChannelState.REJOINING):
            self._context.tickets.settle(ticket, None)
            return
        self._tracking.owe(ticket, timeout, now)
        if self._needs_join():
            self._rejoin_if_needed(now)
        else:
            self._tracking.advance(now)

    def broadcast(self, message: Message, now: Instant) -> Ticket | None:
        """Send a broadcast, or do with it what `offline` says; None when it is handed over and nothing more will come."""
        self._check_broadcast(message)
        if self.state is ChannelState.JOINED and self._living is not None:
            return self._outbox.send(message, self._living.ref, now)
        offline = self._context.options.offline
        if self.state is ChannelState.REJOINING or offline in ("wait", "queue"):
            return self._outbox.keep(message, now)
        if offline == "http":
            token = self.token or self._context.tokens.current
            return self._outbox.publish(message, private=self.options.private, token=token)
        raise StateError(
            f"the channel is {self.state}, not joined" + self._because(),
            topic=self.name,
            hint="subscribe() first, or choose offline='wait', 'queue' or 'http'.",
        )

    def expired(self, ticket: Ticket, now: Instant) -> None:
        """A caller's time is over."""
        if self._outbox.expired(ticket, joined=self.state is ChannelState.JOINED) or self._tracking.expired(ticket):
            return
        waiter = self._waiters.take(ticket)
        if waiter is None:
            return
        what = "ready" if waiter.ready and self.state is ChannelState.JOINED else "joined"
        error = OperationTimeout(f"the channel is not {what} in time" + self._because(), topic=self.name)
        error.__cause__ = self.error
        self._context.tickets.settle(ticket, error)
        self._withdraw(now)

    def cancel(self, ticket: Ticket, now: Instant) -> None:
        """A caller went away."""
        self._outbox.drop(ticket)
        self._tracking.dropped(ticket)
        if self._waiters.take(ticket) is not None:
            self._withdraw(now)

    def close(self, error: RealtimeError | None, now: Instant) -> None:
        """For good: removed, the client closed, or the link ended with this error."""
        if self.state is ChannelState.CLOSED:
            return
        if error is None and self.state in (ChannelState.JOINING, ChannelState.REJOINING, ChannelState.JOINED):
            join = self._asked or self._living
            if join is not None and self._joins.is_open:
                self._push_leave(join.ref, now)
        self.wanted = False
        self._joins.withdraw(self)
        self._finish(error or ClosedError("the channel was closed", topic=self.name), now)
        self._move(ChannelOn.CLOSE, now, error)
        self._left(now)
        self._context.effects.append(Ended(self.topic, error))

    @property
    def ready(self) -> bool:
        """Whether it is joined and everything that was asked for is live."""
        return self.state is ChannelState.JOINED and self._readiness.is_ready

    @property
    def queued(self) -> int:
        """How many broadcasts are kept."""
        return len(self._outbox)

    # --- the join

    def go(self, now: Instant) -> str:
        """Send the join: listeners, token and replay cursor as they are now (R15, R25)."""
        if self.state is ChannelState.JOINED:
            self._move(ChannelOn.CHANGED, now)
            self._tracking.ended(None)
            self.gaps.open(now, "rejoin", self.index.kinds())
        else:
            self._move(ChannelOn.GO, now)
        token = self.token or self._context.tokens.current
        join = Join(self._context.next_ref(), self.index.bindings, self._wants_presence(), token)
        self._asked = join
        payload = join_payload(join, self.options, self.gaps.replay())
        data = self._context.codec.encode(join.ref, join.ref, self.topic, frames.JOIN, payload)
        self._context.transmit(data, secret=True)
        return join.ref

    def held(self, held: bool, now: Instant) -> None:
        """Waiters' time stands still while others hold this channel up."""
        self._waiters.hold(held, now.mono)

    def accepted(self, ref: str, response: Raw, now: Instant) -> None:
        """The server said ok to the join with this ref."""
        join = self._asked
        if join is None or join.ref != ref:
            return
        self._living, self._asked = join, None
        self.live = frozenset((None, ref))
        self.error = self._ending = None
        self._ever_joined = True
        ids, errors = binding_ids(join.bindings, response, self.name)
        self.index.joined(ids)
        self.roster.joined(enabled=join.presence)
        self._readiness.joined(join, self.options)
        self._rejoin.joined(now)
        self.gaps.joined()
        self._move(ChannelOn.OK, now)
        for error in errors:
            self._context.report("binding", topic=self.name, error=error)
        self._waiters.joined(ready=self.ready)
        self._tracking.joined(ref, now)
        self._outbox.flush(ref, now)
        if self._readiness.changes_live:
            self._events_flow(now)
        self._rejoin_if_needed(now)

    def refused(self, ref: str, reason: str, now: Instant) -> None:
        """The server said no to the join with this ref."""
        if self._asked is not None and self._asked.ref == ref:
            self._fail(classify_join(reason), join_error(reason, self.name), "join_refused", now)

    def join_timed_out(self, ref: str, now: Instant) -> None:
        """The join with this ref was not answered: leave it, so that the server holds no join that we forgot (R13)."""
        if self._asked is None or self._asked.ref != ref:
            return
        self._push_leave(ref, now)
        self.error = OperationTimeout("the server did not answer the join in time", topic=self.name)
        self._lose_join("join_timeout", self.error, now)
        self._move(ChannelOn.TIMEOUT, now, self.error)
        self._rejoin.wait(now)

    def closed(self, ref: str | None, *, crashed: bool, now: Instant) -> bool:
        """`phx_close` or `phx_error`; False when it is that of an older join."""
        if self._leaving is not None and ref == self._leaving[0]:
            self._left(now)
            return True
        if self._living is None or ref != self._living.ref:
            return False
        if self.state is ChannelState.REJOINING:
            self.live = _NO_REFS  # the join that replaces it is on its way
        elif self._ending is not None and self._ending.row is not None and self._ending.error is not None:
            self._fail(self._ending.row, self._ending.error, "channel_closed", now)
        else:
            what = "the channel crashed on the server" if crashed else "the server closed the channel"
            error = ServerError(what, topic=self.name, retryable=True)
            self._fail(_CLOSED_WITHOUT_REASON, error, "channel_crashed" if crashed else "channel_closed", now)
        return True

    def leave_answered(self, ref: str | None, now: Instant) -> None:
        """The server answered a leave."""
        if self._leaving is not None and ref == self._leaving[1]:
            self._left(now)

    def leave_late(self, now: Instant) -> None:
        """The leave is not answered within its bound."""
        if self._leaving is not None:
            self._left(now)

    def link_lost(self, error: ConnectionLostError, heard_at: Instant, now: Instant) -> None:
        """The socket is gone."""
        if self.state is ChannelState.LEAVING:
            self._left(now)
        elif self.state in (ChannelState.JOINING, ChannelState.REJOINING, ChannelState.JOINED, ChannelState.RETRYING):
            self.error = error
            self._lose_join("connection_lost", error, heard_at)
            self._rejoin.ended(now)
            self._move(ChannelOn.LINK_LOST, now, error)

    # --- frames of the living join

    def system(self, message: System, now: Instant) -> None:
        """Readiness, trouble with changes, or why the channel is about to be closed."""
        self._context.deliver(self.index.system, message)
        reading = self._readiness.read(message)
        match reading.said:
            case Said.READY:
                self._move(ChannelOn.RECOVERED, now, announce=True)
                self._waiters.joined(ready=True)
                self._events_flow(now)
            case Said.DEGRADED:
                self.gaps.open(now, "degraded", frozenset({"changes"}))
                self._move(ChannelOn.DEGRADED, now, reading.error, announce=True)
                if reading.error is not None and reading.row is not None and reading.row.action is Action.GIVE_UP:
                    self._waiters.unready(reading.error)
                    self._context.report("changes", topic=self.name, error=reading.error)
            case Said.ENDING:
                self._ending = reading
            case Said.NOTHING:
                pass

    def presence_state(self, raw: Raw) -> None:
        """Everyone who is here."""
        for event in self.roster.replace(raw):
            self._context.deliver(self.index.presence, event)

    def presence_diff(self, joins: Raw, leaves: Raw) -> None:
        """Who came and went."""
        for event in self.roster.apply(joins, leaves):
            self._context.deliver(self.index.presence, event)

    def track_answered(self, error: RealtimeError | None, now: Instant) -> None:
        """The server answered a presence request, or did not in time."""
        self._tracking.answered(error, now)

    # --- deadlines

    def retry_due(self, now: Instant) -> None:
        """The rejoin backoff is over."""
        if self.state is ChannelState.RETRYING:
            self._move(ChannelOn.DUE, now)

    def again_due(self, now: Instant) -> None:
        """A loop turn has passed since something needed a new join."""
        if self._needs_join():
            self._joins.want(self, now)

    def track_due(self, now: Instant) -> None:
        """The presence limit allows another request."""
        self._tracking.advance(now)

    def flush_due(self, now: Instant) -> None:
        """The message limit allows another broadcast."""
        if self.state is ChannelState.JOINED and self._living is not None:
            self._outbox.flush(self._living.ref, now)

    def gap_due(self, now: Instant) -> None:
        """Time enough for replayed messages to have come."""
        gap = self.gaps.close(now)
        if gap is None:
            return
        if not self.index.gaps and not self._context.watchers:
            self._context.report("gap", topic=self.name, gap=gap)
        self._context.deliver((*self.index.gaps, *self._context.watchers), gap)

    # --- inside

    def _wants_presence(self) -> bool:
        return bool(self.index.presence) or self.options.presence_key is not None or self._tracking.wish is not None

    def _needs_join(self) -> bool:
        join = self._living
        if self.state is not ChannelState.JOINED or join is None:
            return False
        return not set(self.index.bindings) <= set(join.bindings) or (self._wants_presence() and not join.presence)

    def _rejoin_if_needed(self, now: Instant) -> None:
        """Once per loop turn: the deadline is now, and the shell comes back for it after what is running."""
        if self._needs_join():
            self._context.timers.set(("again", self.topic), now.mono)

    def _events_flow(self, now: Instant) -> None:
        """Tell of the gap, when replayed messages have had their time."""
        if self.gaps.is_open and self.gaps.replay_pending:
            self._context.timers.set(("gap", self.topic), now.mono + SETTLED)
        else:
            self.gap_due(now)

    def _fail(self, row: Known, error: RealtimeError, reason: str, now: Instant) -> None:
        """The join was refused, closed, or crashed: what follows is in the error table."""
        join = self._asked or self._living
        token = join.token if join is not None else None
        self.error = error
        self._rejoin.ended(now)
        verdict = self._rejoin.judge(row, token, own_token=self.token is not None)
        self._lose_join(reason, error, now)
        if not verdict.again:
            self._move(ChannelOn.GIVE_UP, now, error)
            self._finish(error, now)
            self._context.effects.append(Ended(self.topic, error))
            return
        if verdict.stuck:
            stuck = AuthError("the token provider gives a token again that the server refused", topic=self.name)
            stuck.__cause__ = error
            self._context.report("token", topic=self.name, error=stuck)
        self._move(ChannelOn.RETRY, now, error)
        self._rejoin.wait(now, slow=verdict.slow)

    def _lose_join(self, reason: str, error: RealtimeError, since: Instant) -> None:
        """The join ended against the user's wish; if it was living, something may be missing from then on."""
        if self._living is not None:
            self.gaps.open(since, reason, self.index.kinds())
        self._end_join(error, since)

    def _end_join(self, error: RealtimeError, now: Instant) -> None:
        """Nothing of this join counts any more; whoever waits for a reply on it gets the reason."""
        self._asked = self._living = self._ending = None
        self.live = _NO_REFS
        for key in ("rejoin", "again", "gap", "flush"):
            self._context.timers.cancel((key, self.topic))
        for pending in self._context.replies.forget(self.topic):
            unanswered = ConnectionLostError("the channel ended before the reply", maybe_sent=True, topic=self.name)
            unanswered.__cause__ = error
            self._context.tickets.settle(pending.ticket, unanswered)
        self._tracking.ended(error)

    def _finish(self, error: RealtimeError, now: Instant) -> None:
        """The channel is out, and not by the user's leave: everyone who waits gets the reason."""
        self.error = error
        self._end_join(error, now)
        self._waiters.fail(error)
        self._outbox.fail(error)

    def _left(self, now: Instant) -> None:
        """Out, as the user wished."""
        self._leaving = None
        self._context.timers.cancel(("leave", self.topic))
        self._end_join(StateError("the channel was left", topic=self.name), now)
        self.roster.clear()
        self.gaps.forget()
        if self.state is ChannelState.LEAVING:
            self._move(ChannelOn.LEFT_WANTED if self.wanted else ChannelOn.LEFT, now)
        if not self.wanted and self.state is ChannelState.IDLE:
            self.error = None
            self._context.effects.append(Ended(self.topic))
        leavers, self._leavers = self._leavers, []
        for ticket in leavers:
            self._context.tickets.settle(ticket, None)

    def _withdraw(self, now: Instant) -> None:
        """Nobody waits any more for a join that never was: then nobody wants it."""
        if self.wanted and not self._ever_joined and not self._waiters:
            self.unsubscribe(None, self._context.options.timeout, now)

    def _check_broadcast(self, message: Message) -> None:
        if self.state is ChannelState.CLOSED:
            raise ClosedError("the channel was closed", topic=self.name)
        if message.ack and not self.options.ack:
            raise StateError(
                "ack=True needs a channel that was opened with ack=True: the server decides at the join",
                topic=self.name,
                hint=f"client.channel({self.name!r}, ack=True)",
            )
        self._outbox.check(message)

    def _push_leave(self, join_ref: str, now: Instant) -> str:
        timeout = self._context.options.timeout
        return self._context.push(frames.LEAVE, {}, now, topic=self.topic, join_ref=join_ref, timeout=timeout)

    def _push_token(self, token: str, join_ref: str) -> None:
        """Never answered, so nothing waits for it (protocol §3.5)."""
        ref = self._context.next_ref()
        payload = {"access_token": token}
        data = self._context.codec.encode(join_ref, ref, self.topic, frames.ACCESS_TOKEN, payload)
        self._context.transmit(data, secret=True)

    def _because(self) -> str:
        return f": {self.error.message}" if self.error else ""

    def _move(self, on: ChannelOn, now: Instant, cause: RealtimeError | None = None, *, announce: bool = False) -> None:
        move = CHANNEL.get((self.state, on))
        if move is None:
            self._context.impossible(f"the channel {self.name}", self.state, on)
            return
        previous, self.state = self.state, move.next  # the only assignment of a channel's state
        if previous is not self.state or announce:
            self._context.announce(Status(self.name, self.state, previous, cause, self.ready), self.index.status)
        if self.state is ChannelState.WAITING and previous is not self.state:
            self._joins.want(self, now)
