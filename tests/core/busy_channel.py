"""A joined channel with a listener of every kind, and frames for it."""

import json
from typing import Any

from supawire.options import Protocol, SessionOptions
from supawire.selectors import broadcast, changes, gaps, presence, status, system

from .conftest import Harness

Live = tuple[Harness, str, list[Any]]


def busy(protocol: Protocol) -> tuple[Harness, str, list[Any]]:
    """Return a joined channel with a listener of every kind, and their events."""
    harness = Harness(SessionOptions(protocol=protocol))
    harness.open()
    room = harness.channel("room", ack=True, presence_key="ada")
    events = harness.collect(room, broadcast(), changes("users"), presence(), system())
    harness.collect(room, gaps(), status())
    harness.join(room)
    return harness, room, events


def text(harness: Harness, *parts: Any) -> bytes:
    """Return a frame of these five parts, of any types, in the version of the harness."""
    if harness.options.protocol == "2.0.0":
        return json.dumps(parts).encode()
    join_ref, ref, topic, event, payload = parts
    return json.dumps({"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": join_ref}).encode()


def still_receives(live: Live) -> bool:
    """Check that later frames are delivered: a broadcast, a row and a reply."""
    harness, room, events = live
    before = len(events)
    harness.receive(room, "broadcast", {"type": "broadcast", "event": "after", "payload": {}})
    harness.row(room, 100, id=1)
    acked = harness.broadcast(room, ack=True)
    harness.answer_push(harness.pushed()[-1])
    return len(events) == before + 2 and harness.outcome(acked).acked
