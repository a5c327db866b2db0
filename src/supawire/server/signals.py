"""The signals that tell a server to stop."""

import asyncio
import signal
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Final

NUMBERS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(stop: asyncio.Event) -> Generator[None]:
    """Set `stop` on SIGINT and SIGTERM, in the main thread, instead of what they did before.

    The loop's own handlers are used where it has them, since they wake it. A plain handler runs between two bytecodes:
    a signal that comes just before the loop sleeps would be heard when something else wakes it.
    """
    loop = asyncio.get_running_loop()

    def told(number: int, frame: FrameType | None) -> None:
        del number, frame
        loop.call_soon_threadsafe(stop.set)

    with ExitStack() as undo:
        for number in NUMBERS:
            undo.callback(signal.signal, number, signal.getsignal(number))
            try:
                loop.add_signal_handler(number, stop.set)
            except NotImplementedError:  # on Windows, where any signal wakes the loop
                signal.signal(number, told)
            else:
                undo.callback(loop.remove_signal_handler, number)
        yield
