"""Each kind of server event has the effect documented on the page about the original client."""

from collections.abc import Callable
from typing import Any

import pytest

from docs.tables.kinds import KINDS
from supawire.core.effects import UnknownEvent
from supawire.events import (
    Broadcast,
    ChannelState,
    Insert,
    PresenceJoin,
    PresenceLeave,
    PresenceSync,
    PresenceUpdate,
    Sent,
    System,
)
from supawire.options import PROTOCOLS, SessionOptions
from supawire.selectors import broadcast, changes, presence, status, system

from .conftest import Story

ROOM = "realtime:room"


def ada(ref: str, previous: str | None = None) -> dict[str, Any]:
    meta = {"phx_ref": ref} | ({"phx_ref_prev": previous} if previous else {})
    return {"ada": {"metas": [meta]}}


def kinds(events: list[Any]) -> list[type]:
    return [type(event) for event in events]


def reply(story: Story, heard: list[Any]) -> None:
    ticket = story.broadcast(ROOM, ack=True)
    story.answer_push(story.pushed()[-1])
    assert story.outcome(ticket) == Sent("socket", acked=True) and heard == []


def heartbeat_reply(story: Story, heard: list[Any]) -> None:
    ticket = story.call(story.session.ping, 10.0)
    story.run_for(0.25)
    story.reply(story.sent("heartbeat")[-1])
    assert story.outcome(ticket) == 0.25 and heard == []


def close(story: Story, heard: list[Any]) -> None:
    story.close_channel(ROOM, story.sent("phx_join")[-1].ref)
    assert story.state(ROOM) is ChannelState.RETRYING and [event.state for event in heard] == ["retrying"]


def error(story: Story, heard: list[Any]) -> None:
    story.close_channel(ROOM, story.sent("phx_join")[-1].ref, event="phx_error")
    assert story.state(ROOM) is ChannelState.RETRYING and "crashed" in str(heard[0].cause)


def row(story: Story, heard: list[Any]) -> None:
    story.row(ROOM, 100, id=1)
    (change,) = heard
    assert type(change) is Insert and change.record == {"id": 1}


def message(story: Story, heard: list[Any]) -> None:
    story.receive(ROOM, "broadcast", {"type": "broadcast", "event": "typing", "payload": [1]})
    assert kinds(heard) == [Broadcast] and heard[0].payload == [1]


def presence_state(story: Story, heard: list[Any]) -> None:
    story.receive(ROOM, "presence_state", ada("A"))
    assert kinds(heard) == [PresenceJoin, PresenceSync] and set(heard[-1].state) == {"ada"}


def presence_diff(story: Story, heard: list[Any]) -> None:
    story.receive(ROOM, "presence_state", {})
    story.receive(ROOM, "presence_diff", {"joins": ada("A"), "leaves": {}})
    story.receive(ROOM, "presence_diff", {"joins": ada("B", "A"), "leaves": ada("A")})
    story.receive(ROOM, "presence_diff", {"joins": {}, "leaves": ada("B", "A")})
    told = [PresenceJoin, PresenceUpdate, PresenceLeave]
    assert kinds(heard) == [PresenceSync, *[kind for one in told for kind in (one, PresenceSync)]]


def word(story: Story, heard: list[Any]) -> None:
    assert not story.at(ROOM).ready
    story.system(ROOM, "Subscribed to PostgreSQL")
    assert System in kinds(heard) and story.at(ROOM).ready


def unknown(story: Story, heard: list[Any]) -> None:
    story.receive(ROOM, "postgres_cdc_of_tomorrow", {"x": 1})
    assert story.session.stats().unknown_frames == 1 and len(story.reports(UnknownEvent)) == 1
    assert heard == [] and story.state(ROOM) is ChannelState.JOINED


SCENES: dict[str, Callable[[Story, list[Any]], None]] = {
    ":phx-reply": reply,
    ":heartbeat-reply": heartbeat_reply,
    ":phx-close": close,
    ":phx-error": error,
    ":postgres-changes": row,
    ":broadcast": message,
    ":presence-state": presence_state,
    ":presence-diff": presence_diff,
    ":system": word,
    ":unknown": unknown,
}


@pytest.mark.parametrize("kind", [kind.there for kind in KINDS])
@pytest.mark.parametrize("version", PROTOCOLS)
def test_each_kind_does_what_the_page_says(version: Any, kind: str) -> None:
    """A frame of the kind has the documented effect, in either wire version (R40)."""
    story = Story(SessionOptions(protocol=version))
    story.open()
    story.channel("room", ack=True)
    heard = story.collect(ROOM, changes("users"), broadcast(), presence(), system(), status())
    story.join(ROOM)
    heard.clear()
    SCENES[kind](story, heard)
