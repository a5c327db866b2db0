"""What `connect_async` returns: a client that is opened by `await` or by `async with`."""

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from supawire._validation import NoAttributeError, NotSupportedError
from supawire.errors import StateError


class Closable(Protocol):
    """An object with an async `close`."""

    async def close(self) -> None:
        """Close it."""
        ...


if TYPE_CHECKING:  # with a default, a bare generic type passes strict checkers; at run time Python 3.13 has them
    import typing_extensions

    C = typing_extensions.TypeVar("C", bound=Closable, default=Any)
else:
    C = TypeVar("C", bound=Closable)


def _hint(call: str) -> str:
    sync = call.removesuffix("_async")
    return f"Write `async with {call}(…) as client:`, or `client = await {call}(…)`; code that blocks calls {sync}()."


class ClientOpener(Generic[C]):
    """A client that is not open yet. Nothing starts before it is awaited or entered, which can be done once.

    `client = await connect_async(...)`, or `async with connect_async(...) as client:`.
    """

    def __init__(self, start: Callable[[], Awaitable[C]], call: str = "connect_async") -> None:
        self._start: Callable[[], Awaitable[C]] | None = start
        """None after use, to release what it refers to."""
        self._call = call
        self._client: C | None = None
        self._misused = False

    def __await__(self) -> Generator[Any, Any, C]:
        return self._open().__await__()

    async def __aenter__(self) -> C:
        self._client = await self._open()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            self._misused = True
            message = f"{self._call}() gives a client that is not open yet, and it has no attribute {name!r}"
            raise NoAttributeError(message, hint=_hint(self._call))

        def __enter__(self) -> Any:
            self._misused = True
            raise NotSupportedError(f"{self._call}() opens a client in async code", hint=_hint(self._call))

        def __exit__(self, *_: object) -> None: ...

    async def _open(self) -> C:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._start = None
            raise StateError(
                f"{self._call} needs the event loop of asyncio, and none is running here",
                hint="Under trio use connect(), in a thread: trio.to_thread.run_sync(connect, url, key).",
            ) from None
        start, self._start = self._start, None
        if start is None:
            raise StateError("this client was opened already", hint=f"Call {self._call}() again for another one.")
        return await start()

    def __del__(self) -> None:
        if self._start is not None and not self._misused:
            warnings.warn(
                f"{self._call}() was called and its result dropped: nothing was opened; await it, or use async with",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
