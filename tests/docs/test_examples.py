"""The documentation is executed: every Python block of every page runs, in the order of its page."""

import ast
import asyncio
import inspect
from collections.abc import Coroutine
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from docs.tables import ROOT, pages
from supawire import AsyncClient, LocalServer, connect_async

PAGES = [page for page in pages() if "```python" in page.read_text(encoding="utf-8")]


def shown(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Runner:
    """Runs the blocks of one page in one namespace and on one event loop, as `python -m asyncio` does.

    A block may await at its top. A whole program, which has an `asyncio.run` of its own, runs as a program.
    """

    def __init__(self, loop: asyncio.Runner) -> None:
        self._loop = loop

    def evaluate(self, example: Example) -> None:
        """Run one block; a traceback names the page and the line in it."""
        tree = ast.parse(str(example.parsed), example.path)
        ast.increment_lineno(tree, example.line)
        code = compile(tree, example.path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        block = FunctionType(code, example.namespace)
        if "asyncio.run(" in str(example.parsed):
            block()
        else:
            self._loop.run(self._run(block, code.co_flags & inspect.CO_COROUTINE))

    async def _run(self, block: FunctionType, awaits: int) -> None:
        if awaits:
            await cast("Coroutine[Any, Any, None]", block())
        else:
            block()


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_the_examples_of_a_page_run(page: Path):
    """Every Python block of the page runs against a local server, without an error that anybody or nobody waits for."""
    unheard: list[Exception] = []

    async def opened() -> AsyncClient:
        return await connect_async(server.url, server.token(), on_error=unheard.append)

    with LocalServer() as server, asyncio.Runner() as loop:
        client = loop.run(opened())
        sybil = Sybil(parsers=[CodeBlockParser("python", Runner(loop).evaluate)], pattern="*.md", encoding="utf-8")
        document = sybil.parse(page)
        document.namespace |= {"__name__": "__main__", "server": server, "client": client}
        examples = list(document.examples())
        for example in examples:
            example.evaluate()
        loop.run(client.close())
    assert len(examples) == page.read_text(encoding="utf-8").count("```python")
    assert unheard == []
