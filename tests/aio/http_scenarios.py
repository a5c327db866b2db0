"""Scenarios of HTTP broadcasts in virtual time: a client connected in memory, an HTTP client with scripted answers."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from supawire import AsyncClient, Sent
from supawire.errors import HttpError
from supawire.testing import FakeHttp
from supawire.testing.virtual import VirtualTimeLoop
from tests.aio.peer import connected

ID = uuid.UUID("6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11")
BY_ITSELF, IN_A_BATCH = Sent("http", acked=True), Sent("http")

Scenario = Callable[[AsyncClient, FakeHttp], Awaitable[None]]


def run_scenario(steps: Scenario, **options: Any) -> None:
    """Run a scenario in virtual time."""

    async def run() -> None:
        http = FakeHttp()
        async with connected(http=http, **options) as (client, _):
            await steps(client, http)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run())


def scenario(**options: Any) -> Callable[[Scenario], Callable[[], None]]:
    """Make a test of a scenario."""

    def make(steps: Scenario) -> Callable[[], None]:
        def test() -> None:
            run_scenario(steps, **options)

        test.__doc__ = steps.__doc__
        return test

    return make


def now() -> float:
    """Return the running loop's time in seconds."""
    return asyncio.get_running_loop().time()


async def refused(call: Coroutine[Any, Any, Any]) -> HttpError:
    """Return the error that the call raises."""
    with pytest.raises(HttpError) as caught:
        await call
    return caught.value
