"""Simulate the polls of the real server: one policy that raises makes a whole poll fail.

Then no client receives any change of any table, and no frame reports it. This lasts until the policy no longer raises
for the same rows or its subscriber has left, and for as long again, up to five seconds, because the real server polls
less and less often. Changes committed meanwhile are lost. Developers see it in the log and in the inspector of the
local server. See docs/protocol.md, How the server polls.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec.json import decode

from supawire.events import Instant
from supawire.server.changes import Delivery
from supawire.server.hub import Hub
from supawire.server.postgres.database import Database
from supawire.server.postgres.matching import Matcher
from supawire.server.postgres.replication import RowChange
from supawire.server.postgres.subscriptions import Identity, SubscriptionTable
from supawire.server.postgres.visibility import Failure, PolicyFailed, still_failing

logger: Final = logging.getLogger("supawire.server")

PAUSE: Final = 5.0
"""Maximum seconds between two polls of the real server."""
LONGEST: Final = 200
"""Maximum characters shown of a database message or a claim."""

BEGINS: Final = (
    "changes of rows are lost: a row policy raised %s, so every poll of the real server fails, nobody gets any change "
    "of any table and clients are not informed, until that client leaves or the policy is corrected. This server does "
    "the same, unless it is started with isolate_policy_errors=True (--isolate-policy-errors)."
)
ENDS: Final = "changes of rows are sent again; %d were lost since a row policy raised"


class Polls:
    """Computes the deliveries of each batch; none while a policy raises.

    Args: do: calls a function with the hub. pause: maximum seconds without changes after the cause is gone.
    """

    def __init__(
        self,
        *,
        matcher: Matcher,
        book: SubscriptionTable,
        database: Database,
        do: Callable[[Callable[[Hub, Instant], None]], None],
        pause: float = PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._matcher: Final = matcher
        self._book: Final = book
        self._database: Final = database
        self._do: Final = do
        self._pause: Final = pause
        self._clock: Final = clock
        self._failing: dict[Identity, Failure] = {}
        self._since = 0.0
        self._until: float | None = None
        """When the next poll succeeds, once the cause is gone."""
        self._lost = 0

    async def deliveries(self, changes: Sequence[RowChange], only: frozenset[int] | None = None) -> list[Delivery]:
        """Return the deliveries of these changes to the channels in `only`, or all. Raises: DatabaseError."""
        if self._failing:
            await self._try_again()
        if not self._failing and (self._until is None or self._clock() >= self._until):
            self._end()
            try:
                return await self._matcher.deliveries(changes, only)
            except PolicyFailed as failed:
                self._begin(failed.viewers)
        self._lose(changes)
        return []

    def left(self) -> None:
        """Drop failures of subscribers that have left; called when a channel ends or subscribes again."""
        if self._failing:
            here = self._book.viewers()
            self._keep({viewer: failure for viewer, failure in self._failing.items() if viewer in here})

    async def _try_again(self) -> None:
        self.left()
        if self._failing:
            self._keep(await still_failing(self._database, self._failing))

    def _keep(self, failing: dict[Identity, Failure]) -> None:
        if self._failing and not failing:
            now = self._clock()
            self._until = now + min(self._pause, now - self._since)
        self._failing = failing

    def _begin(self, viewers: Mapping[Identity, Failure]) -> None:
        self._failing, self._since, self._until = dict(viewers), self._clock(), None
        what = "; ".join(_shown(viewer, failure) for viewer, failure in list(viewers.items())[:3])
        logger.error(BEGINS, what)
        problem = f"changes of rows are lost: a row policy raised {what}"
        self._do(lambda hub, now: hub.losing(problem, now))

    def _end(self) -> None:
        if self._until is not None:
            logger.warning(ENDS, self._lost)
            self._until, self._lost = None, 0
            self._do(lambda hub, now: hub.losing(None, now))

    def _lose(self, changes: Sequence[RowChange]) -> None:
        self._lost += len(changes)
        kinds = {(one.relation.schema, one.relation.table, one.type) for one in changes}
        self._do(lambda hub, now: hub.lost(sorted(kinds), now))


def _shown(viewer: Identity, failure: Failure) -> str:
    """Describe the failure: role, claims and error message."""
    claims: Mapping[str, object] = decode(viewer.claims)
    subject = f" with sub {repr(claims['sub'])[:LONGEST]}" if "sub" in claims else ""
    return f"for role {viewer.role}{subject}: {' '.join(failure.error.split())[:LONGEST]}"
