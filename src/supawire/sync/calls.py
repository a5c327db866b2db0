"""One call on its way to the I/O thread, and the gate where its caller waits."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from supawire.aio.gates import closed_gate, pass_gate


class Call:
    """Settled once: with a value, with an error, or by the end of the loop."""

    def __init__(self) -> None:
        self._gate = closed_gate()
        self._value: Any = None
        self._error: BaseException | None = None
        self._given_up = False
        self._begun = False
        self._settled = False
        self.task: asyncio.Task[Any] | None = None
        self.broken: bool = False
        """The loop ended before this did."""

    # --- on the caller's thread

    def wait(self) -> None:
        """Wait until it is settled; Ctrl-C ends that at once."""
        pass_gate(self._gate)

    def give_up(self) -> bool:
        """The caller waits no longer; whether that is worth telling the loop."""
        self._given_up = True
        return not self._settled

    @property
    def late(self) -> bool:
        """The loop ended before this began."""
        return self.broken and not self._begun

    def outcome(self) -> Any:
        """The value, or the error raised."""
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del error  # or it would hold the traceback that holds this frame that holds it

    # --- on the loop

    def run(self, function: Callable[[], Any]) -> None:
        """Run a plain function."""
        if self._given_up:
            return
        self._begun = True
        try:
            self._settle(function())
        except Exception as error:  # noqa: BLE001  it is raised where the caller waits
            self._settle(None, error)

    def start(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start a coroutine."""
        if self._given_up:
            return
        self._begun = True
        self.task = asyncio.get_running_loop().create_task(self._finish(function), name="supawire-call")

    def cancel(self) -> None:
        """The caller waits no longer."""
        if self.task is not None:
            self.task.cancel()

    def end(self, refusal: BaseException) -> None:
        """The loop has ended: whatever was begun was broken off."""
        if not self._settled:
            self.broken = True
            self._settle(None, refusal)

    async def _finish(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Settled in here, not when the task is done: that is a turn of the loop later."""
        try:
            self._settle(await function())
        except asyncio.CancelledError as error:
            if self.task is None or self.task.cancelling():
                raise  # nobody waits, or the loop is about to end and says why
            self._settle(None, error)
        except Exception as error:  # noqa: BLE001  it is raised where the caller waits
            self._settle(None, error)

    def _settle(self, value: Any, error: BaseException | None = None) -> None:
        if not self._settled:
            self._settled = True
            self._value, self._error = value, error
            self._gate.release()
