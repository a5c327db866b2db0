"""What calls of the blocking door give back when it is more than a value."""

from dataclasses import dataclass, field

from supawire.aio.handlers import Subscription
from supawire.aio.sending import AsyncQueuedSent
from supawire.sync.portal import Portal
from supawire.types import Sent


class ThreadSubscription(Subscription):
    """A `Subscription` of the blocking door."""

    def __init__(self, portal: Portal, made: Subscription) -> None:
        self._portal = portal
        self._made = made

    def __repr__(self) -> str:
        return repr(self._made)

    def cancel(self) -> None:
        """Call the handler no more, also for what waits already; twice is once. A call under way is not interrupted."""
        self._portal.run(self._made.cancel)

    @property
    def dropped(self) -> int:
        """How many events had no room behind the handler."""
        return self._made.dropped


@dataclass(frozen=True, slots=True)
class QueuedSent(Sent):
    """A broadcast that waits for the channel to be joined (`offline="queue"`); its failure also reaches `on_error`."""

    _portal: Portal | None = field(default=None, repr=False, compare=False)
    _sent: AsyncQueuedSent | None = field(default=None, repr=False, compare=False)

    def wait(self) -> Sent:
        """Wait until it is sent (with ack: confirmed), and say how. Raises why it was not."""
        assert self._portal is not None
        assert self._sent is not None
        return self._portal.call(self._sent.wait)
