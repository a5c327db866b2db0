"""Wake-ups by Realtime: one client for the worker, one channel for each source.

An event is only a hint that makes a source claim at once. While Realtime is away, the poll finds the jobs, and
`health()` says so. A channel that becomes live again, and a gap, are hints too: something may have been missed
meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

from supawire.aio.callbacks import RANDOM
from supawire.aio.client import AsyncClient
from supawire.aio.connect import connect_async
from supawire.core.pacing import delay
from supawire.errors import RealtimeError
from supawire.events import ChannelState, Event, Status
from supawire.options import Backoff, Secret
from supawire.selectors import gaps, status
from supawire.worker.source import Wakeup

RETRY: Final = Backoff(initial=5.0, maximum=300.0)
"""Delays after the server has refused the client or a channel permanently, which may be repaired meanwhile."""


class Announcements:
    """Subscribes to what announces jobs.

    wake: called with the name of a source and the cause. wakeups: by the name of the source.
    """

    def __init__(
        self,
        url: str,
        key: str | Secret,
        options: Mapping[str, Any],
        wakeups: Mapping[str, Wakeup],
        wake: Callable[[str, str], None],
        logger: logging.Logger,
    ) -> None:
        self._url: Final = url
        self._key: Final = key
        self._options: Final[dict[str, Any]] = {**options, "open_timeout": None}
        self._wakeups: Final = wakeups
        self._wake: Final = wake
        self._logger: Final = logger
        self._live: Final[set[str]] = set()
        self._error: RealtimeError | None = None
        self._has_connected = False

    @property
    def state(self) -> str:
        """Whether all jobs are announced: "live", or why they are not."""
        if len(self._live) == len(self._wakeups):
            return "live"
        return "connecting" if self._error is None else str(self._error)

    def is_live(self, name: str) -> bool:
        """Return whether new jobs of this source are announced now."""
        return name in self._live

    async def run(self) -> None:
        """Run until cancelled. Raises: RealtimeError when the first connection is refused permanently."""
        failures = 0
        while True:
            try:
                async with connect_async(self._url, self._key, **self._options) as client:
                    self._has_connected = True
                    failures = 0
                    await self._listen(client)
            except RealtimeError as error:
                if not self._has_connected:  # anything but a permanent refusal is tried again by the client itself
                    raise
                self._error = error
            self._live.clear()
            wait = delay(RETRY, failures, RANDOM)
            failures += 1
            self._logger.warning(
                "Realtime has ended; the poll finds jobs; next attempt in %.0f s: %s", wait, self._error
            )
            await asyncio.sleep(wait)

    async def _listen(self, client: AsyncClient) -> None:
        async with AsyncExitStack() as stack:
            for name, wakeup in self._wakeups.items():
                task = asyncio.create_task(self._subscribe(client, name, wakeup), name=f"supawire-subscribe-{name}")
                stack.callback(task.cancel)
            await client.wait_closed()

    async def _subscribe(self, client: AsyncClient, name: str, wakeup: Wakeup) -> None:
        """Keep one channel subscribed; after a permanent refusal, also of a later join, it is tried again."""
        channel = client.channel(wakeup.topic, private=wakeup.private)
        for selector in wakeup.selectors:
            channel.on(selector, partial(self._on_event, name))
        channel.on(gaps(), partial(self._on_gap, name))
        ended = asyncio.Event()
        channel.on(status(), partial(self._on_status, name, ended))
        failures = 0
        while True:
            ended.clear()
            try:
                await channel.subscribe(wait="ready", timeout=None)
            except RealtimeError as error:
                self._error = error
            else:
                failures = 0
                await ended.wait()
            wait = delay(RETRY, failures, RANDOM)
            failures += 1
            self._logger.warning(
                "%s: changes are not announced; the poll finds jobs; next attempt in %.0f s: %s",
                name, wait, self._error,
            )  # fmt: skip
            await asyncio.sleep(wait)

    def _on_event(self, name: str, _: Event) -> None:
        self._wake(name, "change")

    def _on_gap(self, name: str, _: Event) -> None:
        self._wake(name, "gap")

    def _on_status(self, name: str, ended: asyncio.Event, event: Status) -> None:
        if event.state in (ChannelState.FAILED, ChannelState.CLOSED):
            ended.set()
        if event.ready and name not in self._live:
            self._live.add(name)
            self._error = None
            self._wake(name, "reconnect")
        elif not event.ready:
            self._live.discard(name)
            if event.cause is not None:
                self._error = event.cause
