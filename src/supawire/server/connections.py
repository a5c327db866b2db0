"""The open connections of a hub: received frames, idle timeouts, and the end of a connection with its channels."""

from typing import Final

from supawire.core.frames import MAX_FRAME
from supawire.events import Instant
from supawire.server.connection import Inbound, Peer
from supawire.server.hub_options import Timings
from supawire.server.mailboxes import Mailboxes, Take
from supawire.server.outbox import Outbox
from supawire.server.rooms import Rooms
from supawire.server.schedule import Schedule


class Connections:
    """All open connections of a hub. `take` handles a frame when its connection is not suspended.

    `limit`: maximum number of connections with a channel.
    """

    def __init__(
        self,
        schedule: Schedule,
        outbox: Outbox,
        rooms: Rooms,
        mailboxes: Mailboxes,
        timings: Timings,
        limit: int | None,
        take: Take,
    ) -> None:
        self.peers: Final[dict[int, Peer]] = {}
        self._schedule = schedule
        self._outbox = outbox
        self._rooms = rooms
        self._mailboxes = mailboxes
        self._timings = timings
        self._limit = limit
        self._take: Final = take

    @property
    def at_capacity(self) -> bool:
        """Whether the number of connections with a channel has reached its limit."""
        return self._limit is not None and sum(1 for peer in self.peers.values() if peer.channels) >= self._limit

    def open(self, peer: Peer) -> None:
        """Register a connection and start its idle timeout."""
        self.peers[peer.id] = peer
        peer.idle_timer = self._schedule.at(peer.last_received_at + self._timings.idle, lambda: self._check_idle(peer))
        self._sweep_later(peer)

    def received(self, peer: Peer, data: bytes, binary: bool, now: Instant) -> None:
        """Handle a received frame, or queue it while the connection is suspended."""
        peer.last_received_at = now.mono
        if len(data) > MAX_FRAME:
            self.close(peer, 1009)
        elif not peer.suspended:
            self._take(peer, data, binary)
        else:
            self._mailboxes.add(peer, Inbound(data, binary))

    def disconnected(self, peer: Peer) -> None:
        """Remove a connection after its socket has ended, and end its channels."""
        peer.closed = True
        self.peers.pop(peer.id, None)
        self._end_channels(peer)
        for timer in (peer.idle_timer, peer.sweep_timer):
            if timer is not None:
                timer.cancel()

    def close(self, peer: Peer, code: int | None) -> None:
        """Close a connection and end its channels. Without a code the connection is aborted."""
        self._outbox.close(peer, code)
        self._end_channels(peer)

    def _end_channels(self, peer: Peer) -> None:
        for channel in list(peer.channels.values()):
            self._rooms.end(channel)

    # --- idle timeout ---

    def _check_idle(self, peer: Peer) -> None:
        """Close a connection that has been idle for `Timings.idle` with 1000."""
        if peer.closed:
            return
        at = peer.last_received_at + self._timings.idle
        if self._outbox.now.mono >= at:
            self.close(peer, 1000)
        else:
            peer.idle_timer = self._schedule.at(at, lambda: self._check_idle(peer))

    def _sweep_later(self, peer: Peer) -> None:
        if self._timings.sweep is not None:
            at = self._outbox.now.mono + self._timings.sweep
            peer.sweep_timer = self._schedule.at(at, lambda: self._sweep(peer))

    def _sweep(self, peer: Peer) -> None:
        """Abort a connection whose last channel has ended; one that never had a channel stays open."""
        if peer.closed:
            return
        if peer.had_channels and not peer.channels:
            self.close(peer, None)
        else:
            self._sweep_later(peer)
