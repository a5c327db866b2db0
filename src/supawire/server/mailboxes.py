"""Queues of frames that wait: for a suspended connection or for a suspended channel.

On the real server one process serves a connection and waits for the channel process during a join, so incoming and
outgoing frames wait in the connection's mailbox, in order. A channel is a process of its own: during an authorization
query only its own frames wait. See docs/protocol.md, Joins block the connection.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from supawire.server.connection import MAX_WAITING_IN, Inbound, Peer, ServerChannel
from supawire.server.effects import Hold, Release
from supawire.server.outbox import Outbox

Take: TypeAlias = Callable[[Peer, bytes, bool], None]


class Mailboxes:
    """Suspends and resumes connections and channels. `take` handles a frame when it is due."""

    def __init__(self, outbox: Outbox, take: Take) -> None:
        self._outbox: Final = outbox
        self._take: Final = take

    def suspend(self, owner: Peer | ServerChannel | None) -> None:
        """Let frames wait until `resume`: those of a connection, or those that a channel receives.

        A connection stays suspended until `resume` has been called as often as `suspend`.
        """
        match owner:
            case Peer():
                owner.holds += 1
                owner.suspended = True
            case ServerChannel():
                owner.waiting = deque()
            case None:
                pass

    def resume(self, owner: Peer | ServerChannel | None) -> None:
        """Handle the frames that waited, in order."""
        match owner:
            case Peer():
                owner.holds -= 1
                self._drain_connection(owner)
            case ServerChannel():
                waiting, owner.waiting = owner.waiting, None
                if waiting is not None and not owner.peer.gone:
                    self._drain_channel(owner.peer, waiting)
            case None:
                pass

    def add(self, peer: Peer, frame: Inbound) -> None:
        """Queue a frame received on a suspended connection."""
        peer.mailbox.append(frame)
        self._count(peer, frame)

    def add_to(self, waiting: deque[Inbound], peer: Peer, frame: Inbound) -> None:
        """Queue a frame received for a suspended channel."""
        waiting.append(frame)
        self._count(peer, frame)

    def _drain_connection(self, peer: Peer) -> None:
        if peer.gone:
            return
        while peer.mailbox and not peer.holds and not peer.gone:
            item = peer.mailbox.popleft()
            if isinstance(item, Inbound):
                peer.waiting_in -= len(item.data)
                self._take(peer, item.data, item.binary)
            else:
                peer.waiting_out -= len(item.data)
                self._outbox.direct(peer, (item.data, item.binary))
        peer.suspended = bool(peer.holds or peer.mailbox)
        self._read_again(peer)

    def _drain_channel(self, peer: Peer, waiting: deque[Inbound]) -> None:
        """Handle the queued frames; if the connection is suspended now, put them in front of its own queue."""
        if peer.suspended:
            peer.mailbox.extendleft(reversed(waiting))
            return
        for frame in waiting:
            peer.waiting_in -= len(frame.data)
            if peer.suspended:
                self.add(peer, frame)
            elif not peer.gone:
                self._take(peer, frame.data, frame.binary)
        self._read_again(peer)

    # --- limits of the queues ---

    def _count(self, peer: Peer, frame: Inbound) -> None:
        peer.waiting_in += len(frame.data)
        if peer.waiting_in > MAX_WAITING_IN and not peer.unread:
            peer.unread = True
            self._outbox.effects.append(Hold(peer.id))

    def _read_again(self, peer: Peer) -> None:
        if peer.unread and peer.waiting_in <= MAX_WAITING_IN // 2:
            peer.unread = False
            self._outbox.effects.append(Release(peer.id))
