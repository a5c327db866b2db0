"""Convert recorded frames of clients to calls of the API, or give the reason why the client never sends them."""

import json
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from supawire.core import binary
from supawire.core.codec import CODECS
from supawire.errors import RemoteProtocolError
from supawire.options import ChannelOptions, check_topic
from supawire.selectors import ChangesSelector, Selector, changes

from .recordings import Record


class NeverSent(Exception):
    """The client never sends such a frame."""


@dataclass(frozen=True)
class Join:
    """Join with these options and listeners."""

    options: ChannelOptions
    presence: bool
    bindings: tuple[Selector[Any], ...]
    config: dict[str, Any]
    """The recorded config."""


@dataclass(frozen=True)
class Send:
    """Send a broadcast."""

    event: str
    payload: bytes
    json: bool


@dataclass(frozen=True)
class Track:
    """Track this payload; None ends the presence."""

    payload: bytes | None


@dataclass(frozen=True)
class Leave:
    """Leave the channel."""


@dataclass(frozen=True)
class Ping:
    """Send a heartbeat."""


Step = Join | Send | Track | Leave | Ping


class RecordedStep(NamedTuple):
    """A step with its topic and its recorded refs."""

    topic: str
    ref: str
    join_ref: str | None
    step: Step


def recorded_step(record: Record) -> RecordedStep:
    """Return the step of a recorded frame. Raises: NeverSent, and the errors of the API for its arguments."""
    if record.kind == "binary":
        return _binary(record)
    try:
        frame = CODECS[record.vsn].plain(record.data)
    except RemoteProtocolError as error:
        raise NeverSent("not a frame of this version") from error
    value = record.json()
    refs = [value.get("ref"), value.get("join_ref")] if isinstance(value, dict) else [value[1], value[0]]
    if frame.ref is None or not all(ref is None or isinstance(ref, str) for ref in refs):
        raise NeverSent("refs that are missing or not strings")
    topic = frame.topic if frame.topic == "phoenix" else check_topic(frame.topic)
    if topic != frame.topic:
        raise NeverSent("a topic that does not begin with realtime:")
    return RecordedStep(topic, frame.ref, frame.join_ref, text_step(topic, frame.event, frame.payload))


def text_step(topic: str, event: str, payload: Any) -> Step:
    """Return the step of a frame of either version. Raises: NeverSent."""
    if (topic, event) == ("phoenix", "heartbeat") and payload == {}:
        return Ping()
    match event, payload:
        case "phx_join", {"config": dict(config), **more} if set(more) <= {"access_token"}:
            return _join(config)
        case "phx_leave", {}:
            return Leave()
        case "broadcast", {"type": "broadcast", "event": str(name), "payload": body} if len(payload) == 3:
            return Send(name, plain_json(body), json=True)
        case "presence", {"type": "presence", "event": "track", "payload": dict(meta)}:
            return Track(plain_json(meta))
        case "presence", {"type": "presence", "event": "untrack"}:
            return Track(None)
        case _:
            raise NeverSent(f"{event} with such a payload")


def plain_json(value: Any) -> bytes:
    """Encode JSON with sorted keys, so that equal steps have equal payloads."""
    return json.dumps(value, sort_keys=True).encode()


def sent_step(data: bytes) -> Step:
    """Return the step of a binary frame of the client."""
    unpacked = binary.unpack(binary.UP, data)
    event = unpacked.fields[3].decode()
    payload = plain_json(json.loads(unpacked.payload)) if unpacked.json else unpacked.payload
    return Send(event, payload, unpacked.json)


def _join(config: dict[str, Any]) -> Join:
    match config:
        case {
            "broadcast": {"self": bool(echo), "ack": bool(ack), **more},
            "presence": {"enabled": bool(enabled), "key": str(key)},
            "postgres_changes": list(bindings),
            "private": bool(private),
        }:
            pass
        case _:
            raise NeverSent("a join without members that the client always sends, or with values of other types")
    if key and not enabled:
        raise NeverSent("a presence key in a join without presence; with a key the client enables presence")
    replay = more.get("replay", {})
    since = replay.get("since")
    options = ChannelOptions(
        private=private,
        echo=echo,
        ack=ack,
        presence_key=key or None,
        replay_since=since / 1000 if isinstance(since, int) else since,
        replay_limit=replay.get("limit"),
        replication_ready=more.get("replication_ready", False),
    )
    return Join(options, enabled, tuple(_binding(binding) for binding in bindings), config)


def _binding(binding: Any) -> Selector[Any]:
    if not isinstance(binding, dict):
        raise NeverSent("a binding that is not an object")
    selector = changes(
        **{name: value for name, value in binding.items() if name != "table"}, table=binding.get("table", "*")
    )
    assert isinstance(selector, ChangesSelector)
    if with_defaults([selector.binding()]) != with_defaults([binding]):
        raise NeverSent(f"the client sends {selector.binding()} instead")
    return selector


def _binary(record: Record) -> RecordedStep:
    try:
        unpacked = binary.unpack(binary.UP, record.data)
    except ValueError as error:
        raise NeverSent("not a binary frame") from error
    if unpacked.layout is not binary.USER_PUSH:
        raise NeverSent("a push of kind 0")
    join_ref, ref, topic, _, metadata = (field.decode() for field in unpacked.fields)
    if join_ref != "1":  # the join of every channel of these recordings has the ref 1
        raise NeverSent("a push with the wrong join_ref")
    if metadata:
        raise NeverSent("a push with metadata, which the server discards")
    try:
        return RecordedStep(topic, ref, join_ref, sent_step(record.data))
    except ValueError as error:
        raise NeverSent("a push that is marked as JSON but is not JSON") from error


_DEFAULTS: Final[dict[str, Any]] = {"table": "*", "schema": "public", "event": "*"}


def with_defaults(bindings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the bindings with the server's defaults for missing keys."""
    return [_DEFAULTS | one if {"schema", "table"} & set(one) else one for one in bindings]


def config_of(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a join with the server's defaults for missing keys, so that two can be compared."""
    config = payload["config"]
    return {
        **config,
        "presence": {"key": "", **config["presence"]},
        "postgres_changes": with_defaults(config["postgres_changes"]),
    }
