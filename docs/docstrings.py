"""A Sphinx extension that converts the docstrings of this project to reStructuredText.

Docstrings are plain sentences with Markdown's single backticks, and sections that begin with `Args:`, `Returns:`,
`Raises:`, `Attributes:`, `Yields:`, `Wire:` or `Example:`, which become fields: one for each argument and each error.
Code stays code; nothing else is markup. Classes that users do not create are shown without the arguments of `__init__`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import supawire.testing

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FIELD: Final = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Wire|Example):\s*(.*)")
_CODE: Final = re.compile(r"(`[^`]+`)")
_SECTION: Final = re.compile(r"docs/protocol\\?\.md, ([A-Z][\w ]*\w)")
_MARKUP: Final = re.compile(r"([\\*|])|(?<=\w)_(?=\W|$)")

_MISPLACED: Final = re.compile(
    r",? ?\*\*misnamed: \w+|,? ?\*misplaced: \w+(?=,? ?\*\*misnamed|\))|(?<=\*)misplaced: \w+"
)
_NAMED: Final = re.compile(r"(?:^|(?<=[.;] )|(?<=\n))((?:`?\w+`?,\s)*`?\w+`?):\s")
_ERROR: Final = r"`?\b(?:[a-z]+\.)?\w*(?:Error|Timeout)\b`?"
_RAISED: Final = re.compile(rf"(?:^|(?<=[.;] )){_ERROR}(?:(?:, | and (?:other )?){_ERROR})*")

_LISTS: Final = {
    "Args": ("Arguments", "**{}**"),
    "Attributes": ("Attributes", "**{}**"),
    "Raises": ("Raises", ":py:exc:`{}`"),
}
"""The sections that are lists: the title, and how a name is printed."""

CREATED: Final = frozenset({
    "Backoff", "Batch", "Bridge", "JetStream", "Kafka", "PostgresCheckpoint", "RedisStreams", "SqliteCheckpoint",
    "Webhook", "ChannelOptions", "Claimed", "ClientOptions", "Closed", "Cursor", "DatabaseHistory",
    "FakeHttp", "Finished", "Gap", "HttpRequest", "HttpResponse", "Hub", "HubOptions", "Incoming", "Limits",
    "LocalServer",
    "MemoryJobs", "MemoryTransport", "OpenRequest", "Page", "PostgresCursors", "PostgresOutbox", "PostgresStreams",
    "PostgresVerifier", "RecordingTransport", "Relay", "RestHistory", "ServerLimits", "SqliteCursors", "SqliteOutbox",
    "Status", "StoredRow", "StoredStream", "Summary", "System", "Timings", "VirtualClock", "VirtualServer",
    "View", "VirtualTimeLoop", "Worker", "World",
})  # fmt: skip
"""The public classes that users create. All others are made by calls, or by the client from what it receives."""


def _escape(text: str) -> str:
    return _MARKUP.sub(lambda found: "\\" + found[0], text)


def inline(text: str) -> str:
    """Return one line with the parts in backticks as literals, sections of the protocol as links, the rest escaped."""
    parts = _CODE.split(text)
    text = "".join(f"`{part}`" if part.startswith("`") and len(part) > 2 else _escape(part) for part in parts)
    return _SECTION.sub(lambda found: _link(found[1]), text)


def parameters_of(it: Any) -> Collection[str]:
    """Return the names that a section `Args` or `Attributes` of the docstring may describe."""
    try:
        names = set(inspect.signature(it).parameters)
    except (TypeError, ValueError):
        names = set[str]()
    return names | {name for base in getattr(it, "__mro__", ()) for name in vars(base).get("__annotations__", ())}


def _names_in(found: re.Match[str]) -> str:
    return found[1].replace("\n", " ").replace("`", "")


def described(text: str, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield names and description of arguments; text before the first one has the name ""."""
    name, start = "", 0
    for found in _NAMED.finditer(text):
        listed = _names_in(found)
        if all(one in names for one in listed.split(", ")):
            if text[start : found.start()].strip():
                yield name, text[start : found.start()].strip().replace("\n", " ").rstrip(";")
            name, start = listed, found.end()
    yield name, text[start:].strip().replace("\n", " ")


def raised(text: str) -> Iterator[tuple[str, str]]:
    """Yield names and condition of errors; text before the first one has the name ""."""
    text = text.replace("\n", " ")
    starts = [found.start() for found in _RAISED.finditer(text)]
    if text[: starts[0] if starts else len(text)].strip():
        starts.insert(0, 0)
    for start, end in pairwise([*starts, len(text)]):
        part = text[start:end].strip()
        found = _RAISED.match(part)
        if found is None:
            yield "", part
            continue
        condition = part[found.end() :].lstrip(":,.; ").rstrip(" ;")
        yield ", ".join(name.strip("`") for name in re.findall(_ERROR, found[0])), condition


def _wire(text: str) -> str:
    page, *sections = text.rstrip(".").split(", ")
    assert page == "docs/protocol.md", text
    return ", ".join(map(_link, sections))


def _link(section: str) -> str:
    return f"`{section} <protocol.html#{section.lower().replace(' ', '-')}>`__"


def _field(kind: str, text: str, names: Collection[str]) -> Iterator[str]:
    flat = text.replace("\n", " ").strip()
    if kind in _LISTS:
        label, mark = _LISTS[kind]
        yield f":{label}:"
        for listed, description in raised(text) if kind == "Raises" else described(text, names):
            named = ", ".join(mark.format(name) for name in listed.split(", ") if name)
            yield f"    * {': '.join(part for part in (named, inline(description)) if part)}"
    elif kind == "Wire":
        yield f":Protocol: {_wire(flat)}"
    else:
        yield f":{kind}: {inline(flat)}"


def converted(lines: list[str], names: Collection[str] = ()) -> Iterator[str]:
    """Yield the lines of a docstring as reStructuredText; `names`: of the arguments or attributes."""
    section: tuple[str, list[str]] | None = None
    in_code = False
    is_start = True  # of a paragraph
    for line in [*lines, ""]:
        text = line.strip()
        field = FIELD.match(text) if line == text else None
        begins = is_start and line == text
        is_start = not text
        if (
            begins
            and field is None
            and (named := _NAMED.match(text))
            and set(_names_in(named).split(", ")) <= set(names)
        ):
            section = "Attributes", [text]
            yield ""
            continue
        if section is not None and text and field is None:
            section[1].append(text)
            continue
        if section is not None:
            yield from _field(section[0], "\n".join(section[1]), names)
            section = None
        if field is not None:
            yield ""
            section = field[1], [field[2]]
        elif not text:
            in_code = False
            yield ""
        elif in_code or line.startswith("    "):
            if not in_code:
                yield from ("::", "")
            in_code = True
            yield "    " + line
        elif text.startswith(("* ", "- ")):
            yield f"* {inline(text[2:])}"
        else:
            yield inline(text)


def process(_app: Sphinx, _what: str, _name: str, it: Any, _options: Any, lines: list[str]) -> None:
    """Convert a docstring; called by Sphinx for each."""
    lines[:] = list(converted(lines, parameters_of(it)))


def signature_for_users(
    _app: Sphinx, what: str, name: str, _it: Any, _options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Return the signature to show: none for a class that users do not create, and no parameters that only raise.

    `*misplaced` and `**misnamed` receive the arguments of other clients, to raise an error that shows the right call.
    """
    if what in ("class", "exception") and name.rpartition(".")[2] not in CREATED:
        return "", None
    if signature:
        signature = _MISPLACED.sub("", signature)
    return signature, returned


def drop_overloads(_app: Sphinx) -> None:
    """Show an overloaded function once, with the signature of its implementation, not once for each overload."""
    from sphinx.pycode import ModuleAnalyzer

    public = [getattr(package, name) for package in (supawire, supawire.testing) for name in package.__all__]
    for module in {it.__module__ for it in public} - {"typing", "collections.abc"}:
        analyzer = ModuleAnalyzer.for_module(module)
        analyzer.analyze()
        analyzer.overloads.clear()


def keep_type(_app: Sphinx, document: Any) -> None:
    """Replace links from `type[...]` in signatures, which would lead to the property `type` of changes, by text."""
    from docutils.nodes import Text
    from sphinx.addnodes import pending_xref

    for link in list(document.findall(pending_xref)):
        if link.get("refdomain") == "py" and link.get("reftarget") == "type":
            link.replace_self(Text("type"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension; called by Sphinx."""
    app.connect("builder-inited", drop_overloads)
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", signature_for_users)
    app.connect("doctree-read", keep_type)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
