"""Docstrings of the house in the words of Sphinx.

A docstring here is a contract in plain sentences with Markdown's single backticks, and paragraphs that begin with
`Args:`, `Returns:`, `Raises:`, `Attributes:`, `Yields:` or `Wire:`. They become a list of fields; code stays code, and
nothing else is taken for markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FIELD: Final = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Wire|Example):\s*(.*)")
_CODE: Final = re.compile(r"(`[^`]+`)")
_MARKUP: Final = re.compile(r"([\\*|])|(?<=\w)_(?=\W|$)")


def _escape(text: str) -> str:
    return _MARKUP.sub(lambda found: "\\" + found[0], text)


def inline(text: str) -> str:
    """One line: what stands in backticks becomes literal, the rest is text."""
    parts = _CODE.split(text)
    return "".join(f"`{part}`" if part.startswith("`") and len(part) > 2 else _escape(part) for part in parts)


def converted(lines: list[str]) -> Iterator[str]:
    """A docstring as reStructuredText, line by line."""
    in_field = False
    in_code = False
    for line in lines:
        text = line.strip()
        field = FIELD.match(text) if line == text else None
        if not text:
            in_field = in_code = False
            yield ""
        elif field is not None:
            if not in_field:
                yield ""
            in_field = True
            yield f":{field[1]}: {inline(field[2])}"
        elif in_field:
            yield f"    {inline(text)}"
        elif in_code or line.startswith("    "):
            if not in_code:
                yield from ("::", "")
            in_code = True
            yield "    " + line
        elif text.startswith(("* ", "- ")):
            yield f"* {inline(text[2:])}"
        else:
            yield inline(text)


def process(_app: Sphinx, _what: str, _name: str, _it: Any, _options: Any, lines: list[str]) -> None:
    """Sphinx asks for each docstring here."""
    lines[:] = list(converted(lines))


def keep_type(_app: Sphinx, document: Any) -> None:
    """`type[...]` in a signature is Python's own, and no link to the property `type` of changes."""
    from docutils.nodes import Text
    from sphinx.addnodes import pending_xref

    for link in list(document.findall(pending_xref)):
        if link.get("refdomain") == "py" and link.get("reftarget") == "type":
            link.replace_self(Text("type"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this once."""
    app.connect("autodoc-process-docstring", process)
    app.connect("doctree-read", keep_type)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
