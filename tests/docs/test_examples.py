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

PAGES = [page for page in pages() if "```python" in page.read_text(encoding="utf-8")]


def shown(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Runner:
    """Runs the blocks of one page in one namespace and on one event loop; a block may await at its top."""

    def __init__(self, loop: asyncio.Runner) -> None:
        self._loop = loop

    def evaluate(self, example: Example) -> None:
        """Run one block; a traceback names the page and the line in it."""
        tree = ast.parse(str(example.parsed), example.path)
        ast.increment_lineno(tree, example.line)
        code = compile(tree, example.path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if not code.co_flags & inspect.CO_COROUTINE:
            exec(code, example.namespace)
            return
        block = FunctionType(code, example.namespace)
        self._loop.run(cast("Coroutine[Any, Any, None]", block()))


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_the_examples_of_a_page_run(page: Path):
    """Every Python block of the page runs against the local server without an error."""
    with asyncio.Runner() as loop:
        sybil = Sybil(parsers=[CodeBlockParser("python", Runner(loop).evaluate)], pattern="*.md", encoding="utf-8")
        document = sybil.parse(page)
        document.namespace["__name__"] = "__main__"
        examples = list(document.examples())
        for example in examples:
            example.evaluate()
    assert len(examples) == page.read_text(encoding="utf-8").count("```python")
