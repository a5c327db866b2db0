"""The event loop of the tests: `SUPAWIRE_TEST_LOOP=asyncio|uvloop|eager` selects it; the default is asyncio's.

It becomes the event loop policy of the process, so it is used by the tests, by the local server's thread, by handlers
of the sync client, and by the programs that tests start, which inherit the environment. `eager` is asyncio's own loop
with `asyncio.eager_task_factory`, which Python has from 3.12 on.
"""

import asyncio
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, Final

VARIABLE: Final = "SUPAWIRE_TEST_LOOP"


def _of_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def _eager() -> asyncio.AbstractEventLoop:
    if sys.version_info < (3, 12):
        raise RuntimeError(f"{VARIABLE}=eager needs Python 3.12, which has asyncio.eager_task_factory")
    loop = asyncio.SelectorEventLoop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {"uvloop": _of_uvloop, "eager": _eager}


def chosen() -> str:
    """Return the name of the event loop that the environment selects. Raises: RuntimeError for an unknown one."""
    name = os.environ.get(VARIABLE) or "asyncio"
    if name != "asyncio" and name not in LOOPS:
        raise RuntimeError(f"{VARIABLE}={name!r} is not known; it can be asyncio, {', '.join(LOOPS)}")
    return name


def install(name: str | None = None) -> None:
    """Make every new event loop of this process the selected one."""
    make = LOOPS.get(name or chosen())
    if make is None:
        return
    make().close()  # raises if the loop is not installed
    policies: Any = asyncio
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.14 has no other global setting
        base: Any = policies.DefaultEventLoopPolicy

        class Policy(base):
            """asyncio's policy with another event loop."""

            def new_event_loop(self) -> asyncio.AbstractEventLoop:
                """Create an event loop of the selected kind."""
                return make()

        policies.set_event_loop_policy(Policy())
