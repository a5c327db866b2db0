"""What a recorded frame of a client asks for, in the words of our API; or why our client never sends it."""

import json
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from supawire.core import binary
from supawire.core.codec import CODECS
from supawire.errors import RemoteProtocolError
from supawire.options import ChannelOptions, check_topic
from supawire.selectors import ChangesSelector, Selector, changes

from .recordings import Record


class NotOurs(Exception):
    """Our client never sends such a frame."""


@dataclass(frozen=True)
class Join:
    """Join with these options and listeners."""

    options: ChannelOptions
    presence: bool
    bindings: tuple[Selector[Any], ...]
    config: dict[str, Any]
    """As it was recorded."""


@dataclass(frozen=True)
class Send:
    """Broadcast."""

    event: str
    payload: bytes
    json: bool


@dataclass(frozen=True)
class Track:
    """Be present with this payload, None: not be present."""

    payload: bytes | None


@dataclass(frozen=True)
class Leave:
    """Leave the channel."""


@dataclass(frozen=True)
class Ping:
    """A heartbeat."""


Step = Join | Send | Track | Leave | Ping


class Asked(NamedTuple):
    """A step with where it belongs and the refs that it had."""

    topic: str
    ref: str
    join_ref: str | None
    step: Step


def asked(record: Record) -> Asked:
    """The step of a recorded frame. Raises NotOurs, or what our API raises for the arguments."""
    if record.kind == "binary":
        return _binary(record)
    try:
        frame = CODECS[record.vsn].plain(record.data)
    except RemoteProtocolError as error:
        raise NotOurs("not a frame of this version") from error
    value = record.json()
    refs = [value.get("ref"), value.get("join_ref")] if isinstance(value, dict) else [value[1], value[0]]
    if frame.ref is None or not all(ref is None or isinstance(ref, str) for ref in refs):
        raise NotOurs("its refs are missing or no strings")
    topic = frame.topic if frame.topic == "phoenix" else check_topic(frame.topic)
    if topic != frame.topic:
        raise NotOurs("a topic that does not begin with realtime:")
    return Asked(topic, frame.ref, frame.join_ref, text_step(topic, frame.event, frame.payload))


def text_step(topic: str, event: str, payload: Any) -> Step:
    """The step that a frame of either version asks for. Raises NotOurs."""
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
            raise NotOurs(f"{event} with such a payload")


def plain_json(value: Any) -> bytes:
    """JSON in one way of writing it, so that steps compare."""
    return json.dumps(value, sort_keys=True).encode()


def sent_step(data: bytes) -> Step:
    """The step that a binary frame of ours asks for."""
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
            raise NotOurs("a join that leaves out what we always say, or with values of other types")
    if key and not enabled:
        raise NotOurs("a presence key in a join without presence; with a key our client asks for presence")
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
        raise NotOurs("a binding that is no object")
    selector = changes(
        **{name: value for name, value in binding.items() if name != "table"}, table=binding.get("table", "*")
    )
    assert isinstance(selector, ChangesSelector)
    if meaning([selector.binding()]) != meaning([binding]):
        raise NotOurs(f"our client says {selector.binding()} instead")
    return selector


def _binary(record: Record) -> Asked:
    try:
        unpacked = binary.unpack(binary.UP, record.data)
    except ValueError as error:
        raise NotOurs("not a binary frame") from error
    if unpacked.layout is not binary.USER_PUSH:
        raise NotOurs("a push of kind 0")
    join_ref, ref, topic, _, metadata = (field.decode() for field in unpacked.fields)
    if join_ref != "1":  # every channel of these recordings was joined as 1
        raise NotOurs("a push with the wrong join_ref")
    if metadata:
        raise NotOurs("a push with metadata, which the server throws away")
    try:
        return Asked(topic, ref, join_ref, sent_step(record.data))
    except ValueError as error:
        raise NotOurs("a push that says JSON and is not") from error


_DEFAULTS: Final[dict[str, Any]] = {"table": "*", "schema": "public", "event": "*"}


def meaning(bindings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bindings with what the server takes for missing keys."""
    return [_DEFAULTS | one if {"schema", "table"} & set(one) else one for one in bindings]


def config_of(payload: dict[str, Any]) -> dict[str, Any]:
    """The config of a join with what the server takes for missing keys, to compare two of them."""
    config = payload["config"]
    return {
        **config,
        "presence": {"key": "", **config["presence"]},
        "postgres_changes": meaning(config["postgres_changes"]),
    }
