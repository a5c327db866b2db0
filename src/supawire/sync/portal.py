"""The bridge between threads: one I/O thread per client, on which its event loop runs.

A call is posted to the loop, and its caller waits on a lock that is released exactly once, with a value or an error
(`Call`). The rules:

* Any thread may call, except the I/O thread, which would wait for itself (`on_frame` runs there).
* Ctrl-C ends the wait at once, and the call is cancelled on the loop.
* A handler may close the client. It then runs on the dispatch thread, and the shutdown does not wait for that thread.
* The client may end by itself, and then the thread ends too. Later calls run on the async client in the caller's
  thread, because nothing in it waits any more. There is no lock for this: both sides first set their own flag, and then
  check the other's.
* The thread is a daemon, so it does not keep the interpreter alive.

Process hooks: a child of `fork()` has its parent's memory and sockets, but not its threads. Right after the fork the
child replaces those descriptors by the null device (`dup2`), so that it sends nothing, leaves the parent's event loop
alone, and closes no descriptor that is used for something else. At interpreter exit, all open clients are closed
together within a time limit.
"""

import asyncio
import atexit
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar, cast

from supawire._validation import Site, warn_unclosed
from supawire.aio.driver import Driver
from supawire.aio.thread_buffer import OneShotLock
from supawire.errors import ClosedError, ConnectError, RealtimeError, StateError


class Call:
    """One call on the I/O thread. Resolved once: with a value, with an error, or by the end of the loop."""

    def __init__(self) -> None:
        self._resolved = OneShotLock()
        self._value: Any = None
        self._error: BaseException | None = None
        self._given_up = False
        self._begun = False
        self._settled = False
        self.task: asyncio.Task[Any] | None = None
        self.broken: bool = False
        """Whether the loop ended before the call was resolved."""

    # --- on the caller's thread

    def wait(self) -> None:
        """Wait until the call is resolved; Ctrl-C ends the wait at once."""
        self._resolved.wait()

    def give_up(self) -> bool:
        """Stop waiting; return whether the loop must be notified."""
        self._given_up = True
        return not self._settled

    @property
    def late(self) -> bool:
        """Whether the loop ended before the call began."""
        return self.broken and not self._begun

    def outcome(self) -> Any:
        """Return the value, or raise the error."""
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del error  # breaks the reference cycle of error, traceback and this frame

    # --- on the loop

    def run(self, function: Callable[[], Any]) -> None:
        """Call a plain function."""
        if self._given_up:
            return
        self._begun = True
        try:
            self._settle(function())
        except Exception as error:  # noqa: BLE001  it is raised where the caller waits
            self._settle(None, error)

    def start(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start a coroutine function."""
        if self._given_up:
            return
        self._begun = True
        self.task = asyncio.get_running_loop().create_task(self._finish(function), name="supawire-call")

    def cancel(self) -> None:
        """Cancel the coroutine, because the caller no longer waits."""
        if self.task is not None:
            self.task.cancel()

    def end(self, refusal: BaseException) -> None:
        """Resolve the call with `refusal`, because the loop has ended."""
        if self.task is not None and self.task.done() and not self.task.cancelled():
            self.task.exception()  # what ended the loop is reported; asyncio would log it when the task is collected
        if not self._settled:
            self.broken = True
            self._settle(None, refusal)

    async def _finish(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Resolve the call inside the task; a done callback would run one iteration of the loop later."""
        try:
            self._settle(await function())
        except asyncio.CancelledError as error:
            if self.task is None or self.task.cancelling():
                raise  # the caller has gone, or the loop is ending and resolves the call itself
            self._settle(None, error)
        except Exception as error:  # noqa: BLE001  it is raised where the caller waits
            self._settle(None, error)

    def _settle(self, value: Any, error: BaseException | None = None) -> None:
        if not self._settled:
            self._settled = True
            self._value, self._error = value, error
            self._resolved.set()


EXIT_TIMEOUT: Final = 2.0
"""Seconds that the interpreter's exit waits for open clients."""

open_portals: "dict[Portal, None]" = {}
"""The portals whose threads are running."""


def register(portal: "Portal") -> None:
    """Register a portal whose thread is running."""
    open_portals[portal] = None


def unregister(portal: "Portal") -> None:
    """Unregister a portal whose thread has ended."""
    open_portals.pop(portal, None)


def _forked() -> None:
    portals = list(open_portals)
    open_portals.clear()
    descriptors = {number for portal in portals for number in portal.inherit() if number >= 0}
    if descriptors:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in descriptors:
            os.dup2(nothing, number, inheritable=False)
        os.close(nothing)


def _exiting() -> None:
    deadline = time.monotonic() + EXIT_TIMEOUT
    portals = list(open_portals)
    for portal in portals:
        portal.end_soon()
    for portal in portals:
        portal.join(max(0.0, deadline - time.monotonic()))


atexit.register(_exiting)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


P = ParamSpec("P")
T = TypeVar("T")

MAX_ATTEMPTS: Final = 3

CALL_TIMEOUT: Final = 1.0
"""Seconds in which running calls may finish after the client has ended."""


class Portal:
    """The I/O thread of one client, and the way to call it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._selector: selectors.BaseSelector | None = None
        self._driver: Driver | None = None
        self._calls: set[Call] = set()
        self._opening = Call()
        self._thread: threading.Thread | None = None
        self._closing: asyncio.Task[None] | None = None
        self._ended = threading.Event()
        self._reported = False
        self._over = False
        """Whether the loop accepts no more calls."""
        self._call_lock = threading.Lock()
        self.inherited: bool = False
        """Whether this process is a forked child, and the client belongs to its parent."""

    # --- opening and closing

    def open(self, start: Callable[[], Coroutine[Any, Any, Driver]]) -> Driver:
        """Start the thread, and a driver on it; if this raises, or on Ctrl-C, everything is released."""
        opening = self._opening
        self._calls.add(opening)
        self._thread = threading.Thread(target=self._run, args=(start,), name="supawire-io", daemon=True)
        register(self)
        self._thread.start()
        try:
            opening.wait()
            opening.outcome()
        except BaseException:
            if opening.give_up():
                self._soon(opening.cancel)
            self.join()
            raise
        finally:
            self._calls.discard(opening)
        assert self._driver is not None
        return self._driver

    def close(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Close the client, and wait until its threads have ended, except for the caller's own."""
        self.check()
        self.exclude_current()
        call = Call()
        done = self._is_done(call, partial(call.start, close))
        try:
            if done and not call.broken:
                call.outcome()
        finally:
            self.join()

    def end_soon(self) -> None:
        """Close the client without waiting."""
        self._soon(self._end)

    @property
    def thread(self) -> threading.Thread | None:
        """The I/O thread."""
        return self._thread

    def close_unreferenced(self, site: Site) -> None:
        """Close a client that was garbage-collected while open, and warn; may run on any thread."""
        if self._over or self._closing is not None or self.inherited or os.getpid() != self._pid:
            return
        self.end_soon()
        warn_unclosed("a client", site, "use a with block, or its close()")

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the thread."""
        if self._thread is None:
            raise RuntimeError("there is no thread before open()")
        if self._ended.wait(timeout):  # after a Ctrl-C, Thread.join can return although the thread still runs
            self._thread.join()

    def exclude_current(self) -> None:
        """Exclude the handler that the caller runs in, if any, from what the shutdown waits for."""
        if self._driver is not None:
            self._driver.thread.exclude_current()

    # --- calls

    def call(self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a coroutine function on the I/O thread, and wait for its result.

        Raises: StateError: in a forked child, and on the I/O thread.
        """
        work = partial(function, *args, **kwargs)
        call = Call()
        if self._is_done(call, partial(call.start, work)):
            return cast("T", call.outcome())
        with self._call_lock:
            return self._step(work())

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function on the I/O thread, and wait for its result; raises as `call`."""
        work = partial(function, *args, **kwargs)
        call = Call()
        if self._is_done(call, partial(call.run, work)):
            return cast("T", call.outcome())
        with self._call_lock:
            return work()

    def check(self) -> None:
        """Raise `StateError` in a forked child, and on the I/O thread."""
        if self.inherited or os.getpid() != self._pid:
            self.inherited = True
            raise StateError(
                "this client was opened before fork(), and belongs to the parent process",
                hint="Open one client in each process, after the fork: in a worker's start hook, or at its first use.",
            )
        if threading.current_thread() is self._thread:
            raise StateError(
                "a blocking call on the client's I/O thread would wait for itself",
                hint="on_frame, backoff= and key= functions run there; make the call on another thread.",
            )

    def _is_done(self, call: Call, begin: Callable[[], None]) -> bool:
        """Post a call and wait for it; return False if the loop ended before the call began."""
        self.check()
        self._calls.add(call)
        try:
            if self._over:
                return False
            self._soon(lambda: self._over or begin())  # a closing loop would not end a new task
            call.wait()
        except BaseException:
            if call.give_up():
                self._soon(call.cancel)
            raise
        finally:
            self._calls.discard(call)
        return not call.late

    def _soon(self, function: Callable[[], object]) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            return  # the loop has ended, and all calls are resolved

    def _step(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine that does not wait for anything."""
        try:
            coroutine.send(None)
        except StopIteration as done:
            return cast("T", done.value)
        coroutine.close()
        raise self._refusal()

    def _refusal(self) -> RealtimeError:
        return (self._driver.error if self._driver is not None else None) or ClosedError("the client was closed")

    # --- the thread

    def _run(self, start: Callable[[], Coroutine[Any, Any, Driver]]) -> None:
        try:
            with asyncio.Runner(loop_factory=self._make_loop) as runner:
                self._loop = runner.get_loop()
                try:
                    runner.run(self._live(start))
                except BaseException as crash:  # noqa: BLE001  reported; this thread has no caller to raise it to
                    self._crashed(crash)
                    _end_tasks(self._loop)
        except BaseException as crash:  # noqa: BLE001  the same
            self._crashed(crash)
        finally:
            self._over = True
            for call in list(self._calls):
                call.end(self._refusal())
            unregister(self)
            self._ended.set()

    async def _live(self, start: Callable[[], Coroutine[Any, Any, Driver]]) -> None:
        self._opening.start(partial(self._begin, start))
        if self._opening.task is None:
            return  # the caller has gone
        await asyncio.wait([self._opening.task])
        if self._driver is None:
            return
        await self._driver.tasks.ended()
        running = [call.task for call in list(self._calls) if call.task is not None]
        if running:
            await asyncio.wait(running, timeout=CALL_TIMEOUT)
        self._driver.detached = True
        self._over = True

    async def _begin(self, start: Callable[[], Coroutine[Any, Any, Driver]]) -> None:
        self._driver = await start()

    def _end(self) -> None:
        if self._driver is None:
            self._opening.cancel()
        elif self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._driver.close())

    def _crashed(self, crash: BaseException) -> None:
        """Handle what ended the loop: a bug of ours, or a `SystemExit` from user code. Reported once."""
        reported, self._reported = self._reported, True
        if reported:
            return
        if self._driver is not None:
            self._driver.fail(crash)
            self._driver.detached = True
        else:
            text = f"the I/O thread ended: {type(crash).__name__}: {crash}"
            out_of_means = isinstance(crash, OSError)  # for example too many open files
            error = ConnectError(text) if out_of_means else ClosedError(text)
            error.__cause__ = crash
            self._opening.end(error)
        self._over = True

    def _make_loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop whose descriptors are known, for forks; Windows has no fork."""
        if sys.platform == "win32":
            loop = asyncio.new_event_loop()
        else:
            self._selector = selectors.DefaultSelector()
            try:
                for end in socket.socketpair():  # a test: asyncio warns if this fails inside the event loop
                    end.close()
            except OSError:
                self._selector.close()
                raise
            loop = asyncio.SelectorEventLoop(self._selector)
        loop.set_default_executor(_Lookups())
        return loop

    # --- fork

    def inherit(self) -> set[int]:
        """Mark the client as inherited in a forked child; return the descriptors to be replaced."""
        self.inherited = True
        if self._driver is not None:
            self._driver.thread.inherited()
        if self._selector is None or self._over:
            return set()
        watched: Any = self._selector.get_map() or {}
        selector: Any = self._selector
        ours = self._driver.sockets.descriptors() if self._driver is not None else []
        return {selector.fileno(), *(key.fd for key in watched.values()), *ours}


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """End the tasks of a loop that was interrupted by an exception; the tasks may raise that exception again."""
    for _ in range(MAX_ATTEMPTS):
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
            task.add_done_callback(_retrieve_exception)
        try:
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=CALL_TIMEOUT))
        except BaseException:  # noqa: BLE001, S112  it is reported already
            continue


def _retrieve_exception(task: "asyncio.Task[Any]") -> None:
    """Retrieve the exception, which is reported already, so that asyncio does not warn about it."""
    if not task.cancelled():
        task.exception()


class _Lookups(ThreadPoolExecutor):
    """Resolves host names on daemon threads, so that a hanging resolver does not block the shutdown."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Call the function on a thread of its own."""
        future: Future[Any] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  it is raised where it is awaited
                future.set_exception(error)

        threading.Thread(target=work, name="supawire-lookup", daemon=True).start()
        return future
