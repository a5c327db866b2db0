"""The two ways to run the local server: `LocalServer`, in a thread of its own so that tests may block, and `serve`."""

import asyncio
import os
import secrets
import signal
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from supawire._validation import Site, call_site, warn_unclosed
from supawire.errors import StateError
from supawire.events import Instant
from supawire.options import check_bool, check_callable, check_count, check_json, check_kind, check_number, check_text
from supawire.server.app import App
from supawire.server.authorization import Policy, default_policy
from supawire.server.gateway import publishable_key, secret_key
from supawire.server.hub import Hub
from supawire.server.hub_options import HubOptions, Timings
from supawire.server.limits import ServerLimits
from supawire.server.local_api import ActApi, DatabaseApi, FaultApi
from supawire.server.recorder import ReceivedFrame
from supawire.server.tokens import sign

if TYPE_CHECKING:
    from supawire.server.postgres.backend import PostgresBackend


STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Generator[None]:
    """Set `stop` on SIGINT and SIGTERM while the block runs, in place of the handlers set before. Main thread only.

    The event loop's own signal handlers are used where available, because they wake the loop. A plain handler runs
    between two bytecodes: if a signal arrives just before the loop sleeps, `stop` would take effect only after the
    next wake-up.
    """
    loop = asyncio.get_running_loop()

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        loop.call_soon_threadsafe(stop.set)

    with ExitStack() as undo:
        for number in STOP_SIGNALS:
            undo.callback(signal.signal, number, signal.getsignal(number))
            try:
                loop.add_signal_handler(number, stop.set)
            except NotImplementedError:  # Windows, where any signal wakes the loop
                signal.signal(number, handle)
            else:
                undo.callback(loop.remove_signal_handler, number)
        yield


T = TypeVar("T")
TOKEN_LIFETIME: Final = 10 * 365 * 24 * 3600.0


class LocalServer(DatabaseApi, ActApi, FaultApi):
    """A Realtime-compatible server on 127.0.0.1, for tests and development.

        with LocalServer() as server:
            client = supawire.connect(server.url, server.anon_key)

    It runs in its own thread from `start()` (or `with`, `async with`) until `stop()`. Every method may be called from
    any thread and returns when the server has executed it.

    Args: postgres: start an embedded PostgreSQL with the server and stop it with the server. database: URL of an
    existing PostgreSQL to use. Both need the extra `supawire[postgres]`. prepare: create what the server needs in
    `database`. port: 0 selects a free port. secret: signs and verifies tokens (HS256); random by default.
    strict: delay error replies as the real server does (2 s and 5 s) and apply the limits of a self-hosted server.
    limits: other limits.
    inspector: serve a page at `url` that shows connections and frames, to browsers on this machine only.
    announce_outages: notify channels when the connection to the database is lost and restored; the real server does
    not.
    isolate_policy_errors: when a row policy raises, only the affected subscriber gets an error; on the real server no
    subscriber gets any change meanwhile.
    project: folder of a Supabase project: starts an embedded PostgreSQL with its migrations and seed;
    `auth.jwt_secret` and `auth.jwt_expiry` of its `config.toml` are the defaults for `secret` and `expires_in`.
    Raises: InvalidArgumentError. ImportError when the extra is not installed. StateError when `project` has an error.
    """

    def __init__(
        self,
        postgres: bool = False,
        database: str | None = None,
        port: int = 0,
        secret: str | None = None,
        strict: bool = False,
        limits: ServerLimits | None = None,
        *,
        prepare: bool = False,
        inspector: bool = False,
        announce_outages: bool = False,
        isolate_policy_errors: bool = False,
        project: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            postgres,
            database,
            prepare=prepare,
            announce_outages=announce_outages,
            isolate_policy_errors=isolate_policy_errors,
            project=project,
        )
        if secret is not None:
            check_text("secret", secret, secret=True)
        check_bool("strict", strict)
        check_bool("inspector", inspector)
        if limits is not None:
            check_kind("limits", limits, ServerLimits, "a ServerLimits, such as ServerLimits.self_hosted()")
        project_secret = None if self._project is None else self._project.jwt_secret
        self.secret: Final = secret or project_secret or secrets.token_urlsafe(48)
        """The HS256 secret that signs and verifies tokens."""
        self.anon_key: Final = self.token("anon", TOKEN_LIFETIME)
        """A long-lived key with the role `anon`."""
        self.service_key: Final = self.token("service_role", TOKEN_LIFETIME)
        """A long-lived key with the role `service_role`."""
        self.publishable_key: Final = publishable_key(self.secret)
        """An API key of the newer kind, `sb_publishable_…`, for the role `anon`. It is not a JWT."""
        self.secret_key: Final = secret_key(self.secret)
        """An API key of the newer kind, `sb_secret_…`, for the role `service_role`. It is not a JWT."""
        self._port = check_count("port", port, minimum=0, maximum=65535)
        self._strict = strict
        self._limits = limits
        self._inspector = inspector
        self._policy: Policy = default_policy
        self._app: App | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._stop_requested = False
        self._pid = os.getpid()
        self._pending_calls: set[Future[Any]] = set()
        """Futures on which callers in other threads wait."""
        self._site = call_site()
        self._finalizer: weakref.finalize[..., Any] | None = None

    def __repr__(self) -> str:
        return f"LocalServer({self.url!r})" if self._app else "LocalServer(not running)"

    # --- lifecycle ---

    def start(self) -> Self:
        """Start listening. Returns when clients can connect.

        Raises: OSError when the port is in use. StateError when the server is already running or the database is not
        usable in its present state. ConnectError when the database cannot be reached.
        """
        if self._thread is not None:
            raise StateError("this local server is already running; call stop() first, or create another one")
        ready: Future[None] = Future()
        self._loop, self._stop, self._stop_requested, self._pid = None, None, False, os.getpid()
        server_ref = weakref.ref(self)  # so that the thread does not keep alive a server that is never stopped
        arguments = (server_ref, self._pending_calls, ready)
        self._thread = threading.Thread(target=self._run, args=arguments, name="supawire-local-server", daemon=True)
        try:
            self._thread.start()
            ready.result()
        except BaseException:  # start failed, or Ctrl-C interrupted it
            self.stop()
            raise
        self._finalizer = weakref.finalize(self, _stop_collected, self._loop, self._stop, self._pid, self._site)
        self._finalizer.atexit = False
        return self

    def stop(self) -> None:
        """Close every socket with 1012 and end the thread.

        Does nothing when the server is not running, or in a forked process.
        """
        thread = self._thread
        if thread is None or os.getpid() != self._pid:
            return
        self._stop_requested = True
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # the loop is closed: start failed, or the loop has failed
                self._loop.call_soon_threadsafe(self._stop.set)
        if thread.ident is not None:  # None when Ctrl-C arrived before the thread began
            thread.join()
        self._thread = None
        self._close_session()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.stop)

    @staticmethod
    def _run(server_ref: "weakref.ref[LocalServer]", pending: "set[Future[Any]]", ready: Future[None]) -> None:
        """Run the server; target of its thread."""
        try:
            asyncio.run(LocalServer._serve(server_ref, ready))
        finally:
            for call in list(pending):  # submitted in the last moment; no loop is left to execute them
                call.set_exception(_not_running())

    @staticmethod
    async def _serve(server_ref: "weakref.ref[LocalServer]", ready: Future[None]) -> None:
        server = server_ref()
        assert server is not None  # start() holds a reference while it waits
        stop = asyncio.Event()
        try:
            async with server._prepared(stop) as app:
                running = not server._stop_requested  # else stop() was called before the loop existed
                server._app = app
                del server
                ready.set_result(None)
                try:
                    if running:
                        await stop.wait()
                finally:
                    if (server := server_ref()) is not None:
                        server._app = None
                        del server
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)

    def _prepared(self, stop: asyncio.Event) -> "AbstractAsyncContextManager[App]":
        """Return the context manager that runs the server on its thread's event loop."""
        self._loop, self._stop = asyncio.get_running_loop(), stop
        self._backend = self._make_backend()
        return _running(self._options(), "127.0.0.1", self._port, self._backend)

    def _options(self) -> HubOptions:
        return HubOptions(
            secret=self.secret,
            limits=self._limits or (ServerLimits.self_hosted() if self._strict else ServerLimits()),
            timings=Timings.strict() if self._strict else Timings(),
            policy=self._policy,
            database=self._has_database,
            inspector=self._inspector,
        )

    def _do(self, act: Callable[[Hub, Instant], T]) -> T:
        """Call `act` on the server's thread and return its result."""
        self._check_process()
        loop, app = self._loop, self._app
        if loop is None or app is None:
            raise _not_running()
        if threading.current_thread() is self._thread:
            raise StateError(
                "a policy runs on the server's thread and cannot call its methods: the call would never return"
            )
        done: Future[T] = Future()

        def run() -> None:
            now = app.now()
            app.hub.at(now)
            self._pending_calls.discard(done)
            try:
                done.set_result(act(app.hub, now))
            except Exception as error:  # noqa: BLE001  raised in the caller, on the other thread
                done.set_exception(error)
            app.pump()

        self._pending_calls.add(done)
        try:
            loop.call_soon_threadsafe(run)
        except RuntimeError:  # the loop has just ended
            self._pending_calls.discard(done)
            raise _not_running() from None
        return done.result()

    def _check_process(self) -> None:
        """Raise StateError in a forked process: it has no server thread, and the connections belong to the parent."""
        if self._thread is not None and os.getpid() != self._pid:
            raise StateError(
                "this local server was started before fork(), and runs in the parent process",
                hint="Clients in the child process can use its url; call the server's methods in the parent process.",
            )

    # --- for clients ---

    @property
    def url(self) -> str:
        """The URL to pass to a client: `http://127.0.0.1:PORT`."""
        if self._app is None:
            raise StateError(
                "the local server is not running, so it has no port yet; use `with LocalServer() as server:`"
            )
        return f"http://127.0.0.1:{self._app.port}"

    def token(self, role: str = "authenticated", expires_in: float | None = None, **claims: Any) -> str:
        """Return a token with this role and these claims. A negative `expires_in` (seconds) gives an expired token.

        The default of `expires_in` is one hour, or `auth.jwt_expiry` of the project's `config.toml`.
        """
        check_text("role", role)
        if expires_in is None:
            expires_in = (self._project and self._project.jwt_expiry) or 3600
        check_number("expires_in", expires_in, unit="seconds")
        check_json(claims, "claims")
        return sign({"role": role, "exp": int(time.time() + expires_in), **claims}, self.secret)

    def policy(self, function: Policy) -> Policy:
        """Authorize private channels with this function; may be used as a decorator.

        `function(claims, topic, extension, action) -> bool` gets the token's claims, the topic without `realtime:`,
        `"broadcast"` or `"presence"`, and `"read"` or `"write"`. It runs on the server's thread, at joins and at the
        first broadcast or `track` of a channel. An exception denies access. Without a policy, `authenticated` and
        `service_role` are allowed everything and `anon` nothing.
        Raises: StateError with a database, whose row policies decide.
        """
        self._check_without_database("policy")
        check_callable("function", function)
        self._policy = function
        if self._app is not None:
            self._do(lambda hub, now: hub.set_policy(function))
        return function

    @property
    def frames(self) -> list[ReceivedFrame]:
        """Return the frames that clients sent, oldest first, with tokens removed; at most the newest 10,000."""
        return self._do(lambda hub, now: hub.received.frames())


def _stop_collected(loop: asyncio.AbstractEventLoop | None, stop: asyncio.Event | None, pid: int, site: Site) -> None:
    """Stop a server that was garbage-collected, on any thread, without `stop()`."""
    if loop is None or stop is None or os.getpid() != pid:
        return
    with suppress(RuntimeError):  # the loop has failed
        loop.call_soon_threadsafe(stop.set)
    warn_unclosed("a local server", site, "use a with block, or its stop()")


def _not_running() -> StateError:
    return StateError("the local server is not running; use it inside `with LocalServer() as server:`")


@asynccontextmanager
async def _running(options: HubOptions, host: str, port: int, backend: "PostgresBackend | None") -> AsyncGenerator[App]:
    """Run a listening server, and its database backend if there is one, inside the block."""
    app = App(options)
    try:
        if backend is not None:
            app.backend = backend
            await backend.start(app)
        await app.start(host, port)
        if backend is not None:
            backend.run()
        yield app
    finally:
        await app.stop()
        if backend is not None:
            await backend.stop()


async def serve(
    options: HubOptions,
    *,
    host: str = "127.0.0.1",
    port: int = 4000,
    on_ready: Callable[[App], None] | None = None,
    stop: asyncio.Event | None = None,
    signals: bool = True,
    level: "PostgresBackend | None" = None,
) -> None:
    """Run a local server until it is stopped; then close every socket with 1012.

    `on_ready` is called once the server listens (`app.port`). It stops when `stop` is set, when the task is cancelled,
    and with `signals=True` on SIGTERM and SIGINT. `level` is the database backend for `HubOptions(database=True)`.
    Raises: OSError when the port is in use, and the database errors of `LocalServer.start`.
    """
    stop = stop or asyncio.Event()
    with stop_on_signals(stop) if signals else nullcontext():
        async with _running(options, host, port, level) as app:
            if on_ready is not None:
                on_ready(app)
            await stop.wait()
