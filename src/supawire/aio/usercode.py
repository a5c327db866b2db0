"""What becomes of an exception out of the user's code, and whose call is under way (R1).

Handlers, token providers, `fetch`, `backoff`, `on_frame` and `on_error` may raise anything: it is reported, and the
client goes on, whatever its kind is. There is one exception: `SystemExit` and `KeyboardInterrupt` that are raised on
the event loop of an async client leave it, as they leave any task or callback of asyncio, and end the program. On a
thread of the client, where all this runs in the blocking door, they could end nothing but that thread, so they are
reported.
"""

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final

_EXITS: Final = (SystemExit, KeyboardInterrupt)


class Exits:
    """Lets `SystemExit` and `KeyboardInterrupt` leave the event loop of one client, once.

    It leaves from a callback of its own. From a task of the client it would come a second time, out of the task that
    owns it, while asyncio.run ends what is left.

    Args: allowed: whether it may leave, which it may not while everything is ending.
    """

    __slots__ = ("_allowed", "_leaves")

    def __init__(self, allowed: Callable[[], bool]) -> None:
        self._allowed = allowed
        self._leaves = False

    def take(self, error: BaseException) -> bool:
        """Let an error leave that ends the program; False for any other, which is to be reported."""
        if not isinstance(error, _EXITS) or not self._allowed():
            return False
        if not self._leaves:
            self._leaves = True
            asyncio.get_running_loop().call_soon(self._leave, error)
        return True

    def _leave(self, error: BaseException) -> None:
        self._leaves = False
        raise error


def is_closed_from_outside(error: BaseException, own: "asyncio.Task[object] | None") -> bool:
    """Whether a coroutine gets `GeneratorExit` because it is thrown away, which it may not survive."""
    if not isinstance(error, GeneratorExit):
        return False
    try:
        return asyncio.current_task() is not own
    except RuntimeError:  # no event loop runs
        return True


def is_unawaited(given: object) -> bool:
    """Whether a handler returned something that runs only when it is awaited; a task or future runs by itself."""
    return inspect.isawaitable(given) and not isinstance(given, asyncio.Future)


def dispose(given: object) -> None:
    """Close a coroutine that is not run, or Python would warn about it; for one that has ended it does nothing."""
    if inspect.iscoroutine(given):
        given.close()


class Call:
    """A call of the user's code that is under way; a context manager.

    A context variable holds it, so it is also found in tasks that the user's code starts meanwhile, and in coroutines
    that it hands to an event loop from a thread. Whoever calls `close()` there does not make the client wait for the
    call, which may wait for `close()`.

    Args: owner: who would wait for the call, or cancel it. task: the task it runs in, None for a thread.
    """

    __slots__ = ("_active", "_outer", "_token", "owner", "task")

    def __init__(self, owner: object, task: "asyncio.Task[object] | None") -> None:
        self.owner = owner
        self.task = task
        self._active = False
        self._outer: Call | None = None
        self._token: Token[Call | None] | None = None

    def __enter__(self) -> None:
        outer = _call.get()
        while outer is not None and not outer._active:  # else calls that have ended would pile up behind this one
            outer = outer._outer
        self._outer = outer
        self._active = True
        self._token = _call.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False
        if self._token is not None and not isinstance(error, GeneratorExit):  # that may come from another context
            _call.reset(self._token)

    @staticmethod
    def of(owner: object) -> "Call | None":
        """The call of this owner in which the caller runs, None when it runs in none."""
        call = _call.get()
        while call is not None and not (call._active and call.owner is owner):
            call = call._outer
        return call


_call: Final[ContextVar[Call | None]] = ContextVar("supawire_call", default=None)
