"""The listeners of one channel, compiled into lookup tables.

The hot path makes one lookup per frame: from an event name, or from a binding id and kind of change, to a tuple of
callables. Wildcards are merged into these tuples. A listener with several selectors appears once in any tuple.

Adding or removing a listener affects only what its selectors name, and drops the tuples that contain it. Each tuple is
rebuilt by the first frame that needs it, so that thousands of iterators can come and go on one channel. A dropped
broadcast tuple is empty: the hot path checks `stale` only for a message that seems to have no listeners.

`ModelAdapter` serves listeners that want rows or payloads as objects of a class (`model=`). Such an object is decoded
from the received text instead of the decoded value, so that numbers keep their digits and errors can quote the text.
For a broadcast, which is decoded with its frame, the text is cut out of the frame again.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import UNSET, Raw, Struct

from supawire._values.models import Model
from supawire.core import binary
from supawire.core.codec import CODECS, DECODE_ERRORS, encode_json
from supawire.core.effects import Listeners
from supawire.core.frames import V1, V2
from supawire.events import (
    Broadcast,
    Delete,
    Insert,
    LateBroadcast,
    PresenceEvent,
    Update,
    frame_of,
    presence_with_model,
    with_model,
)
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

_late: Final[type[LateBroadcast[Any]]] = LateBroadcast


class ModelAdapter:
    """Adapter that delivers the rows or payloads of one selector as objects of a class."""

    __slots__ = ("_model", "deliver")

    def __init__(self, deliver: Callable[[Any], Any], model: Model) -> None:
        self.deliver: Final = deliver
        self._model = model

    def __call__(self, event: Any) -> Any:
        return self.deliver(_with_model(event, self._model))


_CHANGE_TYPES: Final = (Insert, Update, Delete)
_Modelled = Broadcast[Any] | Insert[Any] | Update[Any] | Delete | PresenceEvent[Any]


def _with_model(event: _Modelled, model: Model) -> _Modelled:
    if isinstance(event, Broadcast):
        return _late(event.topic, event.event, UNSET, event.id, event.replayed, b"", _text(event), model)
    if isinstance(event, _CHANGE_TYPES):
        return with_model(event, model)
    return presence_with_model(event, model)


def _text(event: Broadcast[Any]) -> Raw | bytes:
    """Return the payload as received."""
    frame = frame_of(event)
    if frame[:1] == bytes((binary.USER_BROADCAST.kind,)):
        unpacked = binary.unpack(binary.DOWN, frame)
        return Raw(unpacked.payload) if unpacked.json else unpacked.payload
    version = V2 if frame.lstrip()[:1] == b"[" else V1
    try:
        return CODECS[version].decode_unread.decode(frame).payload.payload
    except DECODE_ERRORS:  # an unexpected frame shape whose payload is readable
        payload = event.payload
        return payload if isinstance(payload, bytes) else Raw(encode_json(payload))


_CHANGES: Final = ("INSERT", "UPDATE", "DELETE")
_KEPT: Final = 256

_Place = tuple[int, int]
"""Number of a listener and of one of its selectors; listeners are called in this order."""
_Bucket = dict[_Place, Callable[[Any], None]]
"""The callables with equal selectors, by place."""


class Listener(Struct, frozen=True, eq=False):
    """One handler or iterator: its selectors and its callback. Listeners are compared by identity."""

    selectors: tuple[Selector[Any], ...]
    deliver: Callable[[Any], None]


class Index:
    """The listeners of a channel."""

    __slots__ = (
        "_any", "_asked", "_bindings", "_compiled", "_covered", "_delivers", "_events", "_fresh", "_ids", "_kinds",
        "_known", "_listeners", "_missing", "_models", "_number", "_unions", "_wanted", "any_broadcast", "binary",
        "broadcasts", "changes", "stale",
    )  # fmt: skip

    def __init__(self) -> None:
        self._number = 0
        self._listeners: dict[Listener, int] = {}
        self._delivers: dict[int, int] = {}
        """Number of listeners that have the callable with this `id`."""
        self._events: dict[str, _Bucket] = {}
        self._any: _Bucket = {}
        self._kinds: dict[type[Selector[Any]], _Bucket] = {}
        self._compiled: dict[type[Selector[Any]], Listeners] = {}
        self._wanted: dict[ChangesSelector[Any], _Bucket] = {}
        self._bindings: tuple[ChangesSelector[Any], ...] | None = None
        self._ids: dict[ChangesSelector[Any], int] = {}
        self._known: dict[int, list[ChangesSelector[Any]]] = {}
        self._unions: dict[tuple[str, frozenset[int]], Listeners] = {}
        self._asked: tuple[ChangesSelector[Any], ...] = ()
        self._covered: frozenset[ChangesSelector[Any]] = frozenset()
        self._missing: dict[ChangesSelector[Any], None] = {}
        """The wanted bindings that are not in `_asked`."""
        self._fresh: dict[str, None] = {}
        """The events whose tuples are built."""
        self._models = 0
        self.stale: dict[str, None] = {}
        """The events whose tuples `fresh` has to build; `ANY` stands for all events that no selector names."""
        self.broadcasts: dict[str, Listeners] = {}
        self.binary: dict[bytes, tuple[str, Listeners]] = {}
        self.any_broadcast: Listeners = ()
        self.changes: dict[int, dict[str, Listeners]] = {}
        """Listeners by binding id and kind of change. Missing ids are looked up with `fresh_changes`."""

    # --- adding and removing listeners

    def add(self, listener: Listener) -> None:
        """Register a listener. It is live at once, except for changes that the active join does not include."""
        if listener in self._listeners:
            return
        self._number += 1
        self._listeners[listener] = self._number
        self._delivers[id(listener.deliver)] = self._delivers.get(id(listener.deliver), 0) + 1
        for place, each in enumerate(listener.selectors):
            selector, deliver = _unwrapped(each, listener)
            self._bucket(selector)[self._number, place] = deliver
            self._models += isinstance(selector, BroadcastSelector) and isinstance(deliver, ModelAdapter)
            self._spoil(selector)

    def remove(self, listener: Listener) -> None:
        """Unregister a listener. Does nothing if it is not registered."""
        number = self._listeners.pop(listener, None)
        if number is None:
            return
        self._delivers[id(listener.deliver)] -= 1
        if not self._delivers[id(listener.deliver)]:
            del self._delivers[id(listener.deliver)]
        for place, each in enumerate(listener.selectors):
            selector, _ = _unwrapped(each, listener)
            bucket = self._bucket(selector)
            deliver = bucket.pop((number, place))
            self._models -= isinstance(selector, BroadcastSelector) and isinstance(deliver, ModelAdapter)
            self._spoil(selector)
            if not bucket:
                self._forget(selector)

    def has(self, deliver: Callable[[Any], None]) -> bool:
        """Return whether a listener has this callable."""
        return id(deliver) in self._delivers

    # --- the join

    def joined(self, ids: dict[ChangesSelector[Any], int]) -> None:
        """Set the binding ids from a join's reply; the ids of earlier joins become invalid."""
        self._ids, self._known = ids, {}
        for binding, number in ids.items():
            self._known.setdefault(number, []).append(binding)
        self._unions.clear()
        self.changes.clear()

    @property
    def bindings(self) -> tuple[ChangesSelector[Any], ...]:
        """The distinct bindings that the listeners want, in order of registration."""
        if self._bindings is None:
            self._bindings = tuple(self._wanted)
        return self._bindings

    def lacks(self, asked: tuple[ChangesSelector[Any], ...]) -> bool:
        """Return whether a wanted binding is missing in a join with the bindings `asked`."""
        if asked is not self._asked:
            self._asked, self._covered = asked, frozenset(asked)
            self._missing = dict.fromkeys(binding for binding in self._wanted if binding not in self._covered)
        return bool(self._missing)

    # --- lookups

    @property
    def wants_presence(self) -> bool:
        """Whether there is a presence listener."""
        return PresenceSelector in self._kinds

    @property
    def models(self) -> bool:
        """Whether a broadcast listener wants objects of a class, for which the frame must be kept."""
        return self._models > 0

    @property
    def presence(self) -> Listeners:
        """Listeners for presence."""
        return self._of(PresenceSelector)

    @property
    def system(self) -> Listeners:
        """Listeners for system messages."""
        return self._of(SystemSelector)

    @property
    def gaps(self) -> Listeners:
        """Listeners for gaps."""
        return self._of(GapsSelector)

    @property
    def status(self) -> Listeners:
        """Listeners for status changes of the channel."""
        return self._of(StatusSelector)

    def kinds(self) -> frozenset[str]:
        """Return the kinds of events that have listeners and that may be lost in a gap."""
        wanted = {
            "changes": self._wanted,
            "broadcast": self._any or self._events,
            "presence": self.wants_presence,
        }
        return frozenset(kind for kind, listeners in wanted.items() if listeners)

    def hearing(self, event: str) -> Listeners:
        """Return the listeners of a broadcast event. The hot path inlines this to save the call."""
        return self.broadcasts.get(event, self.any_broadcast) or (self.fresh(event) if self.stale else ())

    def fresh(self, event: str) -> Listeners:
        """Build the tuple of a stale event and return its listeners."""
        exact = self._events.get(event)
        if exact is None:
            self.stale.pop(ANY, None)
            self.any_broadcast = _merged(self._any)
            return self.any_broadcast
        listeners = self.broadcasts[event] = _merged(exact, self._any)
        self.binary[event.encode()] = event, listeners
        self.stale.pop(event, None)
        self._fresh[event] = None
        return listeners

    def fresh_changes(self, number: int) -> dict[str, Listeners]:
        """Build the tuples of a binding id and return the listeners by kind of change; empty for an unknown id.

        The kind is also checked here, because servers before 2.74.0 send every kind.
        """
        if number not in self._known:  # the server may send any id
            return {}
        found = self.changes[number] = {kind: self._find((number,), kind) for kind in _CHANGES}
        return found

    def union(self, ids: Iterable[int], kind: str) -> Listeners:
        """Return the listeners of a row that matches several bindings: each once, by the first of its selectors."""
        wanted = frozenset(self._known.keys() & ids)  # the server may send any ids, and any number of them
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

    # --- internal

    def _find(self, ids: Iterable[int], kind: str) -> Listeners:
        selectors = (selector for number in ids for selector in self._known[number] if selector.event in (ANY, kind))
        return _merged(*(self._wanted[selector] for selector in selectors if selector in self._wanted))

    def _of(self, kind: type[Selector[Any]]) -> Listeners:
        found = self._compiled.get(kind)
        if found is None:
            if kind not in self._kinds:
                return ()
            found = self._compiled[kind] = _merged(self._kinds[kind])
        return found

    def _bucket(self, selector: Selector[Any]) -> _Bucket:
        """Return the callables with this selector, adding an empty entry if needed."""
        if isinstance(selector, BroadcastSelector):
            return self._any if selector.event == ANY else self._events.setdefault(selector.event, {})
        if isinstance(selector, ChangesSelector):
            if selector not in self._wanted:
                self._wanted[selector] = {}
                self._bindings = None
                if selector not in self._covered:
                    self._missing[selector] = None
            return self._wanted[selector]
        return self._kinds.setdefault(type(selector), {})

    def _spoil(self, selector: Selector[Any]) -> None:
        """Drop the tuples that this selector contributes to."""
        if isinstance(selector, BroadcastSelector):
            if selector.event != ANY:
                self._spoil_event(selector.event)
                return
            self.any_broadcast = ()
            self.stale[ANY] = None
            for event in list(self._fresh):
                self._spoil_event(event)
        elif isinstance(selector, ChangesSelector):
            self._unions.clear()
            if (number := self._ids.get(selector)) is not None:
                self.changes.pop(number, None)
        else:
            self._compiled.pop(type(selector), None)

    def _spoil_event(self, event: str) -> None:
        self.broadcasts[event] = ()
        self.binary[event.encode()] = event, ()
        self.stale[event] = None
        self._fresh.pop(event, None)

    def _forget(self, selector: Selector[Any]) -> None:
        """Remove the entry of a selector that no listener has any more."""
        if isinstance(selector, BroadcastSelector):
            event = selector.event
            self.stale.pop(event, None)
            if event != ANY:
                del self._events[event], self.broadcasts[event], self.binary[event.encode()]
        elif isinstance(selector, ChangesSelector):
            del self._wanted[selector]
            self._missing.pop(selector, None)
            self._bindings = None
        else:
            del self._kinds[type(selector)]


_Wanted = tuple[Selector[Any], Callable[[Any], None]]


def _unwrapped(selector: Selector[Any], listener: Listener) -> _Wanted:
    if isinstance(selector, ModelSelector):
        return selector.plain, ModelAdapter(listener.deliver, selector.model)
    return selector, listener.deliver


def _merged(*buckets: _Bucket) -> Listeners:
    """Return the callables of all buckets in order of their places, without duplicates.

    Duplicates are found by identity: callables may be equal but distinct, or not hashable.
    """
    if len(buckets) == 1:
        listeners: Iterable[Callable[[Any], None]] = buckets[0].values()
    else:
        merged = {place: listener for bucket in buckets for place, listener in bucket.items()}
        listeners = [merged[place] for place in sorted(merged)]
    found: dict[int, Callable[[Any], None]] = {}
    for listener in listeners:
        found.setdefault(id(listener.deliver if isinstance(listener, ModelAdapter) else listener), listener)
    return tuple(found.values())
