"""Fault injection for tests of clients. Some faults act once, others are rules that stay until they are reset.

`topic` is a topic without `realtime:`, or `"*"` for all. `connection` is the number of one socket. The default is all
wherever it may be left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from supawire.core.frames import CLOSE
from supawire.errors import InvalidArgumentError
from supawire.events import Instant
from supawire.options import check_bool, check_choice, check_count, check_kind, check_number, check_text, check_writable
from supawire.server.connection import Peer, ServerChannel
from supawire.server.connections import Connections
from supawire.server.mailboxes import Mailboxes
from supawire.server.outbox import Outbox
from supawire.server.rooms import Rooms
from supawire.server.wire import sub_topic, text

ALL: Final = "*"
GARBAGE: Final = (
    (b"{", False),
    (b"null", False),
    (b"[]", False),
    (b'{"topic":5}', False),
    (b'"text"', False),
    (b'["1","2","realtime:x"]', False),
    (b'[null,null,"realtime:x","broadcast",\xff\xfe]', False),
    (b"[" * 5000, False),
    (b"", True),
    (b"\xff\xfe", True),
    (b"\x04\xff\xff\xff\x01x", True),
    (b"\x01\x01", True),
)
"""Invalid frames that a client must tolerate."""
SECONDS: Final = "seconds"
METHODS: Final = ("GET", "POST")


@dataclass(slots=True)
class FaultRules:
    """The faults in force; the defaults mean none."""

    refusals: int = 0
    """Number of handshakes still to refuse."""
    refuse_until: float = 0.0
    refuse_status: int = 503
    upgrade_status: int | None = None
    """The status that WebSocket upgrades are refused with, while long polling works; None: they are accepted."""
    lost_answers: dict[str, int] = field(default_factory=dict[str, int])
    """By method: the number of requests of long polling that are executed and not answered."""
    reply_delay: float = 0.0
    dropped: dict[str, int | None] = field(default_factory=dict[str, int | None])
    """Replies to drop, by the event of the push: the remaining number, or None for all."""
    rejected: dict[str, str] = field(default_factory=dict[str, str])
    """Reasons of refused joins, by topic without prefix or `*`."""
    join_delays: dict[str, float] = field(default_factory=dict[str, float])
    lag: float = 0.0
    """Delay of frames for new connections; existing ones have their own."""
    paused: bool = False

    def refusal(self, now: Instant) -> int | None:
        """Return the status to refuse the next handshake with, or None. Counts the handshake."""
        if self.refusals:
            self.refusals -= 1
            return self.refuse_status
        return self.refuse_status if now.mono < self.refuse_until else None

    def loses_answer(self, method: str) -> bool:
        """Return whether to lose the answer to this request of long polling. Counts the request."""
        left = self.lost_answers.get(method, 0)
        self.lost_answers[method] = max(0, left - 1)
        return left > 0

    def drops_reply(self, event: str) -> bool:
        """Return whether to drop the reply to this push. Counts the reply."""
        if event not in self.dropped:
            return False
        left = self.dropped[event]
        if left is not None:
            if left <= 1:
                del self.dropped[event]
            else:
                self.dropped[event] = left - 1
        return True

    def rejection(self, topic: str) -> str | None:
        """Return the reason to refuse a join of this topic with, or None."""
        return self.rejected.get(topic, self.rejected.get(ALL))

    def join_delay(self, topic: str) -> float:
        """Return the seconds for which a join of this topic suspends the socket."""
        return self.join_delays.get(topic, self.join_delays.get(ALL, 0.0)) + self.reply_delay


class Faults:
    """The faults of a server. Call `Hub.at` with the time first."""

    def __init__(
        self, rules: FaultRules, outbox: Outbox, rooms: Rooms, mailboxes: Mailboxes, connections: Connections
    ) -> None:
        self._rules = rules
        self._outbox = outbox
        self._rooms = rooms
        self._mailboxes = mailboxes
        self._connections = connections

    def apply_faults(self, peer: Peer) -> None:
        """Apply the rules in force to a new connection."""
        self._set_lag(peer, self._rules.lag)
        if self._rules.paused:
            self._pause(peer)

    def _peers(self, connection: int | None) -> list[Peer]:
        if connection is not None:
            check_count("connection", connection)
        peers = list(self._connections.peers.values())
        return [peer for peer in peers if not peer.closed and connection in (None, peer.id)]

    def _channels(self, topic: str | None) -> Iterator[ServerChannel]:
        if topic is not None:
            check_text("topic", topic)
        for peer in self._peers(None):
            for channel in list(peer.channels.values()):
                if topic in (None, ALL) or channel.sub_topic == sub_topic(topic or ""):
                    yield channel

    # --- sockets ---

    def drop_connections(self, code: int | None = None, *, connection: int | None = None) -> None:
        """Close sockets with this code; with None the connection is aborted and clients report 1006."""
        if code is not None:
            check_count("code", code, minimum=1000, maximum=4999)
        for peer in self._peers(connection):
            self._connections.close(peer, code)

    def refuse_connections(self, *, times: int | None = None, seconds: float | None = None, status: int = 503) -> None:
        """Refuse the next `times` handshakes, all for `seconds`, or all until `accept_connections`; answer `status`."""
        if times is not None:
            check_count("times", times)
        if seconds is not None:
            check_number("seconds", seconds, minimum=0, unit=SECONDS)
        self._rules.refuse_status = check_count("status", status, minimum=300, maximum=599)
        self._rules.refusals = times or 0
        if times is None:
            self._rules.refuse_until = self._outbox.now.mono + (float("inf") if seconds is None else seconds)

    def accept_connections(self) -> None:
        """Stop refusing handshakes, also those of `block_websockets`."""
        self._rules.refusals, self._rules.refuse_until, self._rules.upgrade_status = 0, 0.0, None

    def block_websockets(self, status: int = 400) -> None:
        """Refuse WebSocket upgrades with this status, as a proxy that removes `Upgrade`, while long polling works."""
        self._rules.upgrade_status = check_count("status", status, minimum=200, maximum=599)

    def lose_answers(self, method: str, times: int = 1) -> None:
        """Execute the next long polling requests, a `GET` with frames or a `POST`, and abort their connections."""
        check_choice("method", method, METHODS)
        self._rules.lost_answers[method] = check_count("times", times)

    def pause(self, *, connection: int | None = None) -> None:
        """Stop answering and sending, as behind a broken network; new connections are accepted and paused too."""
        if connection is None:
            self._rules.paused = True
        for peer in self._peers(connection):
            self._pause(peer)

    def _pause(self, peer: Peer) -> None:
        if not peer.paused:
            peer.paused = True
            self._mailboxes.suspend(peer)

    def resume(self, *, connection: int | None = None) -> None:
        """Handle the input received since `pause`, and continue normally."""
        if connection is None:
            self._rules.paused = False
        for peer in self._peers(connection):
            if peer.paused:
                peer.paused = False
                self._mailboxes.resume(peer)

    def lag(self, seconds: float, *, connection: int | None = None) -> None:
        """Delay everything that is sent by this many seconds, in order; 0 ends it."""
        check_number("seconds", seconds, minimum=0, unit=SECONDS)
        if connection is None:
            self._rules.lag = seconds
        for peer in self._peers(connection):
            self._set_lag(peer, seconds)

    def _set_lag(self, peer: Peer, seconds: float) -> None:
        peer.lag = seconds
        if seconds:
            peer.lag_until = max(peer.lag_until, self._outbox.now.mono, 1e-9)

    def send_raw(self, data: str | bytes, *, binary: bool = False, connection: int | None = None) -> None:
        """Send arbitrary bytes as one frame; a text frame unless `binary`."""
        if not isinstance(data, str | bytes):
            raise InvalidArgumentError(f"data must be str or bytes, not {type(data).__name__}")
        check_bool("binary", binary)
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        for peer in self._peers(connection):
            self._outbox.send(peer, (raw, binary))

    def garbage(self, *, connection: int | None = None) -> None:
        """Send a dozen invalid frames: broken JSON, wrong shapes, invalid UTF-8, short binary headers."""
        for data, binary in GARBAGE:
            self.send_raw(data, binary=binary, connection=connection)

    # --- replies and joins ---

    def delay_replies(self, seconds: float) -> None:
        """Delay every reply by this many seconds; the reply to a join suspends its socket meanwhile. 0 ends it."""
        self._rules.reply_delay = check_number("seconds", seconds, minimum=0, unit=SECONDS)

    def drop_reply(self, event: str, times: int | None = None) -> None:
        """Execute pushes of this event (`phx_join`, `broadcast`, `heartbeat`, …), but do not reply to them."""
        self._rules.dropped[check_text("event", event)] = None if times is None else check_count("times", times)

    def reject_join(self, topic: str, reason: str) -> None:
        """Refuse joins of a topic with this reason. See docs/protocol.md, Join errors."""
        self._rules.rejected[sub_topic(check_text("topic", topic))] = _check_string("reason", reason)

    def delay_join(self, topic: str, seconds: float) -> None:
        """Suspend the socket for this many seconds before a join of this topic is answered."""
        check_number("seconds", seconds, minimum=0, unit=SECONDS)
        self._rules.join_delays[sub_topic(check_text("topic", topic))] = seconds

    def reset(self) -> None:
        """Remove all fault rules, pauses and lags. Effects of earlier faults are not undone."""
        self.accept_connections()
        self.lag(0.0)
        self.resume()
        self._rules.reply_delay = 0.0
        self._rules.lost_answers.clear()
        for rule in (self._rules.dropped, self._rules.rejected, self._rules.join_delays):
            rule.clear()

    # --- channels ---

    def close_channel(self, topic: str, *, stale: bool = False) -> None:
        """End a topic's channels with `phx_close`; with `stale`, only send one with the previous join_ref."""
        check_bool("stale", stale)
        for channel in self._channels(topic):
            if not stale:
                self._rooms.close(channel)
                continue
            peer = channel.peer
            former = peer.former_join_refs.get(channel.topic, b'"0"')
            self._outbox.send(peer, text(peer.v2, channel.wire_topic, CLOSE, b"{}", former, former))

    def crash_channel(self, topic: str) -> None:
        """End a topic's channels with `phx_error`, as when their process crashes."""
        for channel in self._channels(topic):
            self._rooms.crash(channel)

    def expire_tokens(self, topic: str | None = None) -> None:
        """End channels as if their token had just expired."""
        for channel in self._channels(topic):
            self._rooms.close_with_error(channel, "Token has expired 0 seconds ago")

    def send_system(self, topic: str, status: str, message: str, *, extension: str = "system") -> None:
        """Send a `system` frame without ending the channels."""
        for name, value in (("status", status), ("message", message), ("extension", extension)):
            _check_string(name, value)
        for channel in self._channels(topic):
            self._outbox.system(channel, extension, status, message)


def _check_string(name: str, value: str) -> str:
    check_writable(name, check_kind(name, value, str, "a text"))
    return value
