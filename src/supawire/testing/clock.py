"""Time that moves only when it is told to."""

from supawire.types import Instant


class VirtualClock:
    """Both clocks in seconds. `sleep` moves the wall clock alone, as a suspended machine does."""

    def __init__(self, mono: float = 1000.0, wall: float = 1_764_000_000.0) -> None:
        self.now: Instant = Instant(mono, wall)

    def advance(self, seconds: float) -> Instant:
        """Both clocks go on."""
        self.now = Instant(self.now.mono + seconds, self.now.wall + seconds)
        return self.now

    def advance_to(self, mono: float) -> Instant:
        """Both clocks go on to this monotonic time; never back."""
        return self.advance(max(0.0, mono - self.now.mono))

    def sleep(self, seconds: float) -> Instant:
        """The machine was suspended, or its clock was set: only the wall clock moved."""
        self.now = Instant(self.now.mono, self.now.wall + seconds)
        return self.now
