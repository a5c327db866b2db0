"""Handling of exceptions from user code, and tracking of the user code that is running.

Handlers, token providers, `fetch`, `backoff`, `on_frame` and `on_error` may raise anything: it is reported, and the
client continues. There is one exception: `SystemExit` and `KeyboardInterrupt` that are raised on the event loop of an
async client propagate, as from any task or callback of asyncio, and end the program. On a thread of the client, where
all user code of the blocking client runs, they could only end that thread, so they are reported.
"""

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final

_EXITS: Final = (SystemExit, KeyboardInterrupt)


class Exits:
    """Lets `SystemExit` and `KeyboardInterrupt` propagate out of the event loop of one client, once.

    The exception is raised in a callback of its own. Raised in a task of the client, it would come a second time out of
    the task that owns it, while `asyncio.run` cancels the remaining tasks.

    Args: allowed: returns whether it may propagate, which it may not during shutdown.
    """

    __slots__ = ("_allowed", "_leaves")

    def __init__(self, allowed: Callable[[], bool]) -> None:
        self._allowed = allowed
        self._leaves = False

    def take(self, error: BaseException) -> bool:
        """Let an exception propagate that ends the program; return False for any other, which the caller reports."""
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
    """Return whether a coroutine gets `GeneratorExit` because it is being closed; then it must not continue."""
    if not isinstance(error, GeneratorExit):
        return False
    try:
        return asyncio.current_task() is not own
    except RuntimeError:  # no event loop runs
        return True


def is_unawaited(given: object) -> bool:
    """Return whether a handler returned an awaitable that must be awaited to run; a task or future runs by itself."""
    return inspect.isawaitable(given) and not isinstance(given, asyncio.Future)


def dispose(given: object) -> None:
    """Close a coroutine that will not run, so that Python does not warn; does nothing for a finished one."""
    if inspect.iscoroutine(given):
        given.close()


class UserCall:
    """A running call of user code; a context manager.

    A context variable holds it, so it is also found in tasks that the user's code starts, and in coroutines that it
    passes to an event loop from a thread. When `close()` is called there, the client does not wait for the call,
    because the call may be waiting for `close()`.

    Args: owner: the object that would wait for the call, or cancel it. task: its task, or None for a thread.
    """

    __slots__ = ("_active", "_outer", "_token", "owner", "task")

    def __init__(self, owner: object, task: "asyncio.Task[object] | None") -> None:
        self.owner: object = owner
        self.task: asyncio.Task[object] | None = task
        self._active = False
        self._outer: UserCall | None = None
        self._token: Token[UserCall | None] | None = None

    def __enter__(self) -> None:
        outer = _call.get()
        while outer is not None and not outer._active:  # skip ended calls, or they would accumulate
            outer = outer._outer
        self._outer = outer
        self._active = True
        self._token = _call.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False
        if self._token is not None and not isinstance(error, GeneratorExit):  # it may come from another context
            _call.reset(self._token)

    @staticmethod
    def of(owner: object) -> "UserCall | None":
        """Return the running call of this owner that the current code belongs to, or None."""
        call = _call.get()
        while call is not None and not (call._active and call.owner is owner):
            call = call._outer
        return call


_call: Final[ContextVar[UserCall | None]] = ContextVar("supawire_call", default=None)
