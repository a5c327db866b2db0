"""Stories about HTTP: a client that is connected in memory, an HTTP client that is told what to say, virtual time."""

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

Story = Callable[[AsyncClient, FakeHttp], Awaitable[None]]


def run_scenario(story: Story, **options: Any) -> None:
    """Run a story in virtual time."""

    async def run() -> None:
        http = FakeHttp()
        async with connected(http=http, **options) as (client, _):
            await story(client, http)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run())


def scenario(**options: Any) -> Callable[[Story], Callable[[], None]]:
    """Make a test of a story."""

    def make(story: Story) -> Callable[[], None]:
        def test() -> None:
            run_scenario(story, **options)

        test.__doc__ = story.__doc__
        return test

    return make


def now() -> float:
    """Seconds of the running loop."""
    return asyncio.get_running_loop().time()


async def refused(call: Coroutine[Any, Any, Any]) -> HttpError:
    """The error that the call raises."""
    with pytest.raises(HttpError) as caught:
        await call
    return caught.value
