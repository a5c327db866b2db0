"""Events for listeners that want rows or payloads as objects of a class (`model=`).

Such an object is made of the text that came, not of what that was decoded into: a number keeps its digits, and the
error has the text. A broadcast is decoded with its frame, so its text is cut out of the frame once more.
"""

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET, Raw

from supawire._models import Model
from supawire.core import binary
from supawire.core.codec import CODECS, DECODE_ERRORS, encode_json
from supawire.core.frames import V1, V2
from supawire.types import Broadcast, Change, LateBroadcast, frame_of, with_model

_late: Final[type[LateBroadcast[Any]]] = LateBroadcast


class Modelled:
    """Delivers to a listener that wants the rows or payloads of one selector as objects of a class."""

    __slots__ = ("_model", "deliver")

    def __init__(self, deliver: Callable[[Any], Any], model: Model) -> None:
        self.deliver: Final = deliver
        self._model = model

    def __call__(self, event: Any) -> Any:
        return self.deliver(_with_model(event, self._model))


def _with_model(event: Broadcast[Any] | Change[Any], model: Model) -> Broadcast[Any] | Change[Any]:
    if isinstance(event, Broadcast):
        return _late(event.topic, event.event, UNSET, event.id, event.replayed, b"", _text(event), model)
    return with_model(event, model)


def _text(event: Broadcast[Any]) -> Raw | bytes:
    """The payload as it came."""
    frame = frame_of(event)
    if frame[:1] == bytes((binary.USER_BROADCAST.kind,)):
        unpacked = binary.unpack(binary.DOWN, frame)
        return Raw(unpacked.payload) if unpacked.json else unpacked.payload
    version = V2 if frame.lstrip()[:1] == b"[" else V1
    try:
        return CODECS[version].decode_unread.decode(frame).payload.payload
    except DECODE_ERRORS:  # the frame has an odd shape, and its payload can be read
        payload = event.payload
        return payload if isinstance(payload, bytes) else Raw(encode_json(payload))
