"""What `supawire serve` was asked for, and what follows from it."""

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supawire.cli.envfile import DATABASE_URL, KEY, PUBLISHABLE_KEY, SECRET_KEY, SERVICE_KEY, URL, EnvFile
from supawire.server.desk import TENANTS, HubOptions, Timings
from supawire.server.handshake import tenant
from supawire.server.limits import ServerLimits
from supawire.server.local import LocalServer

if TYPE_CHECKING:
    from supawire.server.postgres.level import Level

EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104  somebody may ask for it
"""Addresses that mean all of this machine's, and one that a client can use instead."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for on the command line, checked."""

    host: str
    port: int
    strict: bool
    secret: str = field(repr=False)
    fixed: bool
    show_keys: bool
    env_file: EnvFile | None
    allow_host: tuple[str, ...] = ()
    inspector: bool = True
    level: "Level | None" = None
    """The database that was asked for."""

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def inspected(self) -> bool:
        """Whether the inspector is there: never where others could reach it."""
        return self.inspector and self.local

    def options(self) -> HubOptions:
        """For the server. Without `strict` it answers at once and has no limits, as `LocalServer` does."""
        names = {tenant(in_url(name)) for name in (self.host, *self.allow_host) if name not in ("", "0.0.0.0")}  # noqa: S104
        return HubOptions(
            secret=self.secret,
            limits=ServerLimits.self_hosted() if self.strict else ServerLimits(),
            timings=Timings.strict() if self.strict else Timings(),
            tenants=TENANTS | names,
            dev=self.local and self.level is None,
            database=self.level is not None,
            inspector=self.inspected,
        )

    def values(self, port: int) -> dict[str, str]:
        """What a client needs, by the names of environment variables."""
        keys = LocalServer(secret=self.secret)
        values = {
            URL: url_of(self.host, port),
            KEY: keys.anon_key,
            SERVICE_KEY: keys.service_key,
            PUBLISHABLE_KEY: keys.publishable_key,
            SECRET_KEY: keys.secret_key,
        }
        return values if self.level is None else values | {DATABASE_URL: self.level.url}


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def in_url(host: str) -> str:
    """A host as URLs and the Host header have it: an IPv6 address in brackets."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def url_of(host: str, port: int) -> str:
    """Where a client on this machine finds the server."""
    return f"http://{in_url(EVERYWHERE.get(host, host))}:{port}"
