"""Queues of frames that wait: for a suspended connection or for a suspended channel.

On the real server one process serves a connection and waits for the channel process during a join, so incoming and
outgoing frames wait in the connection's mailbox, in order. A channel is a process of its own: during an authorization
query only its own frames wait. See docs/protocol.md, Joins block the connection.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from supawire.server.connection import MAX_QUEUED_IN, Inbound, Peer, ServerChannel
from supawire.server.effects import PauseReading, ResumeReading
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
                owner.suspensions += 1
                owner.suspended = True
            case ServerChannel():
                owner.queued = deque()
            case None:
                pass

    def resume(self, owner: Peer | ServerChannel | None) -> None:
        """Handle the frames that waited, in order."""
        match owner:
            case Peer():
                owner.suspensions -= 1
                self._drain_connection(owner)
            case ServerChannel():
                waiting, owner.queued = owner.queued, None
                if waiting is not None and not owner.peer.closed:
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
        if peer.closed:
            return
        while peer.mailbox and not peer.suspensions and not peer.closed:
            item = peer.mailbox.popleft()
            if isinstance(item, Inbound):
                peer.queued_in -= len(item.data)
                self._take(peer, item.data, item.binary)
            else:
                peer.queued_out -= len(item.data)
                self._outbox.direct(peer, (item.data, item.binary))
        peer.suspended = bool(peer.suspensions or peer.mailbox)
        self._read_again(peer)

    def _drain_channel(self, peer: Peer, waiting: deque[Inbound]) -> None:
        """Handle the queued frames; if the connection is suspended now, put them in front of its own queue."""
        if peer.suspended:
            peer.mailbox.extendleft(reversed(waiting))
            return
        for frame in waiting:
            peer.queued_in -= len(frame.data)
            if peer.suspended:
                self.add(peer, frame)
            elif not peer.closed:
                self._take(peer, frame.data, frame.binary)
        self._read_again(peer)

    # --- limits of the queues ---

    def _count(self, peer: Peer, frame: Inbound) -> None:
        peer.queued_in += len(frame.data)
        if peer.queued_in > MAX_QUEUED_IN and not peer.reading_paused:
            peer.reading_paused = True
            self._outbox.effects.append(PauseReading(peer.id))

    def _read_again(self, peer: Peer) -> None:
        if peer.reading_paused and peer.queued_in <= MAX_QUEUED_IN // 2:
            peer.reading_paused = False
            self._outbox.effects.append(ResumeReading(peer.id))
