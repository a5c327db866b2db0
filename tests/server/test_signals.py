"""Signals that stop a server."""

import asyncio
import signal
import sys

import pytest

from supawire.server.local import STOP_SIGNALS, stop_on_signals


@pytest.mark.skipif(sys.platform == "win32", reason="not run: any signal wakes an event loop on Windows")
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_stops_and_wakes_the_loop(number: signal.Signals) -> None:
    """Also one that comes just before the loop sleeps: the system itself writes to the loop's pipe."""

    async def main() -> None:
        stop = asyncio.Event()
        with stop_on_signals(stop):
            wakes = signal.set_wakeup_fd(-1)
            assert wakes != -1
            signal.set_wakeup_fd(wakes)
            signal.raise_signal(number)
            await asyncio.wait_for(stop.wait(), 5)

    asyncio.run(main())


def test_what_signals_did_before_they_do_again() -> None:
    """Whatever a program had set for them comes back, whether or not the server ended well."""

    def mine(*_: object) -> None: ...

    async def main() -> None:
        with pytest.raises(ZeroDivisionError), stop_on_signals(asyncio.Event()):
            raise ZeroDivisionError
        assert signal.getsignal(signal.SIGTERM) is mine

    before = signal.signal(signal.SIGTERM, mine)
    try:
        asyncio.run(main())
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
