"""The sockets of the hub: frames in strict order, standing still, silence, the end (protocol §3.2, §3.4, §8)."""

from collections.abc import Callable
from typing import Final

from supawire.core.frames import MAX_FRAME
from supawire.server.desk import Desk
from supawire.server.effects import Hold, Release
from supawire.server.peers import MAX_WAITING_IN, Inbound, Peer
from supawire.types import Instant

Take = Callable[[Peer, bytes, bool], None]


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
            peer.mailbox.append(Inbound(data, binary))
            peer.waiting_in += len(data)
            if peer.waiting_in > MAX_WAITING_IN and not peer.unread:
                peer.unread = True
                self._outbox.effects.append(Hold(peer.id))

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

    # --- standing still ---

    def stand(self, peer: Peer, seconds: float, then: Callable[[], None]) -> None:
        """Let nothing in or out of a socket for a while, then do this and go on where it stopped."""

        def go() -> None:
            if not peer.gone:
                then()
                self.go_on(peer)

        self.hold(peer)
        self._desk.schedule.at(self._desk.now.mono + seconds, go)

    def hold(self, peer: Peer) -> None:
        """Stand still until `go_on` is called as often as `hold`."""
        peer.holds += 1
        peer.still = True

    def go_on(self, peer: Peer) -> None:
        """One reason to stand still is gone; with the last one, what waits takes its turn."""
        peer.holds -= 1
        while peer.mailbox and not peer.holds and not peer.gone:
            item = peer.mailbox.popleft()
            if isinstance(item, Inbound):
                peer.waiting_in -= len(item.data)
                self._take(peer, item.data, item.binary)
            else:
                peer.waiting_out -= len(item.data)
                self._outbox.direct(peer, (item.data, item.binary))
        peer.still = bool(peer.holds or peer.mailbox)
        if peer.unread and peer.waiting_in <= MAX_WAITING_IN // 2:
            peer.unread = False
            self._outbox.effects.append(Release(peer.id))

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
