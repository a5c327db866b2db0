"""Docstrings are converted to the markup of the reference."""

import inspect

import pytest

from docs.docstrings import converted

CASES = {
    "code is literal and stars are stars": ("`maybe_sent` or *args", "``maybe_sent`` or \\*args"),
    "a name at the end of a line is not a link": ("see from_ and 1_000", "see from\\_ and 1_000"),
    "a section becomes a field, with its continuation": (
        "Promise.\n\nArgs: event: a name.\n    more of it.\nRaises: StateError.",
        "Promise.\n\n\n:Args: event: a name.\n    more of it.\n:Raises: StateError.",
    ),
    "an indented block is shown as it stands": (
        "For example\n\n    with it() as x:\n        `x`*2\n\nand on",
        "For example\n\n::\n\n        with it() as x:\n            `x`*2\n\nand on",
    ),
    "a list stays a list": ("- one\n* two", "* one\n* two"),
}


@pytest.mark.parametrize("name", CASES)
def test_docstrings_become_markup(name: str):
    """Each form of a docstring is converted to the markup that its case expects."""
    docstring, expected = CASES[name]
    assert "\n".join(converted(inspect.cleandoc(docstring).splitlines())) == expected
