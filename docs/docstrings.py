"""A Sphinx extension that converts the docstrings of this project to reStructuredText.

Docstrings are plain sentences with Markdown's single backticks, and paragraphs that begin with `Args:`, `Returns:`,
`Raises:`, `Attributes:`, `Yields:` or `Wire:`, which become a list of fields. Code stays code; nothing else is markup.
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
    """Return one line with the parts in backticks as literals and the rest escaped."""
    parts = _CODE.split(text)
    return "".join(f"`{part}`" if part.startswith("`") and len(part) > 2 else _escape(part) for part in parts)


def converted(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a docstring as reStructuredText."""
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
    """Convert a docstring; called by Sphinx for each."""
    lines[:] = list(converted(lines))


def keep_type(_app: Sphinx, document: Any) -> None:
    """Replace links from `type[...]` in signatures, which would lead to the property `type` of changes, by text."""
    from docutils.nodes import Text
    from sphinx.addnodes import pending_xref

    for link in list(document.findall(pending_xref)):
        if link.get("refdomain") == "py" and link.get("reftarget") == "type":
            link.replace_self(Text("type"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension; called by Sphinx."""
    app.connect("autodoc-process-docstring", process)
    app.connect("doctree-read", keep_type)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
