"""LIKE as PostgreSQL reads it, in time that is bounded: nothing that was found is given up again."""

import re
from functools import lru_cache
from typing import Final

_WORK: Final = 100_000_000
"""Comparisons of one letter that a LIKE may need at most."""


class Like:
    """A LIKE pattern: `%` is any text, `_` any letter. escapes: a backslash takes its meaning from the next letter.

    Raises: ValueError: the pattern ends with an escape.
    """

    def __init__(self, text: str, *, escapes: bool = True, ignore_case: bool = False) -> None:
        self._flags = re.DOTALL | (re.IGNORECASE if ignore_case else re.NOFLAG)
        self._parts: list[list[str]] = [[]]
        letters = iter(text)
        for letter in letters:
            if letter == "%":
                self._parts += [[]] if self._parts[-1] or len(self._parts) == 1 else []
            elif letter == "\\" and escapes:
                following = next(letters, None)
                if following is None:
                    raise ValueError("LIKE pattern must not end with escape character")
                self._parts[-1].append(re.escape(following))
            else:
                self._parts[-1].append("." if letter == "_" else re.escape(letter))
        self._width = sum(map(len, self._parts))
        """Letters that a text has at least."""
        self._longest = max(map(len, self._parts))
        self._compiled: list[re.Pattern[str]] | None = None

    def search(self, text: str) -> bool:
        """Whether the whole text is like the pattern. Raises: ValueError: it would take too long to find out."""
        size = len(text)
        if self._width > size or (len(self._parts) == 1 and self._width != size):
            return False
        if self._longest * size > _WORK:
            raise ValueError("pattern and text are too long")
        if self._compiled is None:
            self._compiled = [re.compile("".join(part), self._flags) for part in self._parts]
        first, *middle = self._compiled
        last = middle.pop() if middle else first
        end = size - len(self._parts[-1])
        if first.match(text) is None or last.match(text, end) is None:
            return False
        at = len(self._parts[0]) if len(self._parts) > 1 else end
        for part in middle:
            found = part.search(text, at, end)
            if found is None:
                return False
            at = found.end()
        return at <= end


def like_without_escapes(pattern: str, text: str) -> bool:
    """Whether the text is like the pattern, where nothing is an escape.

    Most patterns are seen often and are kept; of one from outside nothing is kept that is longer than twice the text.
    """
    if len(pattern) - pattern.count("%") > len(text):
        return False
    return _without_escapes(_MANY.sub("%", pattern)).search(text)


_MANY: Final = re.compile("%{2,}+")


@lru_cache(1024)
def _without_escapes(pattern: str) -> Like:
    return Like(pattern, escapes=False)
