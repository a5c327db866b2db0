"""The examples of live streams with other packages, in an environment that has them (.ci/steps.d/20-frameworks)."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supawire import LocalServer, broadcast, connect_async
from tests.conftest import ROOT
from tests.examples.test_frameworks import line_with
from tests.server.inspector.browser import chromium

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(240)]  # some of these packages import slowly

EXAMPLES = ROOT / "examples" / "streams"
ANSWER = "Realtime is Phoenix over one WebSocket."
SHOW_IN_TERMINAL = """
import asyncio, sys
from textual.widgets import Markdown
from views import StreamApp

async def main():
    app = StreamApp()
    async with app.run_test() as pilot:
        print("ready", flush=True)
        for _ in range(2000):
            await pilot.pause(0.02)
            if "the end" in app.query_one(Markdown).source:
                return print(app.query_one(Markdown).source, flush=True)

asyncio.run(main())
"""
SHOW_IN_NOTEBOOK = """
import asyncio, os
from supawire import connect_async
from views import StreamWidget

async def main():
    widget = StreamWidget()
    shown = []
    widget.observe(lambda change: shown.append(change["new"]), "text")
    async with connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]) as client:
        async with client.channel("room") as room:
            print("ready", flush=True)
            await widget.show(room)
    assert shown[-1] == widget.text and len(shown) >= 1
    print(widget.text, flush=True)

asyncio.run(main())
"""


@asynccontextmanager
async def running(
    python: str, server: LocalServer, *words: str, folder: Path = EXAMPLES, **environment: str
) -> AsyncGenerator[Process]:
    """Start a program, with this source tree on its path."""
    process = await asyncio.create_subprocess_exec(
        python,
        *words,
        cwd=folder,
        env=os.environ
        | {"SUPAWIRE_URL": server.url, "SUPAWIRE_KEY": server.anon_key, "PYTHONPATH": str(ROOT / "src")}
        | {"PYTHONDONTWRITEBYTECODE": "1", "OPENAI_AGENTS_DISABLE_TRACING": "1", **environment},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def finished(process: Process) -> str:
    """Return what a program has printed, after its end without an error."""
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize("name", ["pydantic-ai", "langgraph", "openai-agents", "anthropic"])
async def test_answers_of_agents_arrive_as_text(require: Callable[[str], str], name: str):
    """What an agent of this package answers is what a reader of the stream gets."""
    async with LocalServer() as server, running(require("frameworks"), server, "answers.py", name) as program:
        assert await finished(program) == f"{ANSWER}\n"


async def test_events_of_ag_ui_arrive_as_json(require: Callable[[str], str]):
    """Each event of AG-UI is one JSON value, with the field names of its protocol."""
    async with LocalServer() as server, running(require("frameworks"), server, "answers.py", "ag-ui") as program:
        text = await finished(program)
        assert text.startswith("[{'type': 'RUN_STARTED', 'threadId': 't', 'runId': 'r'}, ")
        assert text.count("'TEXT_MESSAGE_CONTENT'") == len(ANSWER.split(" "))


@pytest.mark.parametrize("name", ["celery", "dramatiq", "arq"])
async def test_tasks_report_their_progress(require: Callable[[str], str], name: str):
    """A task of this package publishes its progress, which a listener receives."""
    async with LocalServer() as server, connect_async(server.url, server.anon_key) as client:
        progress = client.channel(f"task:{name}").listen(broadcast("progress"))
        await client.channel(f"task:{name}").subscribe()
        async with running(require("frameworks"), server, "tasks.py", name) as program:
            await finished(program)
        assert [(await anext(progress)).payload for _ in range(2)] == [{"done": 1, "of": 2}, {"done": 2, "of": 2}]


@pytest.mark.parametrize("script", [SHOW_IN_TERMINAL, SHOW_IN_NOTEBOOK], ids=["textual", "anywidget"])
async def test_views_show_a_stream(require: Callable[[str], str], script: str):
    """The Textual application and the widget for notebooks show the whole text."""
    async with (
        LocalServer() as server,
        connect_async(server.url, server.anon_key) as client,
        client.channel("room", ack=True) as room,
        running(require("frameworks"), server, "-c", script) as program,
    ):
        await line_with(program.stdout, "ready")
        await room.stream(["# Title\n\n", "some text, ", "the end"])
        assert (await finished(program)).strip() == "# Title\n\nsome text, the end"


async def test_wrong_questions_do_not_end_the_worker():
    """A question without its fields, and one whose id is not valid, are refused; the next one is answered."""
    async with (
        LocalServer() as server,
        running(sys.executable, server, "worker.py", folder=EXAMPLES / "chat") as worker,
    ):
        await line_with(worker.stdout, "waiting for questions")
        server.broadcast("questions", "asked", {"id": 7})
        await line_with(worker.stdout, "not a question")
        server.broadcast("questions", "asked", {"id": "", "text": "Why?"})
        await line_with(worker.stdout, "not answered: the id of a stream")
        server.broadcast("questions", "asked", {"id": "a", "text": "Why?"})
        await line_with(worker.stdout, r"complete: \d+ bytes")


@pytest.mark.needs("chromium", "supabase-js")
async def test_a_page_shows_the_answer_of_a_worker(require: Callable[[str], str], tmp_path: Path):
    """A question typed in the page is answered by the worker; the answer survives a reload and a lost connection."""
    library = ROOT / "tests/interop/peers/node_modules/@supabase/supabase-js/dist/umd/supabase.js"
    async with (
        LocalServer() as server,
        running(sys.executable, server, "worker.py", folder=EXAMPLES / "chat") as worker,
        running(
            require("frameworks"), server, "-m", "uvicorn", "app:app", "--port", "0", folder=EXAMPLES / "chat",
            SUPABASE_JS=str(library),
        ) as web,
        chromium(require("chromium"), tmp_path) as page,
    ):  # fmt: skip
        url = (await line_with(web.stderr, r"running on (http://\S+)"))[1]
        await line_with(worker.stdout, "waiting for questions")
        await page.open(url)
        await page.focus("input")
        await page.type("Why?")
        await page.press("Enter", 13)
        await page.shows("#answer", "You asked: Why?")
        await page.run("location.reload()")
        await page.shows("#answer", "The answer has some words")
        server.drop_connections()
        await page.shows("#status", "complete")
        text = "You asked: Why? The answer has some words, which come one after the other."
        assert (await page.text("#answer")).strip() == text
        assert await page.text("h1") == "Why?"
        assert page.complaints == []
        await line_with(worker.stdout, r"complete: \d+ bytes in \d+ messages")
