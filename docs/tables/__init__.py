"""Tables in pages that are generated from the code they describe, and the lines that show plots.

A page marks the place, and `python -m docs.tables` writes the text between the marks:

    <!-- table: connection -->
    <!-- end of table -->

A table is a function without arguments that returns Markdown. It registers itself under its name, in any module of this
package; all of them are imported:

    @table("connection")
    def connection() -> str: ...

`tests/docs/test_tables.py` compares the pages with the code, and fails for a table that is in no page.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent

TABLES: Final[dict[str, Callable[[], str]]] = {}

_PLACE: Final = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n)(?P<text>.*?)(<!-- end of table -->)", re.DOTALL)


NEEDED: Final[dict[str, str]] = {}
"""Packages of extras that tables need, by the name of the table."""


def table(name: str, *, needs: str | None = None) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Register the decorated function under the name that pages use. needs: a package that only an extra installs."""

    def register(function: Callable[[], str]) -> Callable[[], str]:
        if name in TABLES:
            message = f"two tables are called {name!r}"
            raise ValueError(message)
        TABLES[name] = function
        if needs is not None:
            NEEDED[name] = needs
        return function

    return register


def rows(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a `|` inside a cell is escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"

    return line(head) + line(["---"] * len(head)) + "".join(line(cells) for cells in lines)


def load() -> None:
    """Import every module of this package, so that all tables are registered."""
    for module in pkgutil.iter_modules(__path__):
        if module.name != "__main__":
            importlib.import_module(f"{__name__}.{module.name}")


def pages() -> list[Path]:
    """Return every page that may contain a table: those in the root folder, in docs/ and in skills/."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "skills").rglob("*.md")])


def printed(name: str) -> str:
    """Return the table as generated from the current code."""
    return TABLES[name]().strip("\n") + "\n"


def places(page: Path) -> list[tuple[str, str]]:
    """Return name and current text of each marked place of a page, in order."""
    return [
        (place["name"], place["text"].strip("\n") + "\n") for place in _PLACE.finditer(page.read_text(encoding="utf-8"))
    ]


def rewritten(page: Path) -> str:
    """Return the text of the page with all tables generated from the current code."""
    return _PLACE.sub(
        lambda place: f"{place[1]}\n{printed(place['name'])}\n{place[4]}", page.read_text(encoding="utf-8")
    )
