"""Values as Elixir prints them: the server's error texts quote what it was given (protocol §3.6)."""

from collections.abc import Sequence
from typing import Any, Final

from supawire.server.wire import is_list, is_object

WIDTH: Final = 80
"""Columns after which `inspect` breaks a list over several lines."""


def inspect(value: Any) -> str:
    """A JSON value on one line, as `inspect/1` has it."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if is_object(value):
        return "%{" + ", ".join(f"{_quoted(key)} => {inspect(value[key])}" for key in sorted(value)) + "}"
    if is_list(value):
        return "[" + ", ".join(map(inspect, value)) + "]"
    return str(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("#{", "\\#{")
    return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r") + '"'


def inspect_filters(filters: Sequence[tuple[Any, ...]]) -> str:
    """A list of tuples, broken over lines where it is longer than the width."""
    items = [[inspect(part) for part in parts] for parts in filters]
    line = "[" + ", ".join("{" + ", ".join(parts) + "}" for parts in items) + "]"
    if len(line) <= WIDTH:
        return line
    return "[\n" + ",\n".join("  " + _filled(parts) for parts in items) + "\n]"


def _filled(parts: list[str]) -> str:
    """A tuple, indented by two: as many parts on each line as fit."""
    text, column = "{" + parts[0], 3 + len(parts[0])
    for position, part in enumerate(parts[1:], start=2):
        comma = position < len(parts)
        if column + 2 + len(part) + comma <= WIDTH:
            text, column = f"{text}, {part}", column + 2 + len(part)
        else:
            text, column = f"{text},\n   {part}", 3 + len(part)
    return text + "}"
