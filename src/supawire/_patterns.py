"""Patterns as PostgreSQL finds them, in time that is linear in the text.

Python's `re` goes back and tries again, which takes exponential time for some patterns; here pattern and text may both
come from outside. A regular expression becomes an automaton whose states are made when the text first needs them, and
only whether it is found is asked, so one pass over the text is enough. What such an automaton cannot do (back
references, looking ahead or behind) is refused.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from supawire._like import Like
from supawire._posix import BeyondUs, NoneOf, Reader, Takes, Tree, is_word, none_of

_WORK: Final = 1_000_000
"""Nodes that are visited for one text at most; text whose letters repeat needs next to none."""

_NODES: Final = 2000
_KEPT: Final = 20_000
"""Entries of the states that one automaton keeps, before it begins anew."""

_FOUND: Final = 0
_START, _WORD, _OTHER = range(3)
"""What stands before a letter."""


class _State:
    """Where the automaton may be before a letter. moves: by letter what follows, None when the pattern is found."""

    __slots__ = ("before", "moves", "nodes")

    def __init__(self, nodes: frozenset[int], before: int) -> None:
        self.nodes = nodes
        self.before = before
        self.moves: dict[str, _State | None] = {}


class Regex:
    """A regular expression of PostgreSQL ("advanced"). Raises: ValueError with PostgreSQL's words, or ours."""

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        reader = Reader(text)
        tree = reader.read()
        self._any_case = ignore_case or reader.ignore_case
        self._nodes: list[tuple[str, Any, tuple[int, ...]]] = [("found", None, ())]
        self._first = self._add(tree, _FOUND)
        self._forget()

    def search(self, text: str) -> bool:
        """Whether the pattern is found in the text. Raises: ValueError: it would take too long to find out."""
        work = _WORK
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

    # --- making it

    def _add(self, tree: Tree, then: int) -> int:
        match tree:
            case ("one", takes):
                return self._node("one", _in_any_case(takes) if self._any_case else takes, then)
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
        if len(self._nodes) >= _NODES:
            raise BeyondUs("regular expression is too complex")
        self._nodes.append((kind, what, then))
        return len(self._nodes) - 1

    # --- running it

    def _forget(self) -> None:
        self._begin = _State(frozenset([self._first]), _START)
        self._states = {(self._begin.nodes, _START): self._begin}
        self._room = _KEPT

    def _move(self, state: _State, letter: str) -> tuple[_State | None, int]:
        reached = self._reached(state, letter)
        following: _State | None = None
        if _FOUND not in reached:
            nodes = self._taking(reached, letter)
            before = _WORD if is_word(letter) else _OTHER
            following = self._states.get((nodes, before))
            if following is None:
                following = self._states[nodes, before] = _State(nodes, before)
                self._room -= len(nodes)
        state.moves[letter] = following
        self._room -= 1
        if self._room < 0:
            self._forget()
        return following, len(reached)

    def _taking(self, reached: Iterable[int], letter: str) -> frozenset[int]:
        nodes = {self._first}
        for number in reached:
            kind, what, then = self._nodes[number]
            if kind == "one" and what(letter):
                nodes.update(then)
        return frozenset(nodes)

    def _reached(self, state: _State, letter: str | None) -> set[int]:
        """The nodes that are reached without a letter; `letter`: the one that comes next, None at the end."""
        reached: set[int] = set()
        waiting = list(state.nodes)
        while waiting:
            number = waiting.pop()
            if number not in reached:
                reached.add(number)
                kind, what, then = self._nodes[number]
                if kind == "or" or (kind == "at" and _stands(what, state.before, letter)):
                    waiting += then
        return reached


def _stands(where: str, before: int, letter: str | None) -> bool:
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


def _in_any_case(takes: Takes) -> Takes:
    if isinstance(takes, NoneOf):
        return none_of([_in_any_case(takes.takes)])
    return lambda letter: takes(letter) or takes(letter.lower()) or takes(letter.upper())


def compiled(op: str, text: str) -> Like | Regex:
    """The pattern of one of the operators like, ilike, match and imatch; long ones are not kept. Raises: ValueError."""
    return (_kept if len(text) <= _LONGEST_KEPT else _made)(op, text)


_LONGEST_KEPT: Final = 4096


def _made(op: str, text: str) -> Like | Regex:
    make = Like if op in {"like", "ilike"} else Regex
    return make(text, ignore_case=op.startswith("i"))


_kept: Final = lru_cache(64)(_made)
