"""A Realtime client that follows a client of the package `supabase`: its URL, its key, and the token of its user.

The package is not imported. Of a client, sync or async, four public names are used: `supabase_url`, `supabase_key`,
`auth.get_session()` and `auth.on_auth_state_change()`. A fifth is used when no user signs in, but the client was made
with an `Authorization` header for a user, as servers do for each request.

The session is read before each connect and join, as with any token provider; in between, the events of `auth` report a
refresh, another user, or a sign-out. `auth` calls us on any thread and in the middle of the user's `sign_in`, so our
callback never waits or raises.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack, cast

from supawire.aio.callbacks import is_async
from supawire.aio.client import AsyncClient
from supawire.aio.connect import ClientOpener, check_installed
from supawire.aio.driver import Driver
from supawire.cursors import HistorySource
from supawire.errors import AuthError, InvalidArgumentError
from supawire.events import ConnectionState
from supawire.options import (
    Backoff,
    ClientOptions,
    Fallback,
    Limits,
    Offline,
    Secret,
    TokenProvider,
    check_bool,
    check_token,
)
from supawire.options import Protocol as Version
from supawire.transport.base import HttpClient, Transport

if TYPE_CHECKING:
    import ssl as tls

    from supawire.telemetry import Telemetry

_BEARER = "Bearer "
_SIGNED_OUT = "SIGNED_OUT"


class Supabase(Protocol):
    """What is used of a client of the package `supabase`."""

    @property
    def supabase_url(self) -> object:
        """The project's URL, a string or an object that converts to one."""
        ...

    @property
    def supabase_key(self) -> str:
        """The project's API key."""
        ...

    @property
    def auth(self) -> Any:
        """Its Auth client, with `get_session` and `on_auth_state_change`."""
        ...


class Passed(TypedDict, total=False):
    """The options of `connect` except `token`, which comes from the session; see `ClientOptions`."""

    protocol: Version
    heartbeat: float
    timeout: float
    open_timeout: float | None
    backoff: Backoff | Callable[[int], float]
    rejoin_backoff: Backoff | Callable[[int], float]
    offline: Offline
    queue_size: int
    limits: Limits
    idle_disconnect: float | None
    max_sockets: int
    token_on_heartbeat: bool
    max_retry_after: float
    headers: Mapping[str, str] | None
    params: Mapping[str, str] | None
    ssl: "tls.SSLContext | None"
    proxy: str | Secret | None
    host: str | None
    on_error: Callable[[Exception], object] | None
    transport: Transport | None
    http: HttpClient | None
    logger: logging.Logger | None
    on_frame: Callable[..., object] | None
    history: HistorySource | None
    telemetry: "Telemetry | None"
    fallback: Fallback | None


def from_supabase_async(
    client: Supabase, *, close_on_sign_out: bool = False, **options: Unpack[Passed]
) -> ClientOpener[AsyncClient]:
    """Make a Realtime client in this event loop that follows the session of a client of the package `supabase`.

    The given client may be sync or async. URL and key are those of that client, and the token is that of its signed-in
    user, also after a refresh or a new sign-in; after a sign-out the key is used. A client that was made with an
    `Authorization` header sends that header until a user signs in. Closing the Realtime client unsubscribes from the
    given client, and does not close it. Everything else as with `connect_async`.

    Args: client: the result of `create_client` or `acreate_client` of `supabase`. close_on_sign_out: end this client
        with `AuthError` when the session is lost, by a sign-out or because it cannot be refreshed; if False, continue
        with the key. options: those of `connect_async`, except `token`.
    Raises: InvalidArgumentError, at once. Opening raises ConnectError, AuthError.
    """
    account = Account(client, "from_supabase_async", close_on_sign_out)
    chosen, endpoint = account.read(options)

    async def start() -> AsyncClient:
        driver = Driver(endpoint, chosen)
        await account.open(driver)
        return AsyncClient(driver)

    return ClientOpener(start, "from_supabase_async")


class Account:
    """The session of a client of `supabase`. Args: call: the name of our function that was called, for errors."""

    def __init__(self, client: Supabase, call: str, close_on_sign_out: bool) -> None:
        self._call = call
        self._ends = check_bool("close_on_sign_out", close_on_sign_out)
        self._client = client
        auth = getattr(client, "auth", None)
        parts = (getattr(auth, "get_session", None), getattr(auth, "on_auth_state_change", None))
        named = all(hasattr(client, name) for name in ("supabase_url", "supabase_key"))
        if not named or not all(callable(part) for part in parts):
            raise _wrong(client, call)
        self._auth: Any = auth
        self.waits: bool = is_async(self._auth.get_session)
        """Whether the client is async, so that its session must be awaited."""
        self._auth_changed = False

    def read(self, options: Passed) -> tuple[ClientOptions, Any]:
        """Return the options with the session's token, and the endpoint. Raises InvalidArgumentError."""
        if "token" in options:
            raise InvalidArgumentError(
                f"{self._call} has no option token: the token is that of the session of the supabase client",
                hint="To set your own token use connect(url, key, token=...).",
            )
        ask: TokenProvider = self.ask_async if self.waits else self.ask
        chosen = ClientOptions(token=ask, **options)
        check_installed(chosen)
        return chosen, chosen.endpoint(str(self._client.supabase_url), self._client.supabase_key)

    async def open(self, driver: Driver) -> None:
        """Open, and follow changes of the session until the client ends."""
        listening = self._auth.on_auth_state_change(partial(self._changed, driver))
        try:
            await driver.open()
        except BaseException:
            listening.unsubscribe()
            raise
        lasting = driver.tasks.spawn(_run_forever(), "supabase-session")
        if lasting is None:
            listening.unsubscribe()
        else:
            lasting.add_done_callback(lambda _: listening.unsubscribe())

    # --- the token

    def ask(self) -> Secret | None:
        """Return the current token of a sync client; it may ask the server for a newer one."""
        return self._token(self._auth.get_session())

    async def ask_async(self) -> Secret | None:
        """Return the current token of an async client."""
        return self._token(await self._auth.get_session())

    def _token(self, session: Any) -> Secret | None:
        if session is None and not self._auth_changed:
            return self._from_header()
        return _token_of(session)

    def _from_header(self) -> Secret | None:
        """Return the token in the client's header; not used after a sign-in or sign-out, which changes that header."""
        headers = getattr(getattr(self._client, "options", None), "headers", None)
        if not isinstance(headers, Mapping):
            return None
        value = str(cast("Mapping[str, Any]", headers).get("Authorization", ""))
        token = value.removeprefix(_BEARER)
        return None if token in (value, "", self._client.supabase_key) else Secret(token)

    def _changed(self, driver: Driver, event: str, session: Any) -> None:
        self._auth_changed = True
        try:
            driver.loop.call_soon_threadsafe(self._take, driver, event, session)
        except RuntimeError:
            return  # the loop has ended, and the client with it

    def _take(self, driver: Driver, event: str, session: Any) -> None:
        if driver.session.state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            return
        if self._ends and session is None and event == _SIGNED_OUT:
            text = "the session of the supabase client ended, and close_on_sign_out=True ends this client with it"
            driver.abort(AuthError(text, hint="After the next sign-in call it again."))
            return
        try:
            token = _token_of(session)
        except InvalidArgumentError as error:
            driver.reports.error(error, "token")
            return
        driver.session.set_token(token, driver.now())
        driver.pump()


async def _run_forever() -> None:
    """Run as long as the client."""
    await asyncio.get_running_loop().create_future()


def _token_of(session: Any) -> Secret | None:
    return None if session is None else check_token("the token of the supabase session", session.access_token)


def _wrong(client: object, call: str) -> InvalidArgumentError:
    kind = type(client).__qualname__
    hint = "Without that package: connect(url, key), and token= for the user's token."
    if hasattr(client, "__await__"):
        hint = "Await acreate_client(url, key) first."
    return InvalidArgumentError(f"{call} needs a client of the package supabase, not a {kind}", hint=hint)
