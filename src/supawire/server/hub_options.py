"""Options of a hub, and the ids that it creates."""

from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Protocol
from uuid import UUID

from supawire.server.authorization import Policy, default_policy
from supawire.server.limits import ServerLimits

TENANTS: Final = frozenset({"127", "localhost", "realtime-dev"})
"""First labels of the Host header that are served."""


class Bits(Protocol):
    """A source of random bits, such as `random.Random(seed)`."""

    def getrandbits(self, k: int, /) -> int:
        """Return an integer with `k` random bits."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Delays and timeouts of the server in seconds. The defaults are short; `Timings.strict()` are the real ones."""

    handshake_error: float = 0.0
    """Delay before a refused handshake is answered."""
    join_error: float = 0.0
    """Delay before a refused join is answered; the socket is suspended meanwhile."""
    resubscribe: float = 0.0
    """Delay between a new token and the next `Subscribed to PostgreSQL`."""
    recheck: float = 300.0
    """Interval between two checks of a channel's token; it is checked earlier when it expires earlier."""
    request: float = 10.0
    """Timeout for the first request of a connection and for the body of each request; then the connection is closed."""
    idle: float = 60.0
    """Idle timeout: a socket that receives no bytes for this long is closed with 1000."""
    poll: float = 10.0
    """Longest time that a poll of long polling is held. A session that is not polled for 1.5 times this is ended."""
    answer: float = 10.0
    """Timeout of a query to the database."""
    replication: float = 60.0
    """Timeout for database broadcasts to become ready, for a channel joined with `replication_ready`."""
    recovery: float = 0.0
    """Time after a database outage during which joins are still refused."""
    sweep: float | None = None
    """Interval between two sweeps that close sockets whose last channel has ended. None: no sweeps."""

    @classmethod
    def strict(cls) -> "Timings":
        """Return the delays and timeouts of the real server."""
        return cls(handshake_error=2.0, join_error=5.0, resubscribe=1.0, recovery=60.0, sweep=600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """Options of the local server."""

    secret: str = field(repr=False)
    limits: ServerLimits = field(default_factory=ServerLimits)
    timings: Timings = field(default_factory=Timings)
    policy: Policy = default_policy
    database: bool = False
    """Whether authorization, stored messages and subscriptions come from a database; see `queries.py`."""
    tenants: frozenset[str] = TENANTS
    dev: bool = False
    """Whether to serve the routes by which other processes here emit changes and get tokens; see `dev.py`."""
    inspector: bool = False
    """Whether to serve the inspector page; see `server/inspector`."""


class Ids:
    """Creates numbers, and ids from random bits."""

    def __init__(self, random: Bits) -> None:
        self._random = random
        self._numbers = count(1)

    def channel_number(self) -> int:
        """Return a new channel number; numbers are never reused."""
        return next(self._numbers)

    def presence_ref(self) -> str:
        """Return a new `phx_ref` of 16 characters."""
        return urlsafe_b64encode(self._random.getrandbits(96).to_bytes(12, "big")).decode()

    def presence_key(self) -> str:
        """Return a presence key for a client that did not give one."""
        return str(UUID(int=self._random.getrandbits(128), version=1))

    def message_id(self) -> str:
        """Return the id for a new stored message."""
        return str(UUID(int=self._random.getrandbits(128), version=4))
