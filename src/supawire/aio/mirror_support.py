"""The verifier and the snapshot file of a mirror: what the shell does for them on threads."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, cast

from supawire._mirror_events import Row, Rows
from supawire.aio.callbacks import run_in_thread
from supawire.aio.driver import Driver
from supawire.core.mirror import MirrorCore, MirrorSettings
from supawire.core.table_copy import Key, KeyColumns
from supawire.core.verification import CompareSummary, ListVersions, Request, Summarize, Summary, Verification
from supawire.errors import CacheError, RowError
from supawire.events import Instant
from supawire.mirror_cache import MirrorCache, identity_of
from supawire.verifiers import VerifiedTable, Verifier


class VerifierCalls:
    """The requests of a verification, as one function of the user and the reader of its results."""

    def __init__(self, verifier: Verifier, settings: MirrorSettings, verification: Verification) -> None:
        self._verifier = verifier
        self._verification = verification
        self._key = KeyColumns(settings.key)
        self._table = VerifiedTable(settings.schema, settings.table, settings.key)

    def perform(self, request: Request) -> Any:
        """Carry out a request; may return an awaitable of the user's verifier."""
        match request:
            case Summarize(buckets):
                return self._verifier.summary(self._table, buckets)
            case CompareSummary():
                return self._verification.compare(request)
            case ListVersions(buckets, chosen):
                return self._verifier.versions(self._table, buckets, chosen)

    def read(self, request: Request, result: Any) -> Any:
        """Check and convert a result. Raises: RowError: it is not what a verifier returns."""
        if isinstance(request, ListVersions):
            return dict(self._versions(result))
        if isinstance(request, Summarize) and not isinstance(result, Summary):
            raise RowError(f"the verifier's summary must be a Summary, not {type(result)!r}")
        return result

    def _versions(self, result: Any) -> Iterable[tuple[Key, str]]:
        items = cast("Iterable[Any]", result if isinstance(result, Iterable) else (result,))
        for item in items:
            given: Any = item
            try:
                key, version = given
                found = self._key.of(key)
            except (TypeError, ValueError, AttributeError):
                found = version = None
            if found is None or not isinstance(version, str):
                raise RowError(f"the verifier's versions must be pairs of a key (a dict) and a text, not {item!r:.80}")
            yield found, version


class MirrorCacheTask:
    """The snapshot file of one mirror, read and written on threads.

    The copy belongs to the user whose token was in use when its fetch began. It is saved only while the token is still
    of this user.

    Args: changed: called when the machine has new effects.
    """

    def __init__(
        self, driver: Driver, path: str, settings: MirrorSettings, machine: MirrorCore, changed: Callable[[], None]
    ) -> None:
        self._driver = driver
        self._machine = machine
        self._changed = changed
        what = {
            "url": driver.endpoint.rest_url,
            "schema": settings.schema,
            "table": settings.table,
            "key": settings.key,
            "filter": settings.filter,
            "select": settings.select,
            "plain": settings.plain,
        }
        self._cache: Final = MirrorCache(path, what)
        self._fetched_as: str | None = None
        self._running: asyncio.Task[None] | None = None
        self._turn: Final = asyncio.Lock()
        """Held during each use of the file, because a fetch can end before the file was read."""
        self.saved_at: datetime | None = None
        """When the rows that were loaded had been saved."""

    def load(self) -> None:
        """Read the file, and show its rows."""
        self._start(self._load(self._identity()))

    def fetch_began(self) -> None:
        """Remember whose rows are being fetched."""
        self._fetched_as = self._identity()

    def save(self, rows: Mapping[Key, Row | None], *, whole: bool) -> None:
        """Write rows to the file."""
        self._start(self._save(rows, whole=whole))

    async def finish(self, now: Instant) -> None:
        """Save what has changed since the last time."""
        await self._wait()
        self._machine.save(now)
        self._changed()
        await self._wait()

    # --- internal

    async def _wait(self) -> None:
        if self._running is not None and not self._running.done():
            await asyncio.wait([self._running])

    def _start(self, work: Any) -> None:
        self._running = self._driver.tasks.spawn(work, "mirror-cache")

    def _identity(self) -> str:
        return identity_of(self._driver.session.http_broadcasts.token, self._driver.endpoint.key)

    async def _load(self, identity: str) -> None:
        def read() -> tuple[Rows, float] | None:
            found = self._cache.load(identity)
            return None if found is None else (self._machine.read(found[0]), found[1])

        try:
            async with self._turn:
                found = await run_in_thread(read, "mirror-cache")
        except (CacheError, RowError) as error:
            self._driver.reports.error(error, "mirror")
            return
        if found is None or identity != self._identity():
            return  # nothing for this user, or the token of another user was set meanwhile
        self.saved_at = datetime.fromtimestamp(found[1], UTC)
        self._machine.restore(found[0])
        self._changed()

    async def _save(self, rows: Mapping[Key, Row | None], *, whole: bool) -> None:
        identity = self._fetched_as
        complete = False
        try:
            async with self._turn:
                if identity is not None and identity == self._identity():
                    save = partial(self._cache.save, identity, rows, whole=whole)
                    complete = await run_in_thread(save, "mirror-cache")
        except CacheError as error:
            self._driver.reports.error(error, "mirror", type(error))
        finally:
            self._machine.saved(complete=complete)
        self._changed()
