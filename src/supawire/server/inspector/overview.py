"""Connections, channels and presence of the hub as plain data, bounded in size."""

from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct

from supawire.events import Instant
from supawire.server.bindings import Binding
from supawire.server.connection import Peer, ServerChannel
from supawire.server.faults import FaultRules
from supawire.server.hub import Hub
from supawire.server.inspector.journal import for_display
from supawire.server.rooms import Room
from supawire.server.wire import encode

MAX_LISTED: Final = 200
"""Maximum connections and channels listed; the totals are given separately."""
MAX_PAYLOAD: Final = 300
"""Maximum characters of a tracked payload."""
MAX_KEYS: Final = 50
"""Maximum presence keys listed for one topic."""


class Joined(Struct, frozen=True):
    """A channel of a connection."""

    topic: str
    private: bool
    role: str
    changes: list[str]
    ready: bool
    """Whether its bindings are subscribed."""


class ConnectionOverview(Struct, frozen=True):
    """A client connection."""

    number: int
    version: str
    opened_at: float
    state: str
    """A state other than normal, such as `paused`; else empty."""
    channels: list[Joined]


class Present(Struct, frozen=True):
    """A presence key with all of its payloads."""

    key: str
    payloads: list[str]
    """JSON texts."""


class Topic(Struct, frozen=True):
    """A topic with at least one channel."""

    topic: str
    private: bool
    members: list[int]
    """Numbers of connections."""
    present: list[Present]
    keys: int


class Overview(Struct, frozen=True):
    """The state of the hub at one moment."""

    connections: list[ConnectionOverview]
    topics: list[Topic]
    connected: int
    joined: int
    faults: list[str]


def overview(hub: Hub, now: Instant) -> Overview:
    """Return the present state."""
    peers, rooms, problem = list(hub.connections.peers.values()), hub.rooms.all(), hub.changes_problem
    return Overview(
        [_connection(peer) for peer in peers[:MAX_LISTED]],
        [_topic(room) for room in rooms[:MAX_LISTED]],
        len(peers),
        len(rooms),
        [*([] if problem is None else [problem]), *_faults(hub.fault_rules, now)],
    )


def _connection(peer: Peer) -> ConnectionOverview:
    if peer.paused:
        state = "paused"
    elif peer.suspended:
        state = "waits behind a join"
    else:
        state = f"delayed by {peer.lag:g} s" if peer.lag else ""
    version = ("2.0.0" if peer.v2 else "1.0.0") + (", long polling" if peer.longpoll else "")
    channels = [_joined(channel) for channel in list(peer.channels.values())[:MAX_LISTED]]
    return ConnectionOverview(peer.id, version, peer.opened_at, state, channels)


def _joined(channel: ServerChannel) -> Joined:
    changes = [_binding(binding) for binding in channel.bindings]
    return Joined(channel.sub_topic, channel.private, channel.claims.role, changes, channel.subscribed)


def _binding(binding: Binding) -> str:
    if binding.error is not None:
        return f"{binding.echo.get('table', '?')}: {binding.error}"
    conditions = ",".join(map(str, binding.conditions))
    return f"{binding.event} {binding.schema}.{binding.table}" + (f" where {conditions}" if conditions else "")


def _topic(room: Room) -> Topic:
    state = room.presence.state()
    present = [Present(key, [_bare(meta) for meta in state[key]["metas"]]) for key in list(state)[:MAX_KEYS]]
    name, private = room.key
    members = sorted(channel.peer.id for channel in room.members.values())
    return Topic(name, private, members, present, len(state))


def _bare(meta: dict[str, Any]) -> str:
    payload = {name: value for name, value in meta.items() if not name.startswith("phx_ref")}
    text, cut = for_display(encode(payload), most=MAX_PAYLOAD)
    return text + "…" * cut


def _faults(rules: FaultRules, now: Instant) -> Iterable[str]:
    """Yield the faults in force, as texts."""
    if rules.paused:
        yield "paused"
    if rules.refusals or rules.refuse_until > now.mono:
        yield f"connections refused with {rules.refuse_status}"
    if rules.upgrade_status is not None:
        yield f"WebSockets refused with {rules.upgrade_status}"
    yield from (f"answers to {method} lost" for method, left in rules.lost_answers.items() if left)
    if rules.lag:
        yield f"frames delayed by {rules.lag:g} s"
    if rules.reply_delay:
        yield f"replies delayed by {rules.reply_delay:g} s"
    yield from (f"replies to {event} dropped" for event in rules.dropped)
    yield from (f"joins of {topic} refused" for topic in rules.rejected)
    yield from (f"joins of {topic} delayed" for topic in rules.join_delays)
