"""The faults as methods of `LocalServer`: each is carried to the server's thread and done there."""

from collections.abc import Callable
from typing import Final, TypeVar

from supawire.errors import InvalidArgumentError
from supawire.server.hub import Hub
from supawire.types import Instant

T = TypeVar("T")

UNSENT: Final = frozenset({1004, 1005, 1006, 1015})
"""Close codes that only say what was seen; none of them is ever sent."""


class FaultFace:
    """Misbehaviour on demand. `topic` is a sub-topic, `"*"` all; `connection` one socket's number, left out all."""

    def _do(self, act: Callable[[Hub, Instant], T]) -> T:
        raise NotImplementedError

    def drop_connections(self, code: int | None = None, *, connection: int | None = None) -> None:
        """Close sockets with this code; without one they are cut, and clients see 1006."""
        if code in UNSENT:
            raise InvalidArgumentError(f"no close frame has the code {code}; leave it out, and clients see 1006")
        self._do(lambda hub, now: hub.faults.drop_connections(code, connection=connection))

    def refuse_connections(self, times: int | None = None, *, seconds: float | None = None, status: int = 503) -> None:
        """Refuse the next `times` handshakes, or all for `seconds`, with this status; without both, for good."""
        self._do(lambda hub, now: hub.faults.refuse_connections(times=times, seconds=seconds, status=status))

    def accept_connections(self) -> None:
        """Refuse no more."""
        self._do(lambda hub, now: hub.faults.accept_connections())

    def pause(self, *, connection: int | None = None) -> None:
        """Take everything and say nothing, as behind a dead network; `resume` ends it."""
        self._do(lambda hub, now: hub.faults.pause(connection=connection))

    def resume(self, *, connection: int | None = None) -> None:
        """Answer what was taken meanwhile, and go on."""
        self._do(lambda hub, now: hub.faults.resume(connection=connection))

    def lag(self, seconds: float, *, connection: int | None = None) -> None:
        """Everything sent arrives this much later, in order; 0 ends it."""
        self._do(lambda hub, now: hub.faults.lag(seconds, connection=connection))

    def send_raw(self, data: str | bytes, *, binary: bool = False, connection: int | None = None) -> None:
        """Send any bytes as one frame; text unless `binary`."""
        self._do(lambda hub, now: hub.faults.send_raw(data, binary=binary, connection=connection))

    def garbage(self, *, connection: int | None = None) -> None:
        """Send a dozen frames that mean nothing; one is text that is not UTF-8, which strict clients close over."""
        self._do(lambda hub, now: hub.faults.garbage(connection=connection))

    def delay_replies(self, seconds: float) -> None:
        """Every reply comes this much later; a join's holds its socket meanwhile. 0 ends it."""
        self._do(lambda hub, now: hub.faults.delay_replies(seconds))

    def drop_reply(self, event: str, times: int | None = None) -> None:
        """Do what is asked but do not answer pushes of this event, such as `phx_join` or `heartbeat`."""
        self._do(lambda hub, now: hub.faults.drop_reply(event, times))

    def reject_join(self, topic: str, reason: str) -> None:
        """Refuse joins of a topic with this reason; protocol §9.2 lists the real ones."""
        self._do(lambda hub, now: hub.faults.reject_join(topic, reason))

    def delay_join(self, topic: str, seconds: float) -> None:
        """Joins of a topic hold their socket this long before they are answered."""
        self._do(lambda hub, now: hub.faults.delay_join(topic, seconds))

    def close_channel(self, topic: str, *, stale: bool = False) -> None:
        """End a topic's channels with `phx_close`; with `stale`, only send one that names the join before."""
        self._do(lambda hub, now: hub.faults.close_channel(topic, stale=stale))

    def crash_channel(self, topic: str) -> None:
        """End a topic's channels with `phx_error`, as when their process dies."""
        self._do(lambda hub, now: hub.faults.crash_channel(topic))

    def expire_tokens(self, topic: str | None = None) -> None:
        """End channels as if their token had just run out."""
        self._do(lambda hub, now: hub.faults.expire_tokens(topic))

    def send_system(self, topic: str, status: str, message: str, *, extension: str = "system") -> None:
        """Send a `system` frame; the channels stay."""
        self._do(lambda hub, now: hub.faults.send_system(topic, status, message, extension=extension))

    def reset_faults(self) -> None:
        """Behave again: every rule is gone, pauses and lags end. What was done stays done."""
        self._do(lambda hub, now: hub.faults.reset())
