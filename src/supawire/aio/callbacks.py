"""Calls of user callbacks on behalf of the core: the token provider and backoff functions.

A token provider that is a coroutine function runs on the event loop. A plain one may block, so it runs on a thread of
ours, which ends with its result. The core has the deadline, and drops results that arrive too late.
"""

import asyncio
import inspect
import math
import random
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from supawire.aio.reporting import described
from supawire.aio.usercode import Exits, UserCall, is_closed_from_outside
from supawire.core.effects import AskDelay, FetchToken
from supawire.core.pacing import Uniform, delay
from supawire.errors import AuthError, InvalidArgumentError, RealtimeError
from supawire.options import Backoff, ClientOptions, Secret, TokenProvider, check_number, check_token

if TYPE_CHECKING:
    from supawire.aio.driver import Driver

RANDOM: Final[Uniform] = random.SystemRandom()
"""The source of jitter for all clients.

It has no state: processes would share it after a fork, draw the same delays and reconnect at the same time.
"""


class _NoToken(Exception):
    """The provider returned something that is not a token; see the cause."""


def is_async(function: object) -> bool:
    """Return whether calling it returns a coroutine; looks through partials, bound methods and `__call__`."""
    while isinstance(function, partial):
        function = cast("partial[Any]", function).func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


class TokenSource:
    """Calls the user's token provider."""

    def __init__(self, driver: "Driver", provider: TokenProvider | None) -> None:
        self._driver = driver
        self._provider = provider
        self._asking: asyncio.Task[None] | None = None
        self._number = 0

    def fetch(self, order: FetchToken) -> None:
        """Call the provider; a call that is still running is cancelled."""
        self._number = order.number
        if self._asking is not None:
            self._asking.cancel()
        self._asking = self._driver.tasks.spawn(self._ask(order.number), f"token-{order.number}")

    async def _ask(self, number: int) -> None:
        provider = self._provider
        assert provider is not None
        answer: Secret | None | RealtimeError
        own = asyncio.current_task()
        try:
            with UserCall(self._driver.tasks, own):
                answer = await _call(provider)
        except asyncio.CancelledError as error:
            if self._driver.tasks.ending or number != self._number:
                raise
            answer = _raised(provider, error)
        except _NoToken as error:
            text = f"the token provider {described(provider)} must return a string or None: {error.__cause__}"
            answer = AuthError(text, hint="Return the access token itself, as in session.access_token.")
        except BaseException as error:
            if is_closed_from_outside(error, own):
                raise
            self._driver.exits.take(error)
            answer = _raised(provider, error)
        self._driver.token_ready(number, answer)


def _raised(provider: TokenProvider, error: BaseException) -> AuthError:
    text = f"the token provider {described(provider)} raised {type(error).__name__}"
    answer = AuthError(text, retryable=True, hint="It is asked again by itself; its own traceback says what to mend.")
    answer.__cause__ = error
    return answer


async def _call(provider: TokenProvider) -> Secret | None:
    token: Any = await cast("Awaitable[Any]", provider()) if is_async(provider) else await _in_thread(provider)
    if inspect.isawaitable(token):
        token = await token
    try:
        return None if token is None else check_token("the token", token)
    except InvalidArgumentError as error:
        raise _NoToken from error


async def _in_thread(function: Callable[[], Any]) -> Any:
    """Call the function on a daemon thread, so that one that never returns does not keep the process alive."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def settle(answer: Any, error: BaseException | None) -> None:
        if not answered.done():
            answered.set_result((answer, error))

    def work() -> None:
        answer, error = None, None
        try:
            answer = function()
        except BaseException as raised:  # noqa: BLE001  raised where it is awaited
            error = raised
        try:
            loop.call_soon_threadsafe(settle, answer, error)
        except RuntimeError:
            return  # the loop was closed meanwhile

    threading.Thread(target=work, name="supawire-token", daemon=True).start()
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
