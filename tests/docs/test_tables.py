"""Generated tables in pages are up to date."""

from collections import Counter
from pathlib import Path

import pytest

from docs import tables

tables.load()


def shown(page: Path) -> str:
    return page.relative_to(tables.ROOT).as_posix()


PLACES = [(page, name) for page in tables.pages() for name, _ in tables.places(page)]


@pytest.mark.parametrize(("page", "name"), PLACES, ids=lambda value: shown(value) if isinstance(value, Path) else value)
def test_tables_are_up_to_date(page: Path, name: str):
    """Each generated table equals its source; `python -m docs.tables` rewrites them."""
    if name in tables.NEEDED:
        pytest.importorskip(tables.NEEDED[name])
    assert dict(tables.places(page))[name] == tables.printed(name)


def test_every_table_is_in_one_page():
    """Each generated table is in exactly one page."""
    assert Counter(name for _, name in PLACES) == Counter(tables.TABLES.keys())


def test_every_open_mark_is_closed():
    """Each mark of a table in a page is complete."""
    for page in tables.pages():
        text = page.read_text(encoding="utf-8")
        assert text.count("<!-- table:") == text.count("<!-- end of table -->") == len(tables.places(page)), shown(page)
