"""Docstrings are converted to the markup of the reference."""

import inspect

import pytest

from docs.docstrings import converted

CASES = {
    "code is literal and stars are stars": ("`maybe_sent` or *args", "``maybe_sent`` or \\*args"),
    "a name at the end of a line is not a link": ("see from_ and 1_000", "see from\\_ and 1_000"),
    "arguments become a list": (
        "Send.\n\nArgs: event: a name.\n    Its: text. timeout, pause:\n    seconds.",
        "Send.\n\n\n:Arguments:\n    * **event**: a name. Its: text.\n    * **timeout**, **pause**: seconds.\n",
    ),
    "a paragraph that describes attributes becomes a list": (
        "Counts.\n\n`event`: a name; `pause`: seconds.\n\nOther: not one.",
        "Counts.\n\n\n:Attributes:\n    * **event**: a name\n    * **pause**: seconds.\n\nOther: not one.",
    ),
    "errors become a list of links": (
        "Raises: StateError when closed. AuthError and other `JoinError`: no.",
        "\n:Raises:\n    * :py:exc:`StateError`: when closed.\n    * :py:exc:`AuthError`, :py:exc:`JoinError`: no.\n",
    ),
    "sections of the protocol become links": (
        "See docs/protocol.md, Value types.\n\nWire: docs/protocol.md, Join.",
        "See `Value types <protocol.html#value-types>`__.\n\n\n:Protocol: `Join <protocol.html#join>`__\n",
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
    lines = converted(inspect.cleandoc(docstring).splitlines(), {"event", "timeout", "pause"})
    assert "\n".join(lines).rstrip("\n") == expected.rstrip("\n")
