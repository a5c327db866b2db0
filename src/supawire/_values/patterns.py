"""Match LIKE patterns and PostgreSQL's "advanced" regular expressions in bounded time.

Python's `re` backtracks, which takes exponential time for some patterns; here both pattern and text may be untrusted.
A regular expression is parsed into a tree and converted to an automaton whose states are created on demand. Only
whether it matches anywhere is needed, so a single pass over the text suffices. Features that such an automaton does not
support (back references, lookaround) are refused. LIKE is matched without backtracking, too.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, TypeAlias

_MAX_LENGTH: Final = 20_000
_MAX_DEPTH: Final = 50
_MAX_REPEATS: Final = 255

Accepts: TypeAlias = Callable[[str], bool]
Tree: TypeAlias = tuple[Any, ...]
"""`("one", accepts)`, `("at", where)`, `("all", trees)`, `("any", trees)` or `("times", tree, least, most)`."""


def is_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def _ascii(letters: str) -> Accepts:
    return frozenset(letters).__contains__


_LOWER: Final = "abcdefghijklmnopqrstuvwxyz"
_CLASSES: Final[dict[str, Accepts]] = {
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
_SHORTHANDS: Final = {"d": "digit", "s": "space", "w": "word"}
_ESCAPES: Final = {"a": "\a", "b": "\b", "B": "\\", "e": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_HEX: Final = {"u": 4, "U": 8}
_POSITIONS: Final = frozenset("AmMyYZ")


class UnsupportedPatternError(ValueError):
    """A regular expression that PostgreSQL may support, but this implementation does not."""


class PatternParser:
    """Parses one pattern. Raises: ValueError with PostgreSQL's text."""

    def __init__(self, text: str) -> None:
        if len(text) > _MAX_LENGTH:
            raise UnsupportedPatternError("regular expression is too complex")
        self._text = text
        self._at = 0
        self._depth = 0
        self.ignore_case = False

    def read(self) -> Tree:
        if self._accept("***="):
            rest = self._text[self._at :]
            return ("all", [("one", letter.__eq__) for letter in rest])
        if not self._accept("***:") and self._text.startswith("***"):
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

    def _accept(self, mark: str) -> bool:
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        return True

    def _next(self, error: str) -> str:
        if self._at >= len(self._text):
            raise ValueError(error)
        self._at += 1
        return self._text[self._at - 1]

    def _branches(self) -> Tree:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UnsupportedPatternError("regular expression is too complex")
        branches = [self._branch()]
        while self._accept("|"):
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
            if bounds is None and self._accept(mark):
                bounds = (least, most)
        if bounds is None and self._text[self._at : self._at + 1] == "{" and self._digit(self._at + 1):
            bounds = self._bounds()
        if bounds is not None:
            self._accept("?")  # greediness does not affect whether there is a match
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
        if low > _MAX_REPEATS or (high is not None and (high > _MAX_REPEATS or high < low)):
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
        if self._accept("?") and not self._accept(":"):
            raise UnsupportedPatternError("lookaround and embedded options are not supported without a database")
        tree = self._branches()
        if not self._accept(")"):
            raise ValueError("parentheses () not balanced")
        return tree

    def _escape(self) -> Tree:
        letter = self._next("invalid escape \\ sequence")
        if letter in _POSITIONS:
            return ("at", letter)
        if letter.lower() in _SHORTHANDS:
            known = _CLASSES[_SHORTHANDS[letter.lower()]]
            return ("one", known if letter.islower() else none_of([known]))
        return ("one", self._escaped(letter).__eq__)

    def _escaped(self, letter: str) -> str:
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        if letter in _HEX:
            return self._coded(_HEX[letter], _HEX[letter])
        if letter == "x":
            return self._coded(1, 8)
        if letter == "c":
            return chr(ord(self._next("invalid escape \\ sequence")) & 0x1F)
        if letter == "0":
            return "\0"
        if letter.isascii() and letter.isdecimal():
            raise UnsupportedPatternError("back references are not supported without a database")
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
            if self._accept(mark):
                return ("at", place)
        negated = self._accept("^")
        first = True
        classes: list[Accepts] = []
        letters: set[str] = set()
        while first or not self._accept("]"):
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

    def _item(self) -> str | Accepts:
        letter = self._next("brackets [] not balanced")
        if letter == "[" and self._text[self._at : self._at + 1] in {":", ".", "="}:
            return self._named(self._next(""))
        if letter != "\\":
            return letter
        letter = self._next("brackets [] not balanced")
        if letter in _SHORTHANDS:
            return _CLASSES[_SHORTHANDS[letter]]
        if letter in _POSITIONS or letter.lower() in _SHORTHANDS:
            raise ValueError("invalid escape \\ sequence")
        return self._escaped(letter)

    def _named(self, mark: str) -> str | Accepts:
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


def _between(first: str, last: str) -> Accepts:
    return lambda letter: first <= letter <= last


def _one_of(classes: list[Accepts]) -> Accepts:
    return lambda letter: any(accepts(letter) for accepts in classes)


class NoneOf:
    """All characters except those; a class, so that the other case of a character is checked before negating."""

    def __init__(self, classes: list[Accepts]) -> None:
        self.accepts = _one_of(classes)

    def __call__(self, letter: str) -> bool:
        return not self.accepts(letter)


def none_of(classes: list[Accepts]) -> Accepts:
    return NoneOf(classes)


_MAX_LIKE_STEPS: Final = 100_000_000
"""Maximum comparisons of single characters for one LIKE."""


class Like:
    """A LIKE pattern: `%` is any text, `_` any character. escapes: a backslash makes the next character literal.

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
        """Minimum length of a matching text."""
        self._max_part = max(map(len, self._parts))
        self._compiled: list[re.Pattern[str]] | None = None

    def search(self, text: str) -> bool:
        """Return whether the whole text matches. Raises: ValueError if it would take too long."""
        size = len(text)
        if self._width > size or (len(self._parts) == 1 and self._width != size):
            return False
        if self._max_part * size > _MAX_LIKE_STEPS:
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
    """Return whether the text matches a pattern without escapes.

    Patterns are cached, except those longer than twice the text, because they may be untrusted input.
    """
    if len(pattern) - pattern.count("%") > len(text):
        return False
    return like_cached(_REPEATED_PERCENT.sub("%", pattern)).search(text)


_REPEATED_PERCENT: Final = re.compile("%{2,}+")


@lru_cache(1024)
def like_cached(pattern: str) -> Like:
    return Like(pattern, escapes=False)


_MAX_STEPS: Final = 1_000_000
"""Maximum nodes visited for one text; texts with repeating characters need few."""

_MAX_NODES: Final = 2000
_MAX_CACHED_MOVES: Final = 20_000
"""Maximum entries of the cached states of one automaton; then the cache is cleared."""

_FOUND: Final = 0
_START, _WORD, _OTHER = range(3)
"""The kind of the preceding character."""


class _AutomatonState:
    """A state of the automaton. moves: the next state by character, None when the pattern has matched."""

    __slots__ = ("before", "moves", "nodes")

    def __init__(self, nodes: frozenset[int], before: int) -> None:
        self.nodes = nodes
        self.before = before
        self.moves: dict[str, _AutomatonState | None] = {}


class Regex:
    """A regular expression of PostgreSQL ("advanced"). Raises: ValueError with PostgreSQL's text or our own."""

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        reader = PatternParser(text)
        tree = reader.read()
        self._any_case = ignore_case or reader.ignore_case
        self._nodes: list[tuple[str, Any, tuple[int, ...]]] = [("found", None, ())]
        self._first = self._add(tree, _FOUND)
        self._reset()

    def search(self, text: str) -> bool:
        """Return whether the pattern occurs in the text. Raises: ValueError if it would take too long."""
        work = _MAX_STEPS
        state = self._begin
        for letter in text:
            try:
                following = state.moves[letter]
            except KeyError:
                following, cost = self._move(state, letter)
                work -= cost
                if work < 0:
                    raise ValueError("regular expression is too complex for this text") from None
            if following is None:
                return True
            state = following
        return _FOUND in self._reached(state, None)

    # --- construction

    def _add(self, tree: Tree, then: int) -> int:
        match tree:
            case ("one", accepts):
                return self._node("one", _in_any_case(accepts) if self._any_case else accepts, then)
            case ("at", where):
                return self._node("at", where, then)
            case ("all", trees):
                for one in reversed(trees):
                    then = self._add(one, then)
                return then
            case ("any", trees):
                return self._node("or", None, *(self._add(one, then) for one in trees))
            case _:
                _, one, least, most = tree
                return self._add_times(one, least, most, then)

    def _add_times(self, tree: Tree, least: int, most: int | None, then: int) -> int:
        if most is None:
            loop = self._node("or", None)
            self._nodes[loop] = ("or", None, (self._add(tree, loop), then))
            then = loop
        else:
            end = then
            for _ in range(most - least):
                then = self._node("or", None, self._add(tree, then), end)
        for _ in range(least):
            then = self._add(tree, then)
        return then

    def _node(self, kind: str, what: Any, *then: int) -> int:
        if len(self._nodes) >= _MAX_NODES:
            raise UnsupportedPatternError("regular expression is too complex")
        self._nodes.append((kind, what, then))
        return len(self._nodes) - 1

    # --- execution

    def _reset(self) -> None:
        self._begin = _AutomatonState(frozenset([self._first]), _START)
        self._states = {(self._begin.nodes, _START): self._begin}
        self._room = _MAX_CACHED_MOVES

    def _move(self, state: _AutomatonState, letter: str) -> tuple[_AutomatonState | None, int]:
        reached = self._reached(state, letter)
        following: _AutomatonState | None = None
        if _FOUND not in reached:
            nodes = self._after(reached, letter)
            before = _WORD if is_word(letter) else _OTHER
            following = self._states.get((nodes, before))
            if following is None:
                following = self._states[nodes, before] = _AutomatonState(nodes, before)
                self._room -= len(nodes)
        state.moves[letter] = following
        self._room -= 1
        if self._room < 0:
            self._reset()
        return following, len(reached)

    def _after(self, reached: Iterable[int], letter: str) -> frozenset[int]:
        nodes = {self._first}
        for number in reached:
            kind, what, then = self._nodes[number]
            if kind == "one" and what(letter):
                nodes.update(then)
        return frozenset(nodes)

    def _reached(self, state: _AutomatonState, letter: str | None) -> set[int]:
        """Return the nodes reachable without consuming a character; `letter`: the next one, None at the end."""
        reached: set[int] = set()
        waiting = list(state.nodes)
        while waiting:
            number = waiting.pop()
            if number not in reached:
                reached.add(number)
                kind, what, then = self._nodes[number]
                if kind == "or" or (kind == "at" and _holds(what, state.before, letter)):
                    waiting += then
        return reached


def _holds(where: str, before: int, letter: str | None) -> bool:
    after = letter is not None and is_word(letter)
    match where:
        case "A":
            return before == _START
        case "Z":
            return letter is None
        case "m":
            return before != _WORD and after
        case "M":
            return before == _WORD and not after
        case _:
            return ((before == _WORD) != after) is (where == "y")


def _in_any_case(accepts: Accepts) -> Accepts:
    if isinstance(accepts, NoneOf):
        return none_of([_in_any_case(accepts.accepts)])
    return lambda letter: accepts(letter) or accepts(letter.lower()) or accepts(letter.upper())


def compiled(op: str, text: str) -> Like | Regex:
    """Return the compiled pattern of like, ilike, match or imatch; long ones are not cached. Raises: ValueError."""
    return (compile_cached if len(text) <= _MAX_CACHED_LENGTH else _compile)(op, text)


_MAX_CACHED_LENGTH: Final = 4096


def _compile(op: str, text: str) -> Like | Regex:
    make = Like if op in {"like", "ilike"} else Regex
    return make(text, ignore_case=op.startswith("i"))


compile_cached: Final = lru_cache(64)(_compile)
