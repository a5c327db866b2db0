"""Broadcasts by HTTP, as the session sees them: what is owed, with which token they go, and when the limit lets them.

The requests themselves are the shell's. A post ends once, whoever is first: its answer, its caller, or `close()`.
"""

from typing import Any

from supawire.core.context import Context
from supawire.core.effects import Ticket
from supawire.core.link import Link
from supawire.core.refresh import Refresh
from supawire.options import Secret
from supawire.types import Instant


class Posts:
    """The part of one session that the HTTP side of its shell talks to."""

    __slots__ = ("_context", "_link", "_refresh")

    def __init__(self, context: Context, link: Link, refresh: Refresh) -> None:
        self._context = context
        self._link = link
        self._refresh = refresh

    def open(self) -> Ticket:
        """Something goes out by HTTP: its outcome is owed. Raises `ClosedError`."""
        self._link.check_open()
        return self._context.tickets.open("publish")

    def settle(self, ticket: Ticket, outcome: Any) -> None:
        """It is over: a value, or the error that the caller gets. One that was settled before stays as it was."""
        self._context.tickets.settle(ticket, outcome)

    @property
    def token(self) -> Secret | None:
        """The newest token of the client."""
        return self._context.tokens.current

    @property
    def refreshable(self) -> bool:
        """Whether somebody can be asked for a newer one."""
        return self._context.tokens.has_provider

    def refresh(self, now: Instant) -> Ticket:
        """Ask for a newer token; settled with it, or with why there is none. Raises `ClosedError`."""
        self._link.check_open()
        return self._refresh.wait(now)

    @property
    def most(self) -> int | None:
        """How many messages the limit ever allows at once."""
        return self._context.messages.limit

    def ready_at(self, mono: float, messages: int) -> float:
        """When the limit allows so many messages: `mono` itself when now."""
        return self._context.messages.ready_at(mono, messages)

    def spend(self, mono: float, messages: int) -> None:
        """They go out."""
        self._context.messages.spend(mono, messages)
