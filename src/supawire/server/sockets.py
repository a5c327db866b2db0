"""The sockets of the hub: frames in strict order, silence, the end (protocol §3.2, §3.4, §8)."""

from typing import Final

from supawire.core.frames import MAX_FRAME
from supawire.server.desk import Desk
from supawire.server.peers import Inbound, Peer
from supawire.server.standing import Take
from supawire.types import Instant


class Sockets:
    """Every open socket. `take` handles a frame whose turn it is."""

    def __init__(self, desk: Desk, take: Take) -> None:
        self._desk = desk
        self._outbox = desk.outbox
        self._take: Final = take

    def open(self, peer: Peer) -> None:
        """A socket is there."""
        self._desk.peers[peer.id] = peer
        peer.idle = self._desk.schedule.at(peer.heard_at + self._desk.timings.idle, lambda: self._listen(peer))
        self._sweep_later(peer)

    def received(self, peer: Peer, data: bytes, binary: bool, now: Instant) -> None:
        """A frame came in. It waits when the socket stands still."""
        peer.heard_at = now.mono
        if len(data) > MAX_FRAME:
            self.close(peer, 1009)
        elif not peer.still:
            self._take(peer, data, binary)
        else:
            self._desk.standing.add(peer, Inbound(data, binary))

    def gone(self, peer: Peer) -> None:
        """The socket has ended, whoever ended it. Its channels leave."""
        peer.gone = True
        self._desk.peers.pop(peer.id, None)
        self._end_channels(peer)
        for timer in (peer.idle, peer.sweep):
            if timer is not None:
                timer.cancel()

    def close(self, peer: Peer, code: int | None) -> None:
        """End a socket from this side; its channels leave at once. Without a code it is cut."""
        self._outbox.close(peer, code)
        self._end_channels(peer)

    def _end_channels(self, peer: Peer) -> None:
        for channel in list(peer.channels.values()):
            self._desk.rooms.end(channel)

    # --- silence ---

    def _listen(self, peer: Peer) -> None:
        """A socket without a byte for a minute is closed with 1000 (protocol §3.4)."""
        if peer.gone:
            return
        at = peer.heard_at + self._desk.timings.idle
        if self._desk.now.mono >= at:
            self.close(peer, 1000)
        else:
            peer.idle = self._desk.schedule.at(at, lambda: self._listen(peer))

    def _sweep_later(self, peer: Peer) -> None:
        if self._desk.timings.sweep is not None:
            at = self._desk.now.mono + self._desk.timings.sweep
            peer.sweep = self._desk.schedule.at(at, lambda: self._sweep(peer))

    def _sweep(self, peer: Peer) -> None:
        """A socket whose last channel is gone is cut; one that never had any is left alone (protocol §8)."""
        if peer.gone:
            return
        if peer.had_channels and not peer.channels:
            self.close(peer, None)
        else:
            self._sweep_later(peer)
