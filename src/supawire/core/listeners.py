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
    LateBroadcast,
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

    __slots__ = ("_convert", "_model", "deliver")

    def __init__(self, deliver: Callable[[Any], Any], selector: Selector[Any], model: Model) -> None:
        self.deliver: Final = deliver
        self._model = model
        self._convert = _converter(selector)

    def __call__(self, event: Any) -> Any:
        return self.deliver(self._convert(event, self._model))


def _converter(selector: Selector[Any]) -> Callable[[Any, Model], Any]:
    """Return the function that gives the events of a selector their model."""
    if isinstance(selector, ChangesSelector):
        return with_model
    return _message_with_model if isinstance(selector, BroadcastSelector) else presence_with_model


def _message_with_model(event: Broadcast[Any], model: Model) -> LateBroadcast[Any]:
    return _late(event.topic, event.event, UNSET, event.id, event.replayed, b"", _text(event), model)


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
_MAX_UNIONS: Final = 256
_NO_BINDINGS: Final[frozenset[ChangesSelector[Any]]] = frozenset()
"""Shared, since each `frozenset()` is an object of 216 bytes."""

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
        "_any", "_binding_buckets", "_bindings", "_bindings_by_id", "_built", "_callback_counts", "_compiled",
        "_covered", "_events", "_ids", "_kinds", "_listeners", "_missing", "_model_count", "_number", "_requested",
        "_unions", "any_broadcast", "binary", "broadcasts", "changes", "stale",
    )  # fmt: skip

    def __init__(self) -> None:
        self._number = 0
        self._listeners: dict[Listener, int] = {}
        self._callback_counts: dict[int, int] = {}
        """Number of listeners that have the callable with this `id`."""
        self._events: dict[str, _Bucket] = {}
        self._any: _Bucket = {}
        self._kinds: dict[type[Selector[Any]], _Bucket] = {}
        self._compiled: dict[type[Selector[Any]], Listeners] = {}
        self._binding_buckets: dict[ChangesSelector[Any], _Bucket] = {}
        self._bindings: tuple[ChangesSelector[Any], ...] | None = None
        self._ids: dict[ChangesSelector[Any], int] = {}
        self._bindings_by_id: dict[int, list[ChangesSelector[Any]]] = {}
        self._unions: dict[tuple[str, frozenset[int]], Listeners] = {}
        self._requested: tuple[ChangesSelector[Any], ...] = ()
        self._covered = _NO_BINDINGS
        self._missing: dict[ChangesSelector[Any], None] = {}
        """The bindings with listeners that are not in `_requested`."""
        self._built: dict[str, None] = {}
        """The events whose tuples are built."""
        self._model_count = 0
        self.stale: dict[str, None] = {}
        """The events whose tuples `build_event` has to build; `ANY` stands for all events that no selector names."""
        self.broadcasts: dict[str, Listeners] = {}
        self.binary: dict[bytes, tuple[str, Listeners]] = {}
        self.any_broadcast: Listeners = ()
        self.changes: dict[int, dict[str, Listeners]] = {}
        """Listeners by binding id and kind of change. Missing ids are looked up with `build_changes`."""

    # --- adding and removing listeners

    def add(self, listener: Listener) -> None:
        """Register a listener. It is live at once, except for changes that the active join does not include."""
        if listener in self._listeners:
            return
        self._number += 1
        self._listeners[listener] = self._number
        self._callback_counts[id(listener.deliver)] = self._callback_counts.get(id(listener.deliver), 0) + 1
        for place, each in enumerate(listener.selectors):
            selector, deliver = _unwrapped(each, listener)
            self._bucket(selector)[self._number, place] = deliver
            self._model_count += isinstance(selector, BroadcastSelector) and isinstance(deliver, ModelAdapter)
            self._invalidate(selector)

    def remove(self, listener: Listener) -> None:
        """Unregister a listener. Does nothing if it is not registered."""
        number = self._listeners.pop(listener, None)
        if number is None:
            return
        self._callback_counts[id(listener.deliver)] -= 1
        if not self._callback_counts[id(listener.deliver)]:
            del self._callback_counts[id(listener.deliver)]
        for place, each in enumerate(listener.selectors):
            selector, _ = _unwrapped(each, listener)
            bucket = self._bucket(selector)
            deliver = bucket.pop((number, place))
            self._model_count -= isinstance(selector, BroadcastSelector) and isinstance(deliver, ModelAdapter)
            self._invalidate(selector)
            if not bucket:
                self._drop_selector(selector)

    def has_callback(self, deliver: Callable[[Any], None]) -> bool:
        """Return whether a listener has this callable."""
        return id(deliver) in self._callback_counts

    # --- the join

    def joined(self, ids: dict[ChangesSelector[Any], int]) -> None:
        """Set the binding ids from a join's reply; the ids of earlier joins become invalid."""
        self._ids, self._bindings_by_id = ids, {}
        for binding, number in ids.items():
            self._bindings_by_id.setdefault(number, []).append(binding)
        self._unions.clear()
        self.changes.clear()

    @property
    def bindings(self) -> tuple[ChangesSelector[Any], ...]:
        """The distinct bindings that the listeners want, in order of registration."""
        if self._bindings is None:
            self._bindings = tuple(self._binding_buckets)
        return self._bindings

    def lacks_binding(self, requested: tuple[ChangesSelector[Any], ...]) -> bool:
        """Return whether a listener's binding is missing in a join with the bindings `requested`."""
        if requested is not self._requested:
            self._requested, self._covered = requested, frozenset(requested) if requested else _NO_BINDINGS
            self._missing = dict.fromkeys(binding for binding in self._binding_buckets if binding not in self._covered)
        return bool(self._missing)

    # --- lookups

    @property
    def has_presence(self) -> bool:
        """Whether there is a presence listener."""
        return PresenceSelector in self._kinds

    @property
    def has_models(self) -> bool:
        """Whether a broadcast listener wants objects of a class, for which the frame must be kept."""
        return self._model_count > 0

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
            "changes": self._binding_buckets,
            "broadcast": self._any or self._events,
            "presence": self.has_presence,
        }
        return frozenset(kind for kind, listeners in wanted.items() if listeners)

    def listeners_of(self, event: str) -> Listeners:
        """Return the listeners of a broadcast event. The hot path inlines this to save the call."""
        return self.broadcasts.get(event, self.any_broadcast) or (self.build_event(event) if self.stale else ())

    def build_event(self, event: str) -> Listeners:
        """Build the tuple of a stale event and return its listeners."""
        exact = self._events.get(event)
        if exact is None:
            self.stale.pop(ANY, None)
            self.any_broadcast = _merged(self._any)
            return self.any_broadcast
        listeners = self.broadcasts[event] = _merged(exact, self._any)
        self.binary[event.encode()] = event, listeners
        self.stale.pop(event, None)
        self._built[event] = None
        return listeners

    def build_changes(self, number: int) -> dict[str, Listeners]:
        """Build the tuples of a binding id and return the listeners by kind of change; empty for an unknown id.

        The kind is also checked here, because servers before 2.74.0 send every kind.
        """
        if number not in self._bindings_by_id:  # the server may send any id
            return {}
        found = self.changes[number] = {kind: self._merge_bindings((number,), kind) for kind in _CHANGES}
        return found

    def union(self, ids: Iterable[int], kind: str) -> Listeners:
        """Return the listeners of a row that matches several bindings: each once, by the first of its selectors."""
        wanted = frozenset(self._bindings_by_id.keys() & ids)  # the server may send any ids, and any number of them
        if not wanted:
            return ()
        key = (kind, wanted)
        found = self._unions.get(key)
        if found is None:
            found = self._merge_bindings(wanted, kind)
            if len(self._unions) >= _MAX_UNIONS:
                self._unions.clear()
            self._unions[key] = found
        return found

    @property
    def cached_unions(self) -> int:
        """Number of cached results of `union`."""
        return len(self._unions)

    # --- internal

    def _merge_bindings(self, ids: Iterable[int], kind: str) -> Listeners:
        selectors = (
            selector for number in ids for selector in self._bindings_by_id[number] if selector.event in (ANY, kind)
        )
        return _merged(
            *(self._binding_buckets[selector] for selector in selectors if selector in self._binding_buckets)
        )

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
            if selector not in self._binding_buckets:
                self._binding_buckets[selector] = {}
                self._bindings = None
                if selector not in self._covered:
                    self._missing[selector] = None
            return self._binding_buckets[selector]
        return self._kinds.setdefault(type(selector), {})

    def _invalidate(self, selector: Selector[Any]) -> None:
        """Drop the tuples that this selector contributes to."""
        if isinstance(selector, BroadcastSelector):
            if selector.event != ANY:
                self._invalidate_event(selector.event)
                return
            self.any_broadcast = ()
            self.stale[ANY] = None
            for event in list(self._built):
                self._invalidate_event(event)
        elif isinstance(selector, ChangesSelector):
            self._unions.clear()
            if (number := self._ids.get(selector)) is not None:
                self.changes.pop(number, None)
        else:
            self._compiled.pop(type(selector), None)

    def _invalidate_event(self, event: str) -> None:
        self.broadcasts[event] = ()
        self.binary[event.encode()] = event, ()
        self.stale[event] = None
        self._built.pop(event, None)

    def _drop_selector(self, selector: Selector[Any]) -> None:
        """Remove the entry of a selector that no listener has any more."""
        if isinstance(selector, BroadcastSelector):
            event = selector.event
            self.stale.pop(event, None)
            if event != ANY:
                del self._events[event], self.broadcasts[event], self.binary[event.encode()]
        elif isinstance(selector, ChangesSelector):
            del self._binding_buckets[selector]
            self._missing.pop(selector, None)
            self._bindings = None
        else:
            del self._kinds[type(selector)]


_SelectorCallback = tuple[Selector[Any], Callable[[Any], None]]


def _unwrapped(selector: Selector[Any], listener: Listener) -> _SelectorCallback:
    if isinstance(selector, ModelSelector):
        return selector.plain, ModelAdapter(listener.deliver, selector.plain, selector.model)
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
