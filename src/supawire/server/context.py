"""What every part of the hub shares: options, the way out, rooms, rights, time and chance."""

from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Protocol
from uuid import UUID

from supawire.events import Instant
from supawire.server.authorization import Authorization, Policy, default_policy
from supawire.server.connection import Peer
from supawire.server.fault_rules import FaultRules
from supawire.server.limits import ServerLimits
from supawire.server.mailboxes import Mailboxes, Take
from supawire.server.outbox import Outbox
from supawire.server.pending_queries import PendingQueries
from supawire.server.rooms import Rooms
from supawire.server.schedule import Schedule

TENANTS: Final = frozenset({"127", "localhost", "realtime-dev"})
"""First labels of Host that are served (protocol §1.1)."""


class Bits(Protocol):
    """A source of randomness, such as `random.Random(seed)`."""

    def getrandbits(self, k: int, /) -> int:
        """A number of `k` random bits."""
        ...


class Watcher(Protocol):
    """Sees every row change."""

    def changed(self, data: bytes, receivers: int, now: Instant) -> None:
        """This is the `data` of its frames; that many channels more were told."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds the server lets pass. The defaults are fast; `Timings.strict()` are the real server's."""

    handshake_error: float = 0.0
    """Before a refused handshake is answered (protocol §1.3)."""
    join_error: float = 0.0
    """Before a refused join is answered; the socket stands still meanwhile (protocol §3.2)."""
    resubscribe: float = 0.0
    """Between a new token and the next `Subscribed to PostgreSQL` (protocol §7.3)."""
    recheck: float = 300.0
    """Between two looks at a channel's token, unless it ends sooner (protocol §7.2)."""
    request: float = 10.0
    """For the first request of a connection to arrive, and for the body of each; then the connection is closed."""
    idle: float = 60.0
    """Without a byte of the client, before its socket is closed with 1000 (protocol §3.4)."""
    answer: float = 10.0
    """Before an answer of the database is given up."""
    replication: float = 60.0
    """For which a channel that asked for it waits for database broadcasts to flow (protocol §3.6)."""
    recovery: float = 0.0
    """After an outage of the database, while joins are still refused (protocol §13)."""
    sweep: float | None = None
    """Between two sweeps of sockets whose last channel is gone (protocol §8)."""

    @classmethod
    def strict(cls) -> "Timings":
        """The real server's."""
        return cls(handshake_error=2.0, join_error=5.0, resubscribe=1.0, recovery=60.0, sweep=600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """How the local server behaves."""

    secret: str = field(repr=False)
    limits: ServerLimits = field(default_factory=ServerLimits)
    timings: Timings = field(default_factory=Timings)
    policy: Policy = default_policy
    database: bool = False
    """Whether rights, stored messages and subscriptions are a database's: the hub asks for them (`questions.py`)."""
    tenants: frozenset[str] = TENANTS
    dev: bool = False
    """Whether there is the route by which another process on this machine emits changes (`server/dev.py`)."""
    inspector: bool = False
    """Whether there is the page that shows what goes on (`server/inspector`)."""


class HubContext:
    """One for each hub; the parts of the hub are made with it and find each other's subjects here."""

    def __init__(self, options: HubOptions, random: Bits, take: Take) -> None:
        self.options: Final = options
        self.limits: Final = options.limits
        self.timings: Final = options.timings
        self.rules: Final = FaultRules()
        self.schedule: Final = Schedule()
        self.outbox: Final = Outbox(self.schedule, self.rules)
        self.rooms: Final = Rooms(self.outbox, options.limits)
        self.standing: Final = Mailboxes(self.schedule, self.outbox, take)
        self.asking: Final = PendingQueries(
            self.schedule, self.outbox, options.timings.answer, outside=options.database
        )
        self.rights: Final = Authorization(options.policy, self.asking, self.standing, self.outbox.report)
        self.peers: Final[dict[int, Peer]] = {}
        self.watchers: Final[list[Watcher]] = []
        """Who sees every change."""
        self.problem: str | None = None
        """Why changes of rows are lost, while they are."""
        self._random = random
        self._numbers = count(1)

    @property
    def now(self) -> Instant:
        """The time of the input that is being worked on."""
        return self.outbox.now

    @property
    def at_capacity(self) -> bool:
        """Whether as many sockets have a channel as may have one (protocol §8)."""
        limit = self.limits.connections
        return limit is not None and sum(1 for peer in self.peers.values() if peer.channels) >= limit

    def new_id(self) -> int:
        """A number for a channel; never used twice."""
        return next(self._numbers)

    def new_ref(self) -> str:
        """A `phx_ref`: 16 characters (protocol §5.2)."""
        return urlsafe_b64encode(self._random.getrandbits(96).to_bytes(12, "big")).decode()

    def new_key(self) -> str:
        """A presence key for a client that gave none."""
        return str(UUID(int=self._random.getrandbits(128), version=1))

    def new_message_id(self) -> str:
        """The id of a stored message."""
        return str(UUID(int=self._random.getrandbits(128), version=4))
