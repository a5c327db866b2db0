"""The examples with FastAPI, Django and Jupyter, in an environment that has them (.ci/steps.d/20-frameworks)."""

import asyncio
import json
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
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


async def event(response: aiohttp.ClientResponse) -> Any:
    """Return the next event of a stream."""
    while line := await response.content.readline():
        if line.startswith(b"data: "):
            return json.loads(line[6:])
    raise AssertionError("the stream ended")


async def test_fastapi_relays_rows_and_gaps_to_browsers(require: Callable[[str], str]):
    """Two browsers receive each row and the gap of a lost connection; the server joins once, and ends cleanly."""
    async with LocalServer() as server:
        arguments = "-m", "uvicorn", "fastapi_relay:app", "--port", "0", "--timeout-graceful-shutdown", "1"
        async with running(require("frameworks"), server, *arguments) as program:
            url = (await line_with(program.stderr, r"running on (http://\S+)"))[1]
            async with aiohttp.ClientSession() as browser, browser.get(url) as page:
                assert "EventSource" in await page.text()
                async with browser.get(f"{url}/orders") as one, browser.get(f"{url}/orders") as other:
                    for stream in (one, other):
                        assert stream.content_type == "text/event-stream"
                        assert await stream.content.readline() == b": welcome\n"
                    assert sum(frame.event == "phx_join" for frame in server.frames) == 1
                    server.emit("INSERT", "orders", record={"id": 1, "total": 5})
                    for stream in (one, other):
                        assert await event(stream) == {"type": "INSERT", "row": {"id": 1, "total": 5}}
                    server.drop_connections()
                    for stream in (one, other):
                        assert await event(stream) == {"type": "GAP", "lost": ["changes"]}
                    server.emit_delete("orders", old_record={"id": 1})
                    assert await event(one) == {"type": "DELETE", "row": {"id": 1}}
            program.send_signal(signal.SIGINT)
            err = (await program.communicate())[1].decode()
            assert "Finished server process" in err and "Traceback" not in err
            assert [frame.event for frame in server.frames][-1] == "phx_leave"


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
