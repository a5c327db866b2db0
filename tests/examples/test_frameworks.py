"""The examples in examples/frameworks, in an environment that has what they need (.ci/steps.d/20-frameworks)."""

import asyncio
import json
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from supawire import LocalServer
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(240)]  # kernels and servers start slowly

EXAMPLES = ROOT / "examples" / "frameworks"


@asynccontextmanager
async def running(python: str, server: LocalServer, *words: str) -> AsyncGenerator[Process]:
    """Start a program of that environment, with this source tree on its path."""
    process = await asyncio.create_subprocess_exec(
        python,
        *words,
        cwd=EXAMPLES,
        env=os.environ
        | {"SUPAWIRE_URL": server.url, "SUPAWIRE_KEY": server.anon_key, "PYTHONPATH": str(ROOT / "src")}
        | {"PYTHONDONTWRITEBYTECODE": "1", "JUPYTER_PLATFORM_DIRS": "1"},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def line_with(stream: asyncio.StreamReader | None, pattern: str) -> re.Match[str]:
    """Return the first match in the lines of a stream."""
    assert stream is not None
    lines: list[str] = []
    while line := (await stream.readline()).decode():
        if found := re.search(pattern, line):
            return found
        lines.append(line)
    raise AssertionError(f"it ended without saying {pattern}: {''.join(lines)}")


async def event(response: aiohttp.ClientResponse) -> tuple[str, Any]:
    """Return name and data of the next event of a stream."""
    name = ""
    while line := (await response.content.readline()).decode().rstrip():
        if line.startswith("event: "):
            name = line[7:]
        if line.startswith("data: "):
            return name, json.loads(line[6:])
    return await event(response) if not response.content.at_eof() else ("end", None)


async def status(browser: aiohttp.ClientSession, url: str) -> int:
    """Return the status of a request."""
    async with browser.get(url) as response:
        return response.status


@asynccontextmanager
async def site(
    python: str, server: LocalServer, app: str
) -> AsyncGenerator[tuple[Process, str, aiohttp.ClientSession]]:
    """Run an application under uvicorn; afterwards stop it as a supervisor does, with a stream still open."""
    async with (
        running(python, server, "-m", "uvicorn", app, "--port", "0") as program,
        aiohttp.ClientSession() as browser,
    ):
        url = (await line_with(program.stderr, r"running on (http://\S+)"))[1]
        yield program, url, browser
        program.send_signal(signal.SIGTERM)
        err = (await asyncio.wait_for(program.communicate(), 30))[1].decode()
        assert "Finished server process" in err and "Traceback" not in err
        assert [frame.event for frame in server.frames][-1] == "phx_leave"


async def test_fastapi_relays_rows_and_gaps_to_browsers(require: Callable[[str], str]):
    """Each browser receives the rows of its shop and gaps, by one join, and at the end when to come back."""
    async with (
        LocalServer() as server,
        site(require("frameworks"), server, "fastapi_relay:app") as (program, url, browser),
    ):
        async with browser.get(url) as page:
            assert "EventSource" in await page.text()
        assert await status(browser, f"{url}/orders?user=mallory") == 401
        stack = AsyncExitStack()
        alice, bob = [
            await stack.enter_async_context(browser.get(f"{url}/orders?user={name}")) for name in ("alice", "bob")
        ]
        assert alice.content_type == "text/event-stream"
        assert sum(frame.event == "phx_join" for frame in server.frames) == 1
        for number, shop in ((1, 1), (2, 2)):
            server.emit("INSERT", "orders", record={"id": number, "shop": shop})
        assert (await event(alice))[1]["record"] == {"id": 1, "shop": 1}
        assert (await event(bob))[1]["record"] == {"id": 2, "shop": 2}
        async with browser.ws_connect(f"{url}/orders?user=bob") as socket:
            assert (await socket.receive_json())["event"] == "ready"
            server.emit_delete("orders", old_record={"id": 2, "shop": 2})
            assert (await socket.receive_json())["data"]["type"] == "DELETE"
            assert (await event(bob))[1]["type"] == "DELETE"
        server.drop_connections()
        for stream in (alice, bob):
            while (found := await event(stream))[0] != "gap":
                assert found[0] == "status"
            assert found[1]["lost"] == ["changes"]
        program.send_signal(signal.SIGTERM)
        rest = await alice.text()
        assert rest.rstrip().rpartition("\n")[2].startswith("retry: ")
        await stack.aclose()


async def test_litestar_relays_rows_to_browsers(require: Callable[[str], str]):
    """An event stream and a WebSocket of Litestar receive a row; its guards refuse both without the password."""
    async with LocalServer() as server, site(require("frameworks"), server, "litestar_relay:app") as (_, url, browser):
        assert await status(browser, f"{url}/orders") == 401
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await browser.ws_connect(f"{url}/orders/socket")
        async with (
            browser.get(f"{url}/orders?password=open") as stream,
            browser.ws_connect(f"{url}/orders/socket?password=open") as socket,
        ):
            assert (await socket.receive_json())["event"] == "ready"
            server.emit("INSERT", "orders", record={"id": 1})
            assert (await event(stream))[1]["record"] == (await socket.receive_json())["data"]["record"] == {"id": 1}


async def test_starlette_relays_a_chat(require: Callable[[str], str]):
    """What one browser sends reaches all, under its own name; one without a name is refused with its status."""
    async with LocalServer() as server, site(require("frameworks"), server, "starlette_relay:app") as (_, url, browser):
        async with browser.get(url) as page:
            assert "WebSocket" in await page.text()
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await browser.ws_connect(f"{url}/live/lobby/")
        assert refused.value.status == 401
        async with (
            browser.ws_connect(f"{url}/live/lobby/?name=alice") as alice,
            browser.ws_connect(f"{url}/live/lobby/?name=bob") as bob,
        ):
            for socket in (alice, bob):
                assert (await socket.receive_json())["event"] == "presence_state"
                assert (await socket.receive_json())["event"] == "ready"
            await alice.send_json({"event": "text", "payload": "hello"})
            for socket in (alice, bob):
                assert (await socket.receive_json())["data"]["payload"] == {"from": "alice", "text": "hello"}


async def test_a_django_command_follows_a_table(require: Callable[[str], str]):
    """follow_orders prints the rows that match its filter, and SIGTERM ends it cleanly."""
    async with LocalServer() as server:
        arguments = "django_orders/manage.py", "follow_orders", "--filter", "total=gte.100"
        async with running(require("frameworks"), server, *arguments) as program:
            await line_with(program.stdout, "following")
            server.emit("INSERT", "orders", record={"id": 1, "total": 5})
            server.emit("INSERT", "orders", record={"id": 2, "total": 500})
            assert (await line_with(program.stdout, r"INSERT .*"))[0] == "INSERT {'id': 2, 'total': 500}"
            program.send_signal(signal.SIGTERM)
            out, err = await program.communicate()
            assert (program.returncode, out, err) == (0, b"stopped\n", b"")
        async with running(require("frameworks"), server, *arguments[:3], "total=atleast.100") as program:
            err = (await program.communicate())[1].decode()
            assert program.returncode == 1 and err.startswith("CommandError: ") and "Traceback" not in err


async def test_the_notebook_runs(require: Callable[[str], str]):
    """Every cell runs in Jupyter's event loop: the sync client, a handler, a row, and the async client."""
    async with LocalServer() as server:
        arguments = str(ROOT / "tests" / "examples" / "run_notebook.py"), str(EXAMPLES / "notebook.ipynb")
        async with running(require("frameworks"), server, *arguments) as program:
            ended = asyncio.ensure_future(program.communicate())
            while not ended.done() and all(frame.event != "broadcast" for frame in server.frames):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the kernel starts slowly, and the server has no event for a received frame
            server.emit("INSERT", "users", record={"id": 7})
            out, err = await ended
            assert program.returncode == 0, err.decode()
        address = server.url.removeprefix("http://")
    shown = json.loads(out)
    assert shown == [
        f"<Client of {address} open, 1 channels>",
        "{'user': 'alice'}",
        "(True, {'user': 'bob'})",
        "{'id': 7}",
        "{'user': 'carol'}",
        f"<Client of {address} closed, 1 channels>",
    ]
