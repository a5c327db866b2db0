"""Fetching the user's token: before connecting and joining, before it expires, and again after a failure."""

from collections.abc import Mapping

from supawire.core.channel import CoreChannel
from supawire.core.context import Context
from supawire.core.effects import Ticket, TicketKind, TokenFailed
from supawire.core.requests import TimerKey, TimerKind
from supawire.core.sockets import SocketGroup
from supawire.errors import AuthError, RealtimeError
from supawire.events import ConnectionState, Instant
from supawire.options import Secret


class TokenRefresh:
    """Applies the current token to the sockets and channels of one session. One request serves all sockets."""

    __slots__ = ("_channels", "_context", "_sockets", "_waiting")

    def __init__(
        self,
        context: Context,
        sockets: SocketGroup,
        channels: Mapping[str, CoreChannel],
    ) -> None:
        self._context = context
        self._sockets = sockets
        self._channels = channels
        self._waiting: tuple[Ticket, ...] = ()

    def fetch(self, now: Instant) -> Ticket:
        """Fetch a token for a caller. The ticket resolves with the new token or with the error."""
        ticket = self._context.tickets.create(TicketKind.TOKEN)
        self._waiting += (ticket,)
        self.request(now)
        return ticket

    def request(self, now: Instant) -> None:
        """Request a token from the provider, unless a request is pending or the client is closed."""
        if self._sockets.first.connection.state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            return
        if self._context.tokens.has_provider and not self._context.tokens.fetching:
            self._context.fetch_token(now)

    def heartbeat_due(self, now: Instant) -> None:
        """Fetch a token with each heartbeat, if `token_on_heartbeat` is set."""
        if self._context.options.token_on_heartbeat:
            self.request(now)

    def answered(self, number: int, token: Secret | None | RealtimeError, now: Instant) -> None:
        """Handle the provider's token or error. An answer to an older request is dropped."""
        if not self._context.tokens.finish_request(number):
            self._context.counts.stale += 1
            return
        self._context.timers.cancel(TimerKey(TimerKind.TOKEN_TIMEOUT))
        if isinstance(token, RealtimeError):
            self._failed(token, now)
        else:
            self.apply(token, now)
            self._context.tokens.received(now)
            for channel in list(self._channels.values()):
                channel.drop_channel_token(now)
            self._continue(now)

    def timed_out(self, now: Instant) -> None:
        """Handle that the provider did not answer in time."""
        self._failed(
            AuthError(f"the token provider did not return within {self._context.options.timeout:g} s", retryable=True),
            now,
        )

    def set_by_user(self, token: Secret | None, now: Instant) -> None:
        """Set a token from the user. It supersedes a pending request to the provider."""
        self._context.timers.cancel(TimerKey(TimerKind.TOKEN_TIMEOUT))
        self.apply(token, now)
        self._continue(now)

    def apply(self, token: Secret | None, now: Instant) -> None:
        """Set the current token. If it changed, send it to the joined channels that have no token of their own."""
        changed = self._context.tokens.set(token)
        seconds = self._context.tokens.refresh_in(now)
        if seconds is None:
            self._context.timers.cancel(TimerKey(TimerKind.TOKEN_REFRESH))
        else:
            self._context.timers.set(TimerKey(TimerKind.TOKEN_REFRESH), now.mono + seconds)
        if changed:
            for channel in list(self._channels.values()):
                if not channel.has_own_token:
                    channel.token_changed(now)
        self._resolve_waiting(token)

    def _failed(self, error: RealtimeError, now: Instant) -> None:
        """Keep the current token, report the error and retry later."""
        self._context.timers.set(TimerKey(TimerKind.TOKEN_REFRESH), now.mono + self._context.tokens.failed())
        self._context.report(TokenFailed(error))
        if not self._context.tokens.fetched:
            for channel in list(self._channels.values()):
                channel.token_unavailable(error, now)
        self._resolve_waiting(error)
        self._continue(now)

    def _continue(self, now: Instant) -> None:
        """Continue the connection attempts and the joins that waited for the token."""
        for socket in list(self._sockets):
            socket.connection.token_ready(now)
            socket.joins.resume()

    def _resolve_waiting(self, outcome: Secret | None | RealtimeError) -> None:
        for ticket in self._waiting:
            self._context.tickets.resolve(ticket, outcome)
        self._waiting = ()
