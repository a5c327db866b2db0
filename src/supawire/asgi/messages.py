"""What browsers receive: the JSON of each event, encoded once for all browsers, and the ids that resume a stream.

An id consists of the name of the process and a number that grows over all topics: `3f9ac201-17`. Another process has
another name, so it recognises that it cannot know what the browser has missed.
"""

import base64
import re
from typing import Any, Final, cast

import msgspec

from supawire._validation import check_json
from supawire.errors import RealtimeError, RowError
from supawire.events import (
    Broadcast,
    ChannelState,
    Delete,
    Gap,
    Insert,
    Presence,
    PresenceJoin,
    PresenceLeave,
    PresenceSync,
    PresenceUpdate,
    Status,
    System,
    Update,
)
from supawire.selectors import Selector

MAX_ID_LENGTH: Final = 64
_ID: Final = re.compile(r"([0-9a-f]{1,32})-([0-9]{1,18})")
_LINE_BREAKS: Final = re.compile(rb"[\r\n]")
_encode: Final = msgspec.json.Encoder().encode


def id_text(process: str, number: int) -> str:
    """Return the id of a message as browsers send it back."""
    return f"{process}-{number}"


def read_id(text: str) -> tuple[str, int] | None:
    """Return process and number of an id, or None if it has another form."""
    found = _ID.fullmatch(text) if len(text) <= MAX_ID_LENGTH else None
    return None if found is None else (found[1], int(found[2]))


class Item:
    """One message to browsers, encoded once for each of the two protocols.

    Args: name: the event's name for `EventSource`. topic: its topic. data: its JSON. number: its place in the order of
    all messages; 0 if it is for one browser only, or cannot be repeated. source: the event that it was made from.
    lost: for a gap, the kinds of events that may be missing.
    """

    __slots__ = ("_frame", "_text", "data", "lost", "name", "number", "process", "selectors", "source", "topic")

    def __init__(
        self,
        name: str,
        topic: str,
        data: bytes,
        *,
        process: str = "",
        number: int = 0,
        source: Any = None,
        lost: frozenset[str] = frozenset(),
    ) -> None:
        self.name: str = name
        self.topic: str = topic
        self.data: bytes = data
        self.process: str = process
        self.number: int = number
        self.source: Any = source
        self.lost: frozenset[str] = lost
        self.selectors: set[Selector[Any]] | None = None
        """The selectors that the event matches; None: every browser of the topic receives it."""
        self._frame: bytes | None = None
        self._text: str | None = None

    @property
    def size(self) -> int:
        """Bytes of its JSON."""
        return len(self.data)

    def with_data(self, data: bytes) -> "Item":
        """Return the same message with other data, for one browser or for those with the same function."""
        made = Item(
            self.name, self.topic, data, process=self.process, number=self.number, source=self.source, lost=self.lost
        )
        made.selectors = self.selectors
        return made

    def frame(self) -> bytes:
        """Return it as server-sent event."""
        if self._frame is None:
            lines = b"id: " + id_text(self.process, self.number).encode() + b"\n" if self.number else b""
            self._frame = b"%sevent: %s\ndata: %s\n\n" % (lines, self.name.encode(), self.data)
        return self._frame

    def text(self) -> str:
        """Return it as text message of a WebSocket: an object with event, id and data."""
        if self._text is None:
            head = f'"id":"{id_text(self.process, self.number)}",' if self.number else ""
            self._text = f'{{"event":"{self.name}",{head}"data":{self.data.decode()}}}'
        return self._text


def encode(value: Any) -> bytes:
    """Return a value as JSON on one line. Raises: InvalidArgumentError: it cannot be JSON."""
    return _LINE_BREAKS.sub(b" ", check_json(value))


def describe(event: Any) -> tuple[str, dict[str, Any], frozenset[str]] | None:
    """Return name, data and lost kinds of an event for browsers; None for one that they do not receive.

    An event whose values cannot be read becomes a gap.
    """
    try:
        return _describe(event)
    except RowError:
        kind = "broadcast" if isinstance(event, Broadcast) else "changes"
        return (*gap(event.topic, "an event could not be read", lost=frozenset({kind})), frozenset({kind}))


def _describe(event: Any) -> tuple[str, dict[str, Any], frozenset[str]] | None:
    match event:
        case Broadcast():
            return "broadcast", _broadcast(cast("Broadcast[Any]", event)), frozenset()
        case Insert() | Update() | Delete():
            return "change", {"topic": event.topic, **cast("Any", event).raw}, frozenset()
        case PresenceJoin() | PresenceLeave() | PresenceUpdate():
            return "presence", _presence(cast("PresenceJoin[Any]", event)), frozenset()
        case System():
            data = {"extension": event.extension, "status": event.status, "message": event.message}
            return "system", {"topic": event.topic, **data}, frozenset()
        case Gap():
            times = {"started_at": event.started_at.isoformat(), "ended_at": event.ended_at.isoformat()}
            name, data = gap(event.topic, event.reason, source="upstream", lost=event.lost, verdict=event.verdict)
            return name, {**data, **times}, event.lost
        case Status():
            return _status(event)
        case _:
            return None  # PresenceSync: a browser receives the whole state at its start, then joins and leaves


def presence_item(state: PresenceSync[Any]) -> Item:
    """Return the message with everyone who is present."""
    present = {key: _entries(entries) for key, entries in state.state.items()}
    return Item("presence_state", state.topic, encode({"topic": state.topic, "state": present}), source=state)


def _broadcast(event: "Broadcast[Any]") -> dict[str, Any]:
    data: dict[str, Any] = {"topic": event.topic, "event": event.event}
    payload = event.payload
    if isinstance(payload, bytes):
        data |= {"payload": base64.b64encode(payload).decode(), "encoding": "base64"}
    else:
        data["payload"] = payload
    if event.id is not None:
        data["message_id"] = event.id
    if event.replayed:
        data["replayed"] = True
    return data


def _entries(entries: tuple[Presence[Any], ...]) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    for entry in entries:
        try:
            shown.append({"ref": entry.ref, "payload": entry.payload})
        except RowError:
            shown.append({"ref": entry.ref, "payload": None})
    return shown


def _presence(event: "PresenceJoin[Any]") -> dict[str, Any]:
    kind = {PresenceJoin: "join", PresenceLeave: "leave"}.get(type(event), "update")
    entries = {"current": _entries(event.current), "previous": _entries(event.previous)}
    return {"topic": event.topic, "type": kind, "key": event.key, **entries}


_SHOWN_STATES: Final = (ChannelState.RETRYING, ChannelState.REJOINING, ChannelState.JOINED)


def _status(event: Status) -> tuple[str, dict[str, Any], frozenset[str]] | None:
    if event.state is event.previous or event.state not in _SHOWN_STATES:
        return None
    return "status", {"topic": event.topic, "state": str(event.state)}, frozenset()


def gap(
    topic: str, reason: str, *, source: str = "relay", lost: frozenset[str] = frozenset(), **more: Any
) -> tuple[str, dict[str, Any]]:
    """Return name and data of a gap. `source`: whether the server or this relay has lost the events."""
    return "gap", {"topic": topic, "source": source, "reason": reason, "lost": sorted(lost), **more}


def failure(topic: str, error: RealtimeError | None) -> Item:
    """Return the message about a topic that has ended. The text of the error is not for browsers."""
    kind = "ClosedError" if error is None else type(error).__name__
    code = None if error is None else error.code
    return Item("failed", topic, _encode({"topic": topic, "error": kind, "code": code}))
