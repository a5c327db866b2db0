"""Formatting of values as Elixir prints them, because the server's error texts quote its input."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from supawire.server.wire import is_list, is_object

WIDTH: Final = 80
"""Line width at which `inspect` breaks a list over several lines."""


def elixir_inspect(value: Any) -> str:
    """Return a JSON value on one line as `inspect/1` formats it. Not recursive: clients choose the depth."""
    parts: list[str] = []
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, _Mark):
            parts.append(item.text)
        elif is_object(item):
            todo += reversed(_marked(item))
        elif is_list(item):
            todo += reversed([_Mark("["), *_separated([[each] for each in item]), _Mark("]")])
        else:
            parts.append(_scalar(item))
    return "".join(parts)


class _Mark(NamedTuple):
    """Text between two values."""

    text: str


def _marked(item: dict[str, Any]) -> list[Any]:
    pairs: list[list[Any]] = [[_Mark(_quoted(key)), _Mark(" => "), item[key]] for key in sorted(item)]
    return [_Mark("%{"), *_separated(pairs), _Mark("}")]


def _separated(groups: list[list[Any]]) -> list[Any]:
    """Return the items of all groups, with a comma before each group but the first."""
    found: list[Any] = []
    for number, group in enumerate(groups):
        if number:
            found.append(_Mark(", "))
        found += group
    return found


def _scalar(value: Any) -> str:
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("#{", "\\#{")
    return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r") + '"'


def inspect_filters(filters: Sequence[tuple[Any, ...]]) -> str:
    """Return a list of tuples, broken over several lines where it exceeds the line width."""
    items = [[elixir_inspect(part) for part in parts] for parts in filters]
    line = "[" + ", ".join("{" + ", ".join(parts) + "}" for parts in items) + "]"
    if len(line) <= WIDTH:
        return line
    return "[\n" + ",\n".join("  " + _filled(parts) for parts in items) + "\n]"


def _filled(parts: list[str]) -> str:
    """Return a tuple indented by two, with as many elements on each line as fit."""
    text, column = "{" + parts[0], 3 + len(parts[0])
    for position, part in enumerate(parts[1:], start=2):
        comma = position < len(parts)
        if column + 2 + len(part) + comma <= WIDTH:
            text, column = f"{text}, {part}", column + 2 + len(part)
        else:
            text, column = f"{text},\n   {part}", 3 + len(part)
    return text + "}"
