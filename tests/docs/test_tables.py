"""Pages say what the code does."""

from collections import Counter
from pathlib import Path

import pytest

from docs import tables

tables.load()


def shown(page: Path) -> str:
    return page.relative_to(tables.ROOT).as_posix()


PLACES = [(page, name) for page in tables.pages() for name, _ in tables.places(page)]


@pytest.mark.parametrize(("page", "name"), PLACES, ids=lambda value: shown(value) if isinstance(value, Path) else value)
def test_pages_say_what_the_code_does(page: Path, name: str):
    """Each generated table equals its source; `python -m docs.tables` rewrites them."""
    assert dict(tables.places(page))[name] == tables.printed(name)


def test_every_table_stands_in_one_page():
    """A table that the code prints stands in a page, and in no more than one."""
    assert Counter(name for _, name in PLACES) == Counter(tables.TABLES.keys())


def test_every_open_mark_is_closed():
    """No page has a mark that the search for tables does not understand."""
    for page in tables.pages():
        text = page.read_text(encoding="utf-8")
        assert text.count("<!-- table:") == text.count("<!-- end of table -->") == len(tables.places(page)), shown(page)
