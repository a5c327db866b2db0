"""Presence events as users receive them (protocol §5): made for every diff, payloads decoded when they are read."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import force_setattr

from supawire._brief import Unreadable, brief_event, brief_fields
from supawire._changes import read_json
from supawire.errors import RowError


class Presence(Struct, frozen=True, gc=False, eq=False):
    """One participant's tracked payload. One key may hold several: tabs or devices of the same person."""

    key: str
    ref: str
    previous_ref: str | None
    _raw: Raw
    _payload: Any = UNSET

    @property
    def payload(self) -> dict[str, Any]:
        """What was tracked, without the server's `phx_*` members."""
        if self._payload is UNSET:
            tracked = read_json(self._raw, "the presence payload")
            own = {name: value for name, value in tracked.items() if not name.startswith("phx_")}
            force_setattr(self, "_payload", own)
        return cast("dict[str, Any]", self._payload)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Presence):
            return NotImplemented
        return (self.key, self.ref, self.previous_ref) == (other.key, other.ref, other.previous_ref) and bool(
            self._raw == other._raw or self._sent() == other._sent()
        )

    def __hash__(self) -> int:
        return hash((self.key, self.ref))

    def _sent(self) -> Any:
        try:
            return self.payload
        except RowError:
            return Unreadable(bytes(self._raw))

    def __repr__(self) -> str:
        return brief_event("Presence", key=self.key, payload=self._sent(), ref=self.ref)


class PresenceJoin(Struct, frozen=True, gc=False):
    """Somebody came, or came with one more device. `current` and `previous` are all of the key's entries."""

    topic: str
    key: str
    current: tuple[Presence, ...]
    previous: tuple[Presence, ...]

    __repr__ = brief_fields


class PresenceLeave(Struct, frozen=True, gc=False):
    """Somebody left, or left with one of several devices."""

    topic: str
    key: str
    current: tuple[Presence, ...]
    previous: tuple[Presence, ...]

    __repr__ = brief_fields


class PresenceUpdate(Struct, frozen=True, gc=False):
    """Somebody tracked another payload."""

    topic: str
    key: str
    current: tuple[Presence, ...]
    previous: tuple[Presence, ...]

    __repr__ = brief_fields


PresenceState = Mapping[str, tuple[Presence, ...]]
"""Everyone who is here, by presence key. Immutable."""


class PresenceSync(Struct, frozen=True, gc=False, eq=False):
    """The state is complete: after each `presence_state`, and after the other events of a diff."""

    topic: str
    _take: Callable[[], PresenceState]
    _state: PresenceState | UnsetType = UNSET

    @property
    def state(self) -> PresenceState:
        """Everyone who is here, taken when first read."""
        if self._state is UNSET:
            force_setattr(self, "_state", self._take())
        return cast("PresenceState", self._state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PresenceSync):
            return NotImplemented
        return self.topic == other.topic and dict(self.state) == dict(other.state)

    def __hash__(self) -> int:
        return hash((PresenceSync, self.topic, len(self.state)))

    def __reduce__(self) -> tuple[Any, ...]:
        return sync_of, (self.topic, dict(self.state))

    def __copy__(self) -> "PresenceSync":
        return self

    def __repr__(self) -> str:
        return brief_event("PresenceSync", topic=self.topic, state=self.state)


def sync_of(topic: str, state: dict[str, tuple[Presence, ...]]) -> PresenceSync:
    """Make the event of a state that is known."""
    kept = MappingProxyType(state)
    return PresenceSync(topic, lambda: kept, kept)


PresenceEvent = PresenceJoin | PresenceLeave | PresenceUpdate | PresenceSync
"""What `presence()` listeners receive."""
