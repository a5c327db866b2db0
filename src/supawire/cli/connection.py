"""Which server a command uses, and with which key: options, a named context, the environment, a `.env` file.

Each place gives the values that are still missing. A place that names another URL than the one in use gives nothing,
so that a key is never sent to a server that it does not belong to.
"""

import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Group, Parameter

from supawire.cli import env_files
from supawire.cli.output import print_error
from supawire.errors import ConnectError, InvalidArgumentError, ReconnectExhaustedError
from supawire.options import Backoff, ClientOptions, Secret, check_number, check_token

if TYPE_CHECKING:
    from supawire.aio.client import AsyncClient

CONTEXT_NAME: Final = "SUPAWIRE_CONTEXT"
DOTENV: Final = Path(".env")

_PREFIXES: Final = ("", "NEXT_PUBLIC_", "VITE_")
_SUPABASE: Final = {
    "url": ("SUPABASE_URL",),
    "key": ("SUPABASE_KEY", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY"),
    "service": ("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SERVICE_KEY"),
    "token": ("SUPABASE_TOKEN",),
}
_SUPAWIRE: Final = {
    "url": (env_files.URL,),
    "key": (env_files.KEY, env_files.PUBLISHABLE_KEY),
    "service": (env_files.SERVICE_KEY, env_files.SECRET_KEY),
    "token": ("SUPAWIRE_TOKEN",),
}


@dataclass(frozen=True, slots=True)
class Place:
    """The values that one place gives; empty ones are None."""

    name: str
    url: str | None = None
    key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """The server that a command uses."""

    url: str
    key: Secret
    token: Secret | None = None


class NoServerError(InvalidArgumentError):
    """No place names a server."""


def choose(places: Iterable[Place], *, checked: bool = True) -> Target:
    """Return the first URL, the first key for it, and the first token for it. Later places are not read if not needed.

    The first place is the command line, which the user has typed: its key goes to any URL.

    checked: refuse a URL, a key and a token that cannot be used, else leave that to the caller.
    Raises: InvalidArgumentError: URL or key is missing or not valid.
    """
    url: str | None = None
    key: str | None = None
    token: str | None = None
    others: list[str] = []
    origin = ""
    for number, place in enumerate(places):
        if number and not url and not place.url:
            continue  # its key belongs to an unknown URL, and must not go to the one that a later place names
        if url and place.url and _address(place.name, place.url) != _address(origin, url):
            others += [f"{place.name} has a key for {place.url}"] if place.key else []
            continue
        origin = origin if url else place.name
        url, key, token = url or place.url, key or place.key, token or place.token
        if url and key:
            break
    if not url:
        raise NoServerError(
            "no server is given",
            hint="Use --url and --key, --context, SUPABASE_URL and SUPABASE_KEY in the environment or in .env.",
        )
    if not key:
        why = f" ({'; '.join(others)})" if others else ""
        raise InvalidArgumentError(f"no key is given for {url}{why}", hint="Use --key.")
    if not checked:
        return Target(url, Secret(key), Secret(token) if token else None)
    _address(origin, url)
    ClientOptions().endpoint(url, key)
    return Target(url, check_token("key", key), None if not token else check_token("token", token))


def _address(place: str, url: str) -> str:
    """Return the address of the HTTP interface, by which URLs are compared."""
    try:
        return ClientOptions().endpoint(url, "key").rest_url
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"the URL of {place}: {error.message}", hint=error.hint) from error


def places_in(name: str, values: Mapping[str, str | None], *, service: bool) -> Iterator[Place]:
    """Yield what the variables of an environment or file give: first those of supawire, then those of Supabase."""
    for names, prefixes in ((_SUPAWIRE, ("",)), (_SUPABASE, _PREFIXES)):
        keys = (*names["service"], *names["key"]) if service else (*names["key"], *names["service"])

        def first(variables: Iterable[str], prefixes: Iterable[str] = prefixes) -> str | None:
            return next(
                (value for each in variables for prefix in prefixes if (value := values.get(prefix + each))), None
            )

        yield Place(name, first(names["url"]), first(keys), first(names["token"]))


GROUP: Final = Group("Connection", sort_key=20)
"""The group of the options that select a server, in the help of each command."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Connect:
    """The options of every command that uses a server."""

    url: Annotated[
        str | None, Parameter(group=GROUP, help="The project's URL. From the environment or .env: SUPABASE_URL.")
    ] = None
    key: Annotated[
        str | None, Parameter(group=GROUP, help="The project's API key. From the environment or .env: SUPABASE_KEY.")
    ] = field(default=None, repr=False)
    token: Annotated[
        str | None, Parameter(group=GROUP, help="A user's JWT, for private channels and row level security.")
    ] = field(default=None, repr=False)
    context: Annotated[
        str | None,
        Parameter(group=GROUP, help=f"Use URL and key saved under this name. From the environment: {CONTEXT_NAME}."),
    ] = None
    env_file: Annotated[
        Path | None,
        Parameter(group=GROUP, help="Read URL and key from this file instead of .env, such as that of supawire serve."),
    ] = None
    timeout: Annotated[float, Parameter(group=GROUP, help="Seconds to wait for the first connection.")] = 10.0

    def target(self, *, service: bool = False, checked: bool = True) -> Target:
        """Return the server to use. `service`: prefer a service key. `checked`: see `choose`.

        Raises: InvalidArgumentError.
        """
        check_number("--timeout", self.timeout, above=0, unit="seconds")
        if self.context is not None and self.env_file is not None:
            raise InvalidArgumentError("--context and --env-file both name a server; give one of them")
        return choose(self._places(service=service), checked=checked)

    def _places(self, *, service: bool) -> Iterator[Place]:
        yield Place("the command line", self.url, self.key, self.token)
        if self.env_file is not None:
            yield from places_in(str(self.env_file), env_files.read_any(self.env_file, "--env-file"), service=service)
        name = self.context if self.env_file is not None else self.context or os.environ.get(CONTEXT_NAME)
        if name:
            from supawire.cli.contexts import find

            context = find(name)
            yield Place(f"context {name}", context.url, context.key, context.token)
        yield from places_in("the environment", os.environ, service=service)
        if DOTENV.is_file():
            yield from places_in(".env", env_files.read_any(DOTENV, ".env"), service=service)


class _OneRetry(Backoff):
    """Ends the first connection after two attempts; afterwards it reconnects without limit."""

    opened = False

    def ends(self, attempts: int, elapsed: float) -> bool:
        """Return whether no further attempt is made."""
        return not self.opened and attempts >= 1


def _print_client_error(error: Exception) -> None:
    print_error(str(error))


@asynccontextmanager
async def open_client(target: Target, timeout: float, **options: Any) -> "AsyncGenerator[AsyncClient]":
    """Open a client for a command, which fails soon if no server answers. Raises: ConnectError, AuthError."""
    from supawire.aio.connect import connect_async

    backoff = _OneRetry(initial=0.3)
    arguments: dict[str, Any] = {"on_error": _print_client_error, **options}
    try:
        client = await connect_async(
            target.url,
            target.key,
            token=target.token,
            backoff=backoff,
            open_timeout=timeout,
            **arguments,
        )
    except ReconnectExhaustedError as error:
        cause = error.__cause__
        raise cause if isinstance(cause, ConnectError) else error from None
    object.__setattr__(backoff, "opened", True)
    async with client:
        yield client
