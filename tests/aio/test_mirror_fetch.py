"""How a mirror calls its fetch: kinds of functions, failures, and fetches that hang."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from supawire import MirrorState
from supawire.aio.mirror_fetch import FetchCalls
from supawire.errors import HandlerError, OperationTimeout
from supawire.options import Backoff
from supawire.testing import VirtualServer
from tests.aio.mirror_scenarios import QUICK, Scene, scenario
from tests.aio.peer import until

TOO_LARGE = "Error 413: Payload Too Large"

# --- the fetch


@scenario()
async def test_a_fetch_that_raises_is_retried(scene: Scene) -> None:
    """`on_error` receives each failure, `error` is the newest until the mirror is live, and a wait that times out
    names it (R1)."""
    scene.table.failing = 3
    scene.table.put(1, v=1)
    users = scene.mirror(backoff=Backoff(initial=60, maximum=60, jitter=0))
    with pytest.raises(OperationTimeout, match=r"waiting: the fetch .*fetch raised ConnectionError") as caught:
        await users.ready(5)
    assert caught.value.__cause__ is users.error is scene.errors[0] and isinstance(users.error, HandlerError)
    assert isinstance(users.error.__cause__, ConnectionError)
    await users.ready(None)
    assert len(scene.errors) == 3 and users.error is None and users.live


def test_a_fetch_that_fails_for_long_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first failure is logged with its traceback, later ones at intervals with their number, whatever their text
    (R48)."""
    calls = 0

    async def fetch() -> list[Any]:
        nonlocal calls
        calls += 1
        if calls <= 50:
            raise ConnectionError(f"attempt {calls} from port {40_000 + calls}")
        return [{"id": 1}]

    @scenario(on_error=None)
    async def steps(scene: Scene) -> None:
        async with scene.mirror(fetch=fetch, backoff=Backoff(initial=1, maximum=1, jitter=0)) as users:
            assert list(users) == [1]

    with caplog.at_level(logging.INFO, "supawire"):
        steps()
    records = [record for record in caplog.records if "the fetch" in record.getMessage()]
    assert [record.exc_info is not None for record in records] == [True, False]
    assert "(10 times so far" in records[1].getMessage()


@scenario()
async def test_a_fetch_that_hangs_is_cancelled(scene: Scene) -> None:
    """An async fetch is cancelled after `timeout` seconds and called again."""
    cancelled: list[bool] = []

    async def fetch() -> list[Any]:
        if len(cancelled) < 2:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cancelled.append(True)
        return [{"id": 1}]

    async with scene.mirror(fetch=fetch, timeout=5.0) as users:
        assert [type(error) for error in scene.errors] == [OperationTimeout] * 2
        assert list(users) == [1]


@scenario()
async def test_a_fetch_that_cancels_itself_has_failed(scene: Scene) -> None:
    """A CancelledError raised by the user's code ends neither the task nor the mirror (R1)."""
    calls = iter([asyncio.CancelledError, None])

    async def fetch() -> list[Any]:
        error = next(calls)
        if error is not None:
            raise error
        return []

    async with scene.mirror(fetch=fetch):
        assert [type(error.__cause__) for error in scene.errors] == [asyncio.CancelledError]


async def _rows() -> list[dict[str, int]]:
    return [{"id": 1}, {"id": 2}]


async def _one_by_one() -> AsyncIterator[dict[str, int]]:
    for row in await _rows():
        yield row


def _generated() -> Iterator[dict[str, int]]:
    yield {"id": 1}
    yield {"id": 2}


def _in_thread() -> Any:
    assert threading.current_thread().name == "supawire-fetch"
    return [{"id": 1}, {"id": 2}]


FETCHES: dict[str, Any] = {
    "async": _rows, "async generator": _one_by_one, "generator": _generated, "plain": _in_thread,
    "plain, gives an awaitable": lambda: _rows(), "a tuple": lambda: ({"id": 1}, {"id": 2}),
}  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize("name", FETCHES)
async def test_any_kind_of_function_fetches(name: str) -> None:
    """Plain functions and generators run on a thread, async ones on the event loop."""
    server = VirtualServer()
    async with server.connect() as client, client.mirror("t", key="id", fetch=FETCHES[name], settle=0) as mirror:
        assert list(mirror) == [1, 2]


@scenario()
async def test_an_incomplete_row_is_fetched_alone(scene: Scene) -> None:
    """Changes during the fetch of a row override it, and the fetch is cancelled by a delete and by closing the
    mirror."""
    cancelled: list[Any] = []
    table = scene.table

    async def fetch_row(key: dict[str, Any]) -> dict[str, Any] | None:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            cancelled.append(key.pop("id"))
            raise
        return table.rows.get(key.pop("id"))  # the function may change its argument

    table.put(1, v=0)
    users = scene.mirror(fetch_row=fetch_row)
    await users.ready()
    await asyncio.sleep(1)

    def put_incomplete(key: int, v: int) -> None:
        table.rows[key] = {"id": key, "v": v, "c": "two"}
        scene.server.emit("UPDATE", "users", record={"id": key, "v": v}, errors=TOO_LARGE)

    put_incomplete(1, v=1)
    await asyncio.sleep(0.5)
    assert users.state is MirrorState.REFETCHING and users.incomplete == {1} and users[1] == {"id": 1, "v": 0}
    await users.ready()
    assert users[1] == {"id": 1, "v": 1, "c": "two"} and table.queries == 1
    put_incomplete(1, v=2)
    await asyncio.sleep(0.5)
    table.delete(1)
    await asyncio.sleep(0.5)
    assert users.live and not users and cancelled == [1]
    put_incomplete(2, v=1)
    await asyncio.sleep(0.5)
    await users.close()
    assert cancelled == [1, 2] and scene.errors == []


@scenario()
async def test_a_fetch_of_a_row_that_hangs_fetches_all_rows(scene: Scene) -> None:
    """A fetch of one row that exceeds the timeout is replaced by a fetch of all rows."""
    table = scene.table
    table.put(1, v=0)

    async def fetch_row(key: dict[str, Any]) -> dict[str, Any] | None:
        await asyncio.get_running_loop().create_future()

    async with scene.mirror(fetch_row=fetch_row, timeout=5.0) as users:
        table.rows[1] = {"id": 1, "v": 1}
        scene.server.emit("UPDATE", "users", record={"id": 1}, errors=TOO_LARGE)
        await asyncio.sleep(5.5)
        assert users.state is not MirrorState.LIVE
        (error,) = scene.errors
        assert isinstance(error, OperationTimeout) and users.error is error
        await users.ready()
        assert users[1] == {"id": 1, "v": 1} and table.queries == 2 and users.error is None


@pytest.mark.anyio
async def test_plain_fetches_of_rows_that_hang_occupy_few_threads() -> None:
    """Hanging plain fetches cannot be stopped, so at most as many run at once as rows may be incomplete."""
    gate, running = threading.Event(), list[int]()

    def fetch_row(key: int) -> int:
        running.append(key)
        gate.wait(30)
        return key

    calls = FetchCalls("fetch_row", fetch_row, lambda key, given: given, on_thread_only=False, at_once=2)
    tasks = [asyncio.ensure_future(calls.result(number)) for number in range(4)]
    await until(lambda: len(running) == 2)
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert len(running) == 2
    gate.set()
    assert await asyncio.gather(*tasks[1:]) == [1, 2, 3] and sorted(running) == [0, 1, 2, 3]


@pytest.mark.anyio
async def test_a_plain_fetch_whose_thread_cannot_start_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain fetch whose thread did not start does not count as running, so the next one does not wait for it."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    calls = FetchCalls("fetch", lambda: [7], lambda given: given, on_thread_only=False)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            await calls.result()
    async with asyncio.timeout(5):
        assert await calls.result() == [7]


@pytest.mark.anyio
async def test_a_plain_fetch_that_hangs_occupies_one_thread() -> None:
    """A plain fetch that hangs cannot be stopped: the next attempt waits for it, and closing does not."""
    server, gate, calls = VirtualServer(), threading.Event(), 0

    def fetch() -> list[Any]:
        nonlocal calls
        calls += 1
        gate.wait(30)
        return [{"id": calls}]

    errors: list[Exception] = []
    async with server.connect(on_error=errors.append) as client:
        mirror = client.mirror("t", key="id", fetch=fetch, settle=0, timeout=0.01, backoff=QUICK, pause=0)
        await until(lambda: len(errors) >= 3)
        assert calls == 1
        gate.set()
        await mirror.ready(None)
        assert list(mirror) == [calls]  # mostly 2; a thread does not follow virtual time, and may be late
        gate.clear()
        before = calls
        mirror.refresh()
        await until(lambda: calls > before)
        await mirror.close()
    gate.set()
