"""User callbacks: how they are called, what their exceptions do, and which of their calls are running.

Handlers, token providers, `fetch`, `backoff`, `on_frame` and `on_error` may raise anything: it is reported, and the
client continues. There is one exception: `SystemExit` and `KeyboardInterrupt` that are raised on the event loop of an
async client propagate, as from any task or callback of asyncio, and end the program. On a thread of the client, where
all user code of the sync client runs, they could only end that thread, so they are reported.

A token provider that is a coroutine function runs on the event loop. A plain one may block, so it runs on a thread of
ours, which ends with its result. The core has the deadline, and drops results that arrive too late.
"""

import asyncio
import inspect
import math
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar, Token
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar, cast

from supawire.core.effects import AskDelay, FetchToken
from supawire.core.listeners import ModelAdapter
from supawire.core.pacing import Uniform, delay
from supawire.errors import AuthError, InvalidArgumentError, RealtimeError
from supawire.options import Backoff, ClientOptions, Secret, TokenProvider, check_number, check_token

T = TypeVar("T")

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


def is_unawaited(result: object) -> bool:
    """Return whether a handler returned an awaitable that must be awaited to run; a task or future runs by itself."""
    return inspect.isawaitable(result) and not isinstance(result, asyncio.Future)


def dispose(result: object) -> None:
    """Close a coroutine that will not run, so that Python does not warn; does nothing for a finished one."""
    if inspect.iscoroutine(result):
        result.close()


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
        outer = _running_call.get()
        while outer is not None and not outer._active:  # skip ended calls, or they would accumulate
            outer = outer._outer
        self._outer = outer
        self._active = True
        self._token = _running_call.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False
        if self._token is not None and not isinstance(error, GeneratorExit):  # it may come from another context
            _running_call.reset(self._token)

    @staticmethod
    def of(owner: object) -> "UserCall | None":
        """Return the running call of this owner that the current code belongs to, or None."""
        call = _running_call.get()
        while call is not None and not (call._active and call.owner is owner):
            call = call._outer
        return call


_running_call: Final[ContextVar[UserCall | None]] = ContextVar("supawire_call", default=None)


def describe_callable(name: object) -> str:
    """Return the name of a callable for messages; never its arguments or bound values."""
    while isinstance(name, partial | ModelAdapter):
        name = name.deliver if isinstance(name, ModelAdapter) else cast("partial[Any]", name).func
    return str(getattr(name, "__qualname__", None) or type(name).__qualname__)


def is_async(function: object) -> bool:
    """Return whether calling it returns a coroutine; looks through partials, bound methods and `__call__`.

    False for a class: a call of it returns an instance, also if the instances have an async `__call__`.
    """
    while isinstance(function, partial):
        function = cast("partial[Any]", function).func
    if isinstance(function, type):
        return False
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


RANDOM: Final[Uniform] = random.SystemRandom()
"""The source of jitter for all clients.

It has no state: processes would share it after a fork, draw the same delays and reconnect at the same time.
"""


class TaskSpawner(Protocol):
    """Starts and owns tasks; see `Tasks`."""

    @property
    def ending(self) -> bool:
        """Whether a cancellation is due to the end of the client."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None] | None":
        """Start a task; during shutdown, close the coroutine and return None."""
        ...


class _NoToken(Exception):
    """The provider returned something that is not a token; see the cause."""


class TokenSource:
    """Calls the user's token provider.

    Args: on_result: called with the number of each request, and the token or the error.
    """

    def __init__(
        self,
        provider: TokenProvider,
        tasks: TaskSpawner,
        exits: Exits,
        on_result: Callable[[int, Secret | None | RealtimeError], None],
    ) -> None:
        self._provider = provider
        self._tasks = tasks
        self._exits = exits
        self._on_result = on_result
        self._running: asyncio.Task[None] | None = None
        self._number = 0

    def fetch(self, order: FetchToken) -> None:
        """Call the provider; a call that is still running is cancelled."""
        self._number = order.number
        if self._running is not None:
            self._running.cancel()
        self._running = self._tasks.spawn(self._fetch(order.number), f"token-{order.number}")

    async def _fetch(self, number: int) -> None:
        provider = self._provider
        answer: Secret | None | RealtimeError
        own = asyncio.current_task()
        try:
            with UserCall(self._tasks, own):
                answer = await _call_provider(provider)
        except asyncio.CancelledError as error:
            if self._tasks.ending or number != self._number:
                raise
            answer = _raised(provider, error)
        except _NoToken as error:
            text = f"the token provider {describe_callable(provider)} must return a string or None: {error.__cause__}"
            answer = AuthError(text, hint="Return the access token itself, as in session.access_token.")
        except BaseException as error:
            if is_closed_from_outside(error, own):
                raise
            self._exits.take(error)
            answer = _raised(provider, error)
        self._on_result(number, answer)


def _raised(provider: TokenProvider, error: BaseException) -> AuthError:
    text = f"the token provider {describe_callable(provider)} raised {type(error).__name__}"
    answer = AuthError(text, retryable=True, hint="It is called again later; see the cause of this error.")
    answer.__cause__ = error
    return answer


async def _call_provider(provider: TokenProvider) -> Secret | None:
    token: Any = (
        await cast("Awaitable[Any]", provider()) if is_async(provider) else await run_in_thread(provider, "token")
    )
    if inspect.isawaitable(token):
        token = await token
    try:
        return None if token is None else check_token("the token", token)
    except InvalidArgumentError as error:
        raise _NoToken from error


async def run_in_thread(function: Callable[[], T], name: str) -> T:
    """Call the function on a daemon thread, so that one that never returns does not keep the process alive."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def settle(answer: Any, error: BaseException | None) -> None:
        if not answered.done():
            answered.set_result((answer, error))

    def work() -> None:
        answer: Any = None
        error: BaseException | None = None
        try:
            answer = function()
        except BaseException as raised:  # noqa: BLE001  raised where it is awaited
            error = raised
        try:
            loop.call_soon_threadsafe(settle, answer, error)
        except RuntimeError:
            return  # the loop was closed meanwhile

    threading.Thread(target=work, name=f"supawire-{name}", daemon=True).start()
    answer, error = await answered
    if error is not None:
        raise error if isinstance(error, Exception) else RuntimeError(f"it raised {type(error).__name__}") from error
    return answer


def ask_delay(order: AskDelay, options: ClientOptions, exits: Exits) -> tuple[float, BaseException | None]:
    """Return the delay from the user's backoff function; if it raises, the default delay and the exception."""
    chosen = options.backoff if order.topic is None else options.rejoin_backoff
    default = Backoff() if order.topic is None else Backoff(initial=1.0)
    if isinstance(chosen, Backoff):
        return delay(chosen, order.attempt, RANDOM), None
    try:
        seconds = check_number("the delay", chosen(order.attempt), minimum=0, unit="seconds")
    except BaseException as error:  # noqa: BLE001  errors of user code never end the client
        return delay(default, order.attempt, RANDOM), None if exits.take(error) else error
    return (
        (seconds, None) if math.isfinite(seconds) else (default.maximum, InvalidArgumentError("the delay has no end"))
    )
