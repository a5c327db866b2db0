"""Output of the hub: a queue of effects; frames for a suspended socket wait in its mailbox."""

from collections import deque
from typing import Protocol

from supawire.core.frames import HEARTBEAT, JOIN, REPLY, SYSTEM
from supawire.events import Instant
from supawire.server.connection import MAX_QUEUED_OUT, Peer, ServerChannel
from supawire.server.effects import CloseSocket, Effect, Report, Send
from supawire.server.schedule import Schedule
from supawire.server.wire import NULL, Encoded, encode, text

OK = b'{"status":"ok","response":{}}'


class ReplyRules(Protocol):
    """The fault rules for replies (`faults.FaultRules`)."""

    reply_delay: float

    def drops_reply(self, event: str) -> bool:
        """Return whether to drop the reply to this push. Counts the reply."""
        ...


class Outbox:
    """Creates all effects of the hub, and applies the faults that drop or delay frames."""

    def __init__(self, schedule: Schedule, rules: ReplyRules) -> None:
        self.effects: deque[Effect] = deque()
        self.now: Instant = Instant(0.0, 0.0)
        """The time of the input being handled."""
        self._schedule = schedule
        self._rules = rules

    def send(self, peer: Peer, frame: Encoded) -> None:
        """Send a frame from a channel or a room; it waits while the socket is suspended."""
        if not peer.suspended:
            self.direct(peer, frame)
            return
        if peer.closed:
            return
        peer.mailbox.append(Send(peer.id, *frame))
        peer.queued_out += len(frame[0])
        if peer.queued_out > MAX_QUEUED_OUT:
            self.close(peer, None)

    def direct(self, peer: Peer, frame: Encoded) -> None:
        """Send a frame of the socket's own process, ahead of its mailbox."""
        if peer.closed:
            return
        if peer.paused:
            peer.mailbox.appendleft(Send(peer.id, *frame))
            return
        if not peer.lag_until:
            self.effects.append(Send(peer.id, *frame))
            return
        peer.lag_until = max(self.now.mono + peer.lag, peer.lag_until)
        self._schedule.at(peer.lag_until, lambda: self._send_delayed(peer, frame))

    def _send_delayed(self, peer: Peer, frame: Encoded) -> None:
        if not peer.closed:
            self.effects.append(Send(peer.id, *frame))

    def close(self, peer: Peer, code: int | None) -> None:
        """Close a socket; nothing is sent on it afterwards."""
        if not peer.closed:
            peer.closed = True
            self.effects.append(CloseSocket(peer.id, code))

    def reply(self, peer: Peer, topic: bytes, event: str, ref: bytes, join_ref: bytes, payload: bytes = OK) -> None:
        """Reply to a push of this event.

        Replies to joins and heartbeats come from the socket process and do not wait.
        """
        if self._rules.drops_reply(event):
            return
        frame = text(peer.v2, topic, REPLY, payload, ref, join_ref)
        send = self.direct if event in (JOIN, HEARTBEAT) else self.send
        if self._rules.reply_delay and event != JOIN:
            self._schedule.at(self.now.mono + self._rules.reply_delay, lambda: self.send(peer, frame))
        else:
            send(peer, frame)

    def system(self, channel: ServerChannel, extension: str, status: str, message: str) -> None:
        """Send a `system` frame of a channel. See docs/protocol.md, System messages."""
        payload = {"message": message, "status": status, "extension": extension, "channel": channel.sub_topic}
        self.push(channel, SYSTEM, encode(payload))

    def push(self, channel: ServerChannel, event: str, payload: bytes, ref: bytes = NULL) -> None:
        """Send a frame to one channel only; it includes the join_ref."""
        peer = channel.peer
        self.send(peer, text(peer.v2, channel.wire_topic, event, payload, ref, channel.join_ref))

    def report(self, message: str) -> None:
        """Log a message for the operator."""
        self.effects.append(Report(message))
