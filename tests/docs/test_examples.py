"""The documentation is executed: every Python block of every page runs, in the order of its page.

A block of `output` after it is what it prints; the two are compared.
"""

import ast
import asyncio
import builtins
import inspect
import logging
import os
import re
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from docs.tables import ROOT, pages
from supawire import AsyncClient, LocalServer, connect_async
from tests import loops
from tests.clients.accounts import Supabase

NO_MCP = pytest.mark.skipif(not find_spec("mcp"), reason="this page needs the extra mcp")
NO_ASGI = pytest.mark.skipif(not find_spec("starlette"), reason="this page needs the extra asgi")
NO_OTEL = pytest.mark.skipif(
    not all(map(find_spec, ("opentelemetry", "prometheus_client", "structlog"))), reason="this page needs OpenTelemetry"
)
NO_POSTGRES = pytest.mark.skipif(not find_spec("psycopg"), reason="this page needs the extra postgres")
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def needs_postgres(page: Path) -> bool:
    blocks = CODE.findall(page.read_text(encoding="utf-8"))
    return any("postgres=True" in block or "supawire.worker" in block for block in blocks)


def needs_mcp(page: Path) -> bool:
    return any("from mcp import" in block for block in CODE.findall(page.read_text(encoding="utf-8")))


def needs_asgi(page: Path) -> bool:
    return any("supawire.asgi" in block for block in CODE.findall(page.read_text(encoding="utf-8")))


def marks(page: Path) -> list[pytest.MarkDecorator]:
    found = [NO_POSTGRES] * needs_postgres(page) + [NO_MCP] * needs_mcp(page) + [NO_ASGI] * needs_asgi(page)
    return found + [NO_OTEL] * (page.name == "telemetry.md")


PAGES = [
    pytest.param(page, marks=marks(page))
    for page in pages()
    if not page.name.startswith("tutorial-")  # followed by test_tutorial.py
    if "```python" in page.read_text(encoding="utf-8")
]


def shown(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def level_as_before() -> Iterator[None]:
    """Restore the level and the handlers of the logger, which a page sets."""
    logger = logging.getLogger("supawire")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


class Runner:
    """Runs the blocks of one page in one namespace and on one event loop, as `python -m asyncio` does.

    A block may await at its top. A whole program, which has an `asyncio.run` of its own, runs as a program, and a block
    with tests in it is a module of its own that pytest runs, in another process.
    """

    def __init__(self, loop: asyncio.Runner, folder: Path) -> None:
        self._loop = loop
        self._folder = folder
        self._printed = ""

    def evaluate(self, example: Example) -> None:
        """Run one block; a traceback names the page and the line in it."""
        if "def test_" in str(example.parsed):
            self._store_tests(str(example.parsed))
            return
        tree = ast.parse(str(example.parsed), example.path)
        ast.increment_lineno(tree, example.line)
        code = compile(tree, example.path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        block = FunctionType(code, example.namespace)
        with redirect_stdout(StringIO()) as printed:
            if "asyncio.run(" in str(example.parsed):
                block()
            else:
                self._loop.run(self._run(block, code.co_flags & inspect.CO_COROUTINE))
        self._printed = printed.getvalue()
        sys.stdout.write(self._printed)

    def compare(self, example: Example) -> None:
        """Check that the block before has printed the text of this one."""
        assert self._printed == example.parsed, f"{example.path}, line {example.line}"

    def _store_tests(self, text: str) -> None:
        module = self._folder / f"test_{len(list(self._folder.iterdir()))}.py"
        module.write_text(text, encoding="utf-8")

    def test(self) -> None:
        """Run the tests found in the blocks."""
        if not list(self._folder.iterdir()):
            return
        plugins = ["-p", "anyio", "-p", "supawire.testing.plugin", "-p", "no:cacheprovider"]
        options = ["-q", *plugins, "-W", "error", "-c", os.devnull, "--rootdir", "."]
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", *options, "."],
            check=False,
            cwd=self._folder,
            env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

    async def _run(self, block: FunctionType, awaits: int) -> None:
        if awaits:
            await cast("Coroutine[Any, Any, None]", block())
        else:
            block()


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_the_examples_of_a_page_run(
    page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    """Every Python block of the page runs against a local server without an error, also none in `on_error`."""
    monkeypatch.chdir(tmp_path_factory.mktemp("page"))  # where pages write their files
    if loops.chosen() == "uvloop" and "import trio" in page.read_text(encoding="utf-8"):
        pytest.skip("not run: trio and uvloop both want the process's signals")
    background_errors: list[Exception] = []

    async def opened() -> AsyncClient:
        return await connect_async(server.url, server.token(), on_error=background_errors.append)

    with LocalServer() as server, asyncio.Runner() as loop:
        client = loop.run(opened())
        runner = Runner(loop, tmp_path)
        parsers = [CodeBlockParser("python", runner.evaluate), CodeBlockParser("output", runner.compare)]
        sybil = Sybil(parsers=parsers, pattern="*.md", encoding="utf-8")
        document = sybil.parse(page)
        supabase = Supabase(server.url, server.anon_key)
        document.namespace |= {"__name__": "__main__", "__builtins__": builtins}
        document.namespace |= {"server": server, "client": client, "supabase": supabase}
        examples = list(document.examples())
        for example in examples:
            example.evaluate()
        loop.run(client.close())
    runner.test()
    assert len(examples) - page.read_text(encoding="utf-8").count("```output") == page.read_text(
        encoding="utf-8"
    ).count("```python")
    assert background_errors == []
