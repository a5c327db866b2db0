"""The settings of `supawire serve`, and the file with the address and keys of a running server in dotenv format."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote, split
from typing import TYPE_CHECKING, Final

from supawire.errors import InvalidArgumentError
from supawire.server.handshake import tenant
from supawire.server.hub_options import TENANTS, HubOptions, Timings
from supawire.server.limits import ServerLimits
from supawire.server.local import LocalServer

if TYPE_CHECKING:
    from supawire.server.postgres.backend import PostgresBackend


FIRST_LINE: Final = "# written by `supawire serve`; removed when it stops"
URL: Final = "SUPAWIRE_URL"
KEY: Final = "SUPAWIRE_KEY"
SERVICE_KEY: Final = "SUPAWIRE_SERVICE_KEY"
PUBLISHABLE_KEY: Final = "SUPAWIRE_PUBLISHABLE_KEY"
SECRET_KEY: Final = "SUPAWIRE_SECRET_KEY"  # noqa: S105  the name of a variable
DATABASE_URL: Final = "SUPAWIRE_DATABASE_URL"


class EnvFile:
    """A file written by `supawire serve`, readable by its owner only.

    Raises: InvalidArgumentError if another file exists.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._text = ""
        if not path.parent.is_dir():
            raise InvalidArgumentError(f"--env-file: there is no folder {path.parent}")
        if path.is_symlink() or (path.exists() and not _is_ours(path)):
            raise InvalidArgumentError(f"--env-file: {path} exists and was not written by supawire; name another file")

    def write(self, values: Mapping[str, str]) -> None:
        """Write the file. Raises: InvalidArgumentError when that is not possible."""
        text = "\n".join([FIRST_LINE, *lines(values), ""])
        try:
            self.path.unlink(missing_ok=True)
            number = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise InvalidArgumentError(f"--env-file: {self.path} cannot be written: {error.strerror}") from error
        self._text = text

    def remove(self) -> None:
        """Remove the file, unless its contents have been changed by someone else."""
        if self._text and self.path.is_file() and self.path.read_text(encoding="utf-8") == self._text:
            self.path.unlink()


def lines(values: Mapping[str, str]) -> list[str]:
    """Format the values as `NAME=value`, quoted for a shell where necessary; the database URL may be any text."""
    return [f"{name}={quote(value)}" for name, value in values.items()]


def read(path: Path) -> dict[str, str]:
    """Return the values of a file written by `supawire serve`. Raises: InvalidArgumentError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidArgumentError(
            f"--env-file: {path} cannot be read: {error.strerror}; is `supawire serve --env-file {path}` running?"
        ) from error
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    values = {name.strip().removeprefix("export "): _unquoted(value.strip()) for name, _, value in pairs}
    if URL not in values or not values.keys() & {KEY, SERVICE_KEY}:
        raise InvalidArgumentError(f"--env-file: {path} does not contain {URL} and {KEY}")
    return values


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline().rstrip() == FIRST_LINE.encode()


def _unquoted(value: str) -> str:
    """Remove the quotes that `lines` adds."""
    try:
        return "".join(split(value))
    except ValueError:  # a line added by the user
        return value


ALL_INTERFACES: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104  users may choose it
"""Addresses that mean all interfaces, each with one that a client can use instead."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """The checked settings from the command line."""

    host: str
    port: int
    strict: bool
    secret: str = field(repr=False)
    fixed: bool
    show_keys: bool
    env_file: EnvFile | None
    allow_host: tuple[str, ...] = ()
    inspector: bool = True
    backend: "PostgresBackend | None" = None
    """The database; None without one."""

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def inspected(self) -> bool:
        """Whether the inspector is enabled: never when other machines can reach the server."""
        return self.inspector and self.local

    def options(self) -> HubOptions:
        """Return the options of the hub. Without `strict` it answers at once and has no limits, like `LocalServer`."""
        names = {tenant(in_url(name)) for name in (self.host, *self.allow_host) if name not in ("", "0.0.0.0")}  # noqa: S104
        return HubOptions(
            secret=self.secret,
            limits=ServerLimits.self_hosted() if self.strict else ServerLimits(),
            timings=Timings.strict() if self.strict else Timings(),
            tenants=TENANTS | names,
            dev=self.local and self.backend is None,
            database=self.backend is not None,
            inspector=self.inspected,
        )

    def values(self, port: int) -> dict[str, str]:
        """Return what a client needs, by the names of environment variables."""
        keys = LocalServer(secret=self.secret)
        values = {
            URL: url_of(self.host, port),
            KEY: keys.anon_key,
            SERVICE_KEY: keys.service_key,
            PUBLISHABLE_KEY: keys.publishable_key,
            SECRET_KEY: keys.secret_key,
        }
        return values if self.backend is None else values | {DATABASE_URL: self.backend.url}


def is_loopback(host: str) -> bool:
    """Return whether an address is a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def in_url(host: str) -> str:
    """Format a host for URLs and the Host header: an IPv6 address in brackets."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def url_of(host: str, port: int) -> str:
    """Return the URL for clients on this machine."""
    return f"http://{in_url(ALL_INTERFACES.get(host, host))}:{port}"
