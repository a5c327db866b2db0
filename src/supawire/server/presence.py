"""Handling of `presence` pushes: track and untrack, with replies and limits. See docs/protocol.md, Presence."""

from collections.abc import Callable
from typing import Any, Final

from supawire.core.frames import PRESENCE, PRESENCE_STATE
from supawire.server.authorization import Authorization
from supawire.server.connection import ServerChannel
from supawire.server.limits import ServerLimits, term_size
from supawire.server.outbox import OK, Outbox
from supawire.server.queries import Steps
from supawire.server.rooms import Rooms
from supawire.server.stepper import GeneratorStepper
from supawire.server.wire import Push, encode, is_object

DENIED: Final = b'{"status":"error","response":{}}'
NOT_A_MAP: Final = b'{"status":"error","response":{"reason":"Presence track payload must be a map"}}'
TOO_MANY_CALLS: Final = "Client presence rate limit exceeded"
TOO_MANY: Final = "Too many presence messages per second"
TOO_BIG: Final = "Track message size exceeded"


class PresenceHandler:
    """Handles track and untrack. `new_ref` returns a new `phx_ref`."""

    def __init__(
        self,
        outbox: Outbox,
        rooms: Rooms,
        rights: Authorization,
        stepper: GeneratorStepper,
        limits: ServerLimits,
        new_ref: Callable[[], str],
    ) -> None:
        self._outbox = outbox
        self._rooms = rooms
        self._rights = rights
        self._stepper = stepper
        self._limits = limits
        self._new_ref = new_ref

    def push(self, channel: ServerChannel, push: Push, value: Any) -> None:
        """Handle a presence push. Every push is answered, except one that exceeds a limit."""
        if not is_object(value):
            self._answer(channel, push, OK)
            return
        event = value.get("event")
        if not isinstance(event, str):
            self._answer(channel, push, OK if event is None else DENIED)
        elif event.lower() == "track":
            self._track(channel, push, value.get("payload", {}))
        elif event.lower() == "untrack":
            self._untrack(channel, push)
        else:
            self._answer(channel, push, DENIED)

    def _track(self, channel: ServerChannel, push: Push, payload: Any) -> None:
        if not self._allowed(channel):
            return
        if payload is None and channel.id not in self._rooms.of(channel).presence:
            self._answer(channel, push, OK)  # equals the tracked payload, which is none
            return
        if not is_object(payload):
            self._answer(channel, push, NOT_A_MAP)
            return
        limit = self._limits.payload_bytes
        if limit is not None and term_size(payload) > limit:
            self._rooms.close_with_error(channel, TOO_BIG)
            return
        self._stepper.run(self._track_if_allowed(channel, push, payload), channel)

    def _track_if_allowed(self, channel: ServerChannel, push: Push, payload: dict[str, Any]) -> Steps[None]:
        """Track. A private channel joined without `enabled` receives diffs from its first own track on."""
        if not (yield from self._rights.write(channel, "presence")):
            self._answer(channel, push, DENIED)
            return
        if channel.private and not channel.receives_presence_diffs and not channel.config.presence:
            yield from self._rights.read_presence(channel)
        room = self._rooms.of(channel)
        diff = room.presence.track(channel.id, channel.presence_key, payload, self._new_ref())
        self._answer(channel, push, OK)
        self._rooms.send_presence_diff(room, diff)

    def _untrack(self, channel: ServerChannel, push: Push) -> None:
        if not self._allowed(channel):
            return
        room = self._rooms.of(channel)
        self._answer(channel, push, OK)
        self._rooms.send_presence_diff(room, room.presence.untrack(channel.id))

    def _allowed(self, channel: ServerChannel) -> bool:
        """Count a call; when it exceeds the limit, close the channel without a reply."""
        mono = self._outbox.now.mono
        self._rooms.presence.count(mono)
        if not channel.calls.allows(mono, self._limits):
            self._rooms.close_with_error(channel, TOO_MANY_CALLS)
        elif self._rooms.presence.tripped(mono):
            self._rooms.close_with_error(channel, TOO_MANY)
        return channel.open

    def _answer(self, channel: ServerChannel, push: Push, payload: bytes) -> None:
        self._outbox.reply(channel.peer, channel.wire_topic, PRESENCE, push.ref, channel.join_ref, payload)

    def send_state(self, channel: ServerChannel) -> None:
        """Send the full state, once after a join with presence enabled and readable."""
        if not (channel.config.presence and channel.reads_presence):
            return
        mono = self._outbox.now.mono
        self._rooms.presence.count(mono)
        if self._rooms.presence.tripped(mono):
            self._rooms.close_with_error(channel, TOO_MANY)
            return
        self._outbox.push(channel, PRESENCE_STATE, encode(self._rooms.of(channel).presence.state()))
