"""Who wants what on one channel, compiled into lookups (architecture: hot lane).

The lane makes one lookup a frame: event name, or binding id and kind of change, to a tuple of plain callables.
Wildcards are merged in when the index is built. A listener with several selectors appears once in any tuple.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from msgspec import Struct

from supawire.core.effects import Listeners
from supawire.core.modelled import Modelled
from supawire.selectors import (
    ANY,
    BroadcastSelector,
    ChangesSelector,
    GapsSelector,
    ModelSelector,
    PresenceSelector,
    Selector,
    StatusSelector,
    SystemSelector,
)

_CHANGES: Final = ("INSERT", "UPDATE", "DELETE")
_KEPT: Final = 256


class Listener(Struct, frozen=True, eq=False):
    """One handler or iterator: what it wants and where its events go. Two listeners are never the same."""

    selectors: tuple[Selector[Any], ...]
    deliver: Callable[[Any], None]


class Index:
    """The listeners of a channel."""

    __slots__ = (
        "_ids", "_known", "_listeners", "_unions", "_wanted_changes", "any_broadcast", "binary", "bindings",
        "broadcasts", "changes", "gaps", "models", "presence", "status", "system",
    )  # fmt: skip

    def __init__(self) -> None:
        self._listeners: dict[Listener, None] = {}
        self._ids: dict[ChangesSelector[Any], int] = {}
        self._known: frozenset[int] = frozenset()
        self._wanted_changes: Sequence[tuple[ChangesSelector[Any], Callable[[Any], None]]] = ()
        self._unions: dict[tuple[str, frozenset[int]], Listeners] = {}
        self.broadcasts: dict[str, Listeners] = {}
        self.binary: dict[bytes, tuple[str, Listeners]] = {}
        self.any_broadcast: Listeners = ()
        self.models: bool = False
        """Whether somebody wants payloads as objects of a class, which are made of the frame."""
        self.changes: dict[int, dict[str, Listeners]] = {}
        self.presence: Listeners = ()
        self.system: Listeners = ()
        self.gaps: Listeners = ()
        self.status: Listeners = ()
        self.bindings: tuple[ChangesSelector[Any], ...] = ()
        """The distinct bindings that the live listeners want, in the order in which they were first wanted."""

    def add(self, listener: Listener) -> None:
        """Register; live at once for everything but changes that the present join does not have."""
        self._listeners[listener] = None
        self._compile()

    def remove(self, listener: Listener) -> None:
        """Unregister; twice is once."""
        self._listeners.pop(listener, None)
        self._compile()

    def has(self, deliver: Callable[[Any], None]) -> bool:
        """Whether this very callable is a listener's."""
        return any(listener.deliver is deliver for listener in self._listeners)

    def joined(self, ids: dict[ChangesSelector[Any], int]) -> None:
        """Take the binding ids of a join's reply; those of any earlier join are void (R15)."""
        self._ids, self._known = ids, frozenset(ids.values())
        self._compile_changes()

    def covers(self) -> bool:
        """Whether the present join has every binding that is wanted."""
        return all(binding in self._ids for binding in self.bindings)

    def kinds(self) -> frozenset[str]:
        """The kinds of events that somebody listens to and that a gap may swallow."""
        wanted = {
            "changes": self.bindings,
            "broadcast": self.any_broadcast or self.broadcasts,
            "presence": self.presence,
        }
        return frozenset(kind for kind, listeners in wanted.items() if listeners)

    def union(self, ids: Iterable[int], kind: str) -> Listeners:
        """Who wants a row that matches several bindings: each listener once, by the first of its selectors (R41)."""
        wanted = self._known.intersection(ids)  # the server says which ids, and could say any, and any number
        if not wanted:
            return ()
        key = (kind, wanted)
        found = self._unions.get(key)
        if found is None:
            found = self._find(wanted, kind)
            if len(self._unions) >= _KEPT:
                self._unions.clear()
            self._unions[key] = found
        return found

    def _find(self, ids: frozenset[Any], kind: str) -> Listeners:
        return _distinct(
            deliver
            for selector, deliver in self._wanted_changes
            if self._ids.get(selector) in ids and selector.event in (ANY, kind)
        )

    def _compile(self) -> None:
        by_kind: dict[type[Selector[Any]], list[Any]] = {}
        for listener in self._listeners:
            for each in listener.selectors:
                selector, deliver = _unwrapped(each, listener)
                by_kind.setdefault(type(selector), []).append((selector, deliver))

        def of(kind: type[Selector[Any]]) -> Listeners:
            return _distinct(deliver for _, deliver in by_kind[kind]) if kind in by_kind else ()

        self._compile_broadcasts(by_kind.get(BroadcastSelector, []))
        self._wanted_changes = by_kind.get(ChangesSelector, ())
        self.bindings = tuple(dict.fromkeys(selector for selector, _ in self._wanted_changes))
        self._compile_changes()
        self.presence, self.system = of(PresenceSelector), of(SystemSelector)
        self.gaps, self.status = of(GapsSelector), of(StatusSelector)

    def _compile_broadcasts(self, wanted: list[tuple[BroadcastSelector[Any], Callable[[Any], None]]]) -> None:
        def taking(*events: str) -> Listeners:
            return _distinct(deliver for selector, deliver in wanted if selector.event in events)

        self.broadcasts = {event: taking(event, ANY) for event in {selector.event for selector, _ in wanted} - {ANY}}
        self.any_broadcast = taking(ANY)
        self.models = any(isinstance(deliver, Modelled) for _, deliver in wanted)
        self.binary = {event.encode(): (event, listeners) for event, listeners in self.broadcasts.items()}

    def _compile_changes(self) -> None:
        """By id and kind of change. The kind is checked too: servers before 2.74.0 send every kind (protocol §10)."""
        self._unions.clear()
        index: dict[int, dict[str, list[Callable[[Any], None]]]] = {}
        for selector, deliver in self._wanted_changes:
            number = self._ids.get(selector)
            if number is not None:
                for kind in _CHANGES if selector.event == ANY else (selector.event,):
                    index.setdefault(number, {}).setdefault(kind, []).append(deliver)
        self.changes = {
            number: {kind: _distinct(found) for kind, found in kinds.items()} for number, kinds in index.items()
        }


_Wanted = tuple[Selector[Any], Callable[[Any], None]]


def _unwrapped(selector: Selector[Any], listener: Listener) -> _Wanted:
    if isinstance(selector, ModelSelector):
        return selector.plain, Modelled(listener.deliver, selector.model)
    return selector, listener.deliver


def _distinct(listeners: Iterable[Callable[[Any], None]]) -> Listeners:
    """Each object once, the first: two of the user's may be equal and not the same, or have no hash at all."""
    found: dict[int, Callable[[Any], None]] = {}
    for listener in listeners:
        found.setdefault(id(listener.deliver if isinstance(listener, Modelled) else listener), listener)
    return tuple(found.values())
