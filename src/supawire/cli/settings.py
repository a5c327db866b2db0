"""The settings of `supawire serve`."""

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from supawire.cli.env_files import DATABASE_URL, KEY, PUBLISHABLE_KEY, SECRET_KEY, SERVICE_KEY, URL, EnvFile
from supawire.server.handshake import tenant
from supawire.server.hub_options import TENANTS, HubOptions, Timings
from supawire.server.limits import ServerLimits
from supawire.server.local import LocalServer

if TYPE_CHECKING:
    from supawire.server.postgres.backend import PostgresBackend


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
            dev=self.local,
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
