"""Split a file of SQL into statements, each with the line where it begins."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""--[^\n]*                                     # comment to the end of the line
      | /\*                                          # comment that may hold others
      | '
      | "
      | \$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$   # dollar quote
      | [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*
      | [;()]
      | [^\s]                                        # anything else
    """,
    re.VERBOSE | re.ASCII,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_ESCAPED_END: Final = re.compile(r"[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: its text without comments before it, and the line of its file where it begins."""

    text: str
    line: int

    def line_at(self, position: int | None) -> int:
        """Return the line of a position that PostgreSQL reports, which counts characters from 1."""
        return self.line if position is None else self.line + self.text.count("\n", 0, position - 1)


class _Nesting:
    """How deep the text is in parentheses and in blocks, in which a semicolon ends no statement."""

    def __init__(self) -> None:
        self.previous = ""
        self._parentheses = 0
        self._blocks = 0

    def __bool__(self) -> bool:
        return bool(self._parentheses or self._blocks)

    def add(self, word: str) -> None:
        """Take one word or sign, in lower case."""
        if word == "(":
            self._parentheses += 1
        elif word == ")":
            self._parentheses = max(0, self._parentheses - 1)
        elif word == "atomic" and self.previous == "begin":
            self._blocks = 1
        elif self._blocks:
            self._blocks += (word == "case") - (word == "end")
        self.previous = word


def split(text: str) -> Iterator[Statement]:
    """Yield the statements of a text, without their semicolons.

    Knows strings, quoted names, dollar quotes, comments inside one another, parentheses, and bodies of functions in
    `begin atomic … end`. What is not closed goes to the end; PostgreSQL says then what is wrong.
    """
    begin, line, counted, position = -1, 1, 0, 0
    nesting = _Nesting()
    while (found := _TOKEN.search(text, position)) is not None:
        piece, position = found[0], found.end()
        if piece.startswith(("--", "/*")):
            position = _after_comment(text, position) if piece[0] == "/" else position
        elif piece == ";" and not nesting:
            if begin >= 0:
                yield Statement(text[begin : found.start()].rstrip(), line)
            begin, nesting = -1, _Nesting()
        else:
            if begin < 0:
                begin = found.start()
                line += text.count("\n", counted, begin)
                counted = begin
            position = _after_quoted(text, piece, position, nesting.previous)
            nesting.add(piece.lower())
    if begin >= 0:
        yield Statement(text[begin:].rstrip(), line)


def _after_comment(text: str, position: int) -> int:
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(text, position)) is not None:
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return len(text) if depth else position


def _after_quoted(text: str, sign: str, position: int, previous: str) -> int:
    """Return where the string or quoted name ends that begins with this sign, or the position when none begins."""
    if sign == "'" and previous == "e" and text[position - 2 : position - 1] in ("e", "E"):
        found = _ESCAPED_END.match(text, position)
        return len(text) if found is None else found.end()
    if sign in ("'", '"') or (len(sign) > 1 and sign[0] == "$" == sign[-1]):
        end = text.find(sign, position)
        return len(text) if end < 0 else end + len(sign)
    return position
