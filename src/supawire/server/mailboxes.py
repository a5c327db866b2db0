"""Queues of frames that wait: for a suspended socket or for a channel with a pending authorization query.

On the real server one process serves a socket and waits for the channel process during a join, so incoming and
outgoing frames wait in the socket's mailbox, in order. A channel is a process of its own: during an authorization
query only its own frames wait. See docs/protocol.md, Joins block the connection.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

from supawire.server.connection import MAX_WAITING_IN, Inbound, Peer, ServerChannel
from supawire.server.effects import Hold, Release
from supawire.server.outbox import Outbox
from supawire.server.schedule import Schedule

T = TypeVar("T")
Then: TypeAlias = Callable[[T], None]
Take: TypeAlias = Callable[[Peer, bytes, bool], None]


class Mailboxes:
    """Suspends and resumes sockets and channels. `take` handles a frame when it is due."""

    def __init__(self, schedule: Schedule, outbox: Outbox, take: Take) -> None:
        self._schedule: Final = schedule
        self._outbox: Final = outbox
        self._take: Final = take

    # --- sockets ---

    def add(self, peer: Peer, frame: Inbound) -> None:
        """Queue a frame received on a suspended socket."""
        peer.mailbox.append(frame)
        self._count(peer, frame)

    def suspend(self, peer: Peer, seconds: float, then: Callable[[], None]) -> None:
        """Suspend a socket for some seconds, then call `then` and resume."""

        def go() -> None:
            if not peer.gone:
                try:
                    then()
                finally:
                    self.resume(peer)

        self.hold(peer)
        self._schedule.at(self._outbox.now.mono + seconds, go)

    def until(self, peer: Peer, begin: Callable[[Then[T]], None], then: Then[T]) -> None:
        """Call `begin` with a callback for its result, now or later; the socket is suspended until then."""
        came = held = False

        def done(result: T) -> None:
            nonlocal came
            came = True
            if peer.gone:
                return
            try:
                then(result)
            finally:
                if held:
                    self.resume(peer)

        begin(done)
        if not came:
            held = True
            self.hold(peer)

    def hold(self, peer: Peer) -> None:
        """Suspend the socket until `resume` has been called as often as `hold`."""
        peer.holds += 1
        peer.suspended = True

    def resume(self, peer: Peer) -> None:
        """Remove one suspension; after the last one, handle the queued frames in order."""
        peer.holds -= 1
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

    # --- channels ---

    def add_to(self, waiting: deque[Inbound], peer: Peer, frame: Inbound) -> None:
        """Queue a frame received for a waiting channel."""
        waiting.append(frame)
        self._count(peer, frame)

    def until_for(self, channel: ServerChannel, begin: Callable[[Then[T]], None], then: Then[T]) -> None:
        """Call `begin` with a callback for its result, now or later; the channel's frames wait until then.

        `then` is not called when the channel has ended meanwhile.
        """
        came = False

        def done(result: T) -> None:
            nonlocal came
            came = True
            waiting, channel.waiting = channel.waiting, None
            try:
                if channel.open:
                    then(result)
            finally:
                if waiting is not None and not channel.peer.gone:
                    self._drain(channel.peer, waiting)

        begin(done)
        if not came:
            channel.waiting = deque()

    def _drain(self, peer: Peer, waiting: deque[Inbound]) -> None:
        """Handle the queued frames; if the socket is suspended now, put them in front of its own queue."""
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
