"""What `supawire serve` was asked for, and what follows from it."""

import ipaddress
from dataclasses import dataclass, field
from typing import Final

from supawire.cli.envfile import KEY, SERVICE_KEY, URL, EnvFile
from supawire.server.desk import TENANTS, HubOptions, Timings
from supawire.server.handshake import tenant
from supawire.server.limits import ServerLimits
from supawire.server.local import LocalServer

EVERYWHERE: Final = ("0.0.0.0", "::", "")  # noqa: S104  somebody may ask for it


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

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    def options(self) -> HubOptions:
        """For the server. Without `strict` it answers at once and has no limits, as `LocalServer` does."""
        names = {tenant(name) for name in (self.host, *self.allow_host) if name not in EVERYWHERE}
        return HubOptions(
            secret=self.secret,
            limits=ServerLimits.self_hosted() if self.strict else ServerLimits(),
            timings=Timings.strict() if self.strict else Timings(),
            tenants=TENANTS | names,
            dev=self.local,
        )

    def values(self, port: int) -> dict[str, str]:
        """What a client needs, by the names of environment variables."""
        keys = LocalServer(secret=self.secret)
        return {URL: url_of(self.host, port), KEY: keys.anon_key, SERVICE_KEY: keys.service_key}


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def url_of(host: str, port: int) -> str:
    """Where a client on this machine finds the server. The project is the first label of Host, so no IPv6 address."""
    if host in EVERYWHERE:
        host = "127.0.0.1"
    return f"http://{'localhost' if ':' in host else host}:{port}"
