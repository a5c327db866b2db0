"""Regular expressions as PostgreSQL writes them ("advanced" ones), read into a tree."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

_LONGEST: Final = 20_000
_DEPTH: Final = 50
_MOST_REPEATS: Final = 255

Takes: TypeAlias = Callable[[str], bool]
Tree: TypeAlias = tuple[Any, ...]
"""`("one", takes)`, `("at", where)`, `("all", trees)`, `("any", trees)` or `("times", tree, least, most)`."""


def is_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def _ascii(letters: str) -> Takes:
    return frozenset(letters).__contains__


_LOWER: Final = "abcdefghijklmnopqrstuvwxyz"
_CLASSES: Final[dict[str, Takes]] = {
    "alpha": _ascii(_LOWER + _LOWER.upper()),
    "alnum": _ascii(_LOWER + _LOWER.upper() + "0123456789"),
    "blank": _ascii(" \t"),
    "cntrl": lambda letter: letter < " " or letter == "\x7f",
    "digit": str.isdecimal,
    "graph": lambda letter: letter.isprintable() and not letter.isspace(),
    "lower": _ascii(_LOWER),
    "print": str.isprintable,
    "punct": _ascii("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    "space": str.isspace,
    "upper": _ascii(_LOWER.upper()),
    "word": is_word,
    "xdigit": _ascii("0123456789abcdefABCDEF"),
}
_SHORT: Final = {"d": "digit", "s": "space", "w": "word"}
_LETTERS: Final = {"a": "\a", "b": "\b", "B": "\\", "e": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_HEX: Final = {"u": 4, "U": 8}
_PLACES: Final = frozenset("AmMyYZ")


class BeyondUs(ValueError):
    """A regular expression that PostgreSQL may take, and we do not."""


class Reader:
    """Reads one pattern. Raises: ValueError with PostgreSQL's words."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise BeyondUs("regular expression is too complex")
        self._text = text
        self._at = 0
        self._depth = 0
        self.ignore_case = False

    def read(self) -> Tree:
        if self._takes("***="):
            rest = self._text[self._at :]
            return ("all", [("one", letter.__eq__) for letter in rest])
        if not self._takes("***:") and self._text.startswith("***"):
            raise ValueError("quantifier operand invalid")
        self._options()
        tree = self._branches()
        if self._at < len(self._text):
            raise ValueError("parentheses () not balanced")
        return tree

    def _options(self) -> None:
        if not self._text.startswith("(?", self._at) or self._text[self._at + 2 : self._at + 3] not in {"i", "c", "s"}:
            return
        end = self._text.find(")", self._at)
        letters = self._text[self._at + 2 : end]
        if end < 0 or not set(letters) <= {"i", "c", "s", "t"}:
            raise ValueError("invalid embedded option")
        for letter in letters:
            self.ignore_case = {"i": True, "c": False}.get(letter, self.ignore_case)
        self._at = end + 1

    def _takes(self, mark: str) -> bool:
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        return True

    def _next(self, lacking: str) -> str:
        if self._at >= len(self._text):
            raise ValueError(lacking)
        self._at += 1
        return self._text[self._at - 1]

    def _branches(self) -> Tree:
        self._depth += 1
        if self._depth > _DEPTH:
            raise BeyondUs("regular expression is too complex")
        branches = [self._branch()]
        while self._takes("|"):
            branches.append(self._branch())
        self._depth -= 1
        return branches[0] if len(branches) == 1 else ("any", branches)

    def _branch(self) -> Tree:
        found: list[Tree] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            atom = self._atom()
            repeated = self._repeats()
            if repeated is not None:
                if atom[0] == "at":
                    raise ValueError("quantifier operand invalid")
                atom = ("times", atom, *repeated)
                if self._repeats() is not None:
                    raise ValueError("quantifier operand invalid")
            found.append(atom)
        return ("all", found)

    def _repeats(self) -> tuple[int, int | None] | None:
        bounds: tuple[int, int | None] | None = None
        for mark, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if bounds is None and self._takes(mark):
                bounds = (least, most)
        if bounds is None and self._text[self._at : self._at + 1] == "{" and self._digit(self._at + 1):
            bounds = self._bounds()
        if bounds is not None:
            self._takes("?")  # the shortest or the longest: found is found
        return bounds

    def _digit(self, at: int) -> bool:
        return self._text[at : at + 1] in set("0123456789")

    def _bounds(self) -> tuple[int, int | None]:
        end = self._text.find("}", self._at)
        if end < 0:
            raise ValueError("braces {} not balanced")
        least, comma, most = self._text[self._at + 1 : end].partition(",")
        self._at = end + 1
        numbers = (least, most) if most else (least,)
        if not all(len(number) <= 3 and number.isascii() and number.isdecimal() for number in numbers):
            raise ValueError("invalid repetition count(s)")
        low = int(least)
        high = int(most) if most else None if comma else low
        if low > _MOST_REPEATS or (high is not None and (high > _MOST_REPEATS or high < low)):
            raise ValueError("invalid repetition count(s)")
        return low, high

    def _atom(self) -> Tree:
        letter = self._next("")
        match letter:
            case "(":
                return self._group()
            case "[":
                return self._bracket()
            case ".":
                return ("one", none_of([]))
            case "^" | "$":
                return ("at", {"^": "A", "$": "Z"}[letter])
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                raise ValueError("quantifier operand invalid")
            case "{" if self._digit(self._at):
                raise ValueError("quantifier operand invalid")
            case _:
                return ("one", letter.__eq__)

    def _group(self) -> Tree:
        if self._takes("?") and not self._takes(":"):
            raise BeyondUs("looking ahead or behind and options inside a pattern are not supported here")
        tree = self._branches()
        if not self._takes(")"):
            raise ValueError("parentheses () not balanced")
        return tree

    def _escape(self) -> Tree:
        letter = self._next("invalid escape \\ sequence")
        if letter in _PLACES:
            return ("at", letter)
        if letter.lower() in _SHORT:
            known = _CLASSES[_SHORT[letter.lower()]]
            return ("one", known if letter.islower() else none_of([known]))
        return ("one", self._escaped(letter).__eq__)

    def _escaped(self, letter: str) -> str:
        if letter in _LETTERS:
            return _LETTERS[letter]
        if letter in _HEX:
            return self._coded(_HEX[letter], _HEX[letter])
        if letter == "x":
            return self._coded(1, 8)
        if letter == "c":
            return chr(ord(self._next("invalid escape \\ sequence")) & 0x1F)
        if letter == "0":
            return "\0"
        if letter.isascii() and letter.isdecimal():
            raise BeyondUs("back references are not supported here")
        if letter.isascii() and letter.isalpha():
            raise ValueError("invalid escape \\ sequence")
        return letter

    def _coded(self, least: int, most: int) -> str:
        start = self._at
        while self._at < len(self._text) and self._at < start + most and _CLASSES["xdigit"](self._text[self._at]):
            self._at += 1
        digits = self._text[start : self._at]
        if len(digits) < least or int(digits, 16) > 0x10FFFF:
            raise ValueError("invalid escape \\ sequence")
        return chr(int(digits, 16))

    def _bracket(self) -> Tree:
        for mark, place in (("[:<:]]", "m"), ("[:>:]]", "M")):
            if self._takes(mark):
                return ("at", place)
        negated = self._takes("^")
        first = True
        classes: list[Takes] = []
        letters: set[str] = set()
        while first or not self._takes("]"):
            first = False
            one = self._item()
            if not isinstance(one, str):
                classes.append(one)
            elif self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                last = self._item()
                if not isinstance(last, str) or last < one:
                    raise ValueError("invalid character range")
                classes.append(_between(one, last))
            else:
                letters.add(one)
        classes.append(frozenset(letters).__contains__)
        return ("one", none_of(classes) if negated else _one_of(classes))

    def _item(self) -> str | Takes:
        letter = self._next("brackets [] not balanced")
        if letter == "[" and self._text[self._at : self._at + 1] in {":", ".", "="}:
            return self._named(self._next(""))
        if letter != "\\":
            return letter
        letter = self._next("brackets [] not balanced")
        if letter in _SHORT:
            return _CLASSES[_SHORT[letter]]
        if letter in _PLACES or letter.lower() in _SHORT:
            raise ValueError("invalid escape \\ sequence")
        return self._escaped(letter)

    def _named(self, mark: str) -> str | Takes:
        end = self._text.find(mark + "]", self._at)
        if end < 0:
            raise ValueError("brackets [] not balanced")
        name = self._text[self._at : end]
        self._at = end + 2
        if mark == ":":
            if name not in _CLASSES:
                raise ValueError("invalid character class")
            return _CLASSES[name]
        if len(name) != 1:
            raise ValueError("invalid collating element")
        return name


def _between(first: str, last: str) -> Takes:
    return lambda letter: first <= letter <= last


def _one_of(classes: list[Takes]) -> Takes:
    return lambda letter: any(takes(letter) for takes in classes)


class NoneOf:
    """Every letter but those; a class, so that the other case of a letter is looked at before it is turned round."""

    def __init__(self, classes: list[Takes]) -> None:
        self.takes = _one_of(classes)

    def __call__(self, letter: str) -> bool:
        return not self.takes(letter)


def none_of(classes: list[Takes]) -> Takes:
    return NoneOf(classes)
