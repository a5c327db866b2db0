"""What was seen: plain values, collected by `network`, `channels` and `database`, judged by `judge`."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, cast

from msgspec import Struct

from supawire._values.filter_syntax import Condition
from supawire.doctor.credentials import Credential
from supawire.errors import RealtimeError
from supawire.selectors import Selector, changes


class Target(Struct, frozen=True):
    """What is examined: the checked arguments of `diagnose`, without secrets.

    project: the reference of a hosted project, None for other hosts. tables: schema and
    name. url_error: why the URL is invalid; then nothing else of the network is tried. key_error,
    token_error: why the client refuses them. proxy: whether one was given.
    variable: the environment variable that names a proxy for this host.
    """

    scheme: str
    host: str
    port: int
    key: Credential
    token: Credential | None = None
    url_error: RealtimeError | None = None
    key_error: str | None = None
    token_error: str | None = None
    project: str | None = None
    proxy: bool = False
    variable: str | None = None
    topic: str | None = None
    schema: str = "public"
    table: str | None = None
    filter: str | None = None
    conditions: tuple[Condition, ...] = ()
    filter_error: str | None = None
    event: str = "*"
    database: bool = False
    database_project: str | None = None

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def secure(self) -> bool:
        return self.scheme in ("https", "wss")

    @property
    def user(self) -> Credential:
        """The token with which channels are joined."""
        return self.token if self.token is not None and self.token.kind == "jwt" else self.key

    def selector(self) -> Selector[Any]:
        """Return the selector of the changes to listen to, if there is a table. Raises: InvalidArgumentError."""
        select = cast("Callable[..., Selector[Any]]", changes)  # without overloads, which need a literal event
        return select(self.table, schema=self.schema, event=self.event, filter=self.filter)

    def unusable_token(self, now: float) -> str | None:
        """Return why channels cannot be joined with the token, None if they can; now: by the server's clock."""
        token = self.token
        if token is None:
            return None
        if token.kind != "jwt" or token.cut or self.token_error is not None:
            return "the token cannot be used"
        if token.exp is None or token.role is None:
            return "the token lacks a claim"
        return "the token has expired" if token.exp <= now else None

    @property
    def role(self) -> str:
        """The role with which the server reads the database."""
        return self.user.role or "anon"


class Timed(Struct, frozen=True, kw_only=True):
    """seconds: the duration of the step. no_answer: it was not finished in time."""

    seconds: float = 0.0
    no_answer: bool = False


class DnsFacts(Timed, frozen=True, kw_only=True):
    """addresses: of the host. error: of the resolver."""

    addresses: tuple[str, ...] = ()
    error: str | None = None


class TcpFacts(Timed, frozen=True, kw_only=True):
    """address: one that accepts connections. refused: nothing listens. error: any other failure."""

    address: str = ""
    refused: bool = False
    error: str | None = None


TlsProblem = Literal["expired", "not-yet-valid", "other-name", "untrusted", "plain", "failed"]


class TlsFacts(Timed, frozen=True, kw_only=True):
    """not_after: when the certificate expires, in Unix seconds. version: such as TLSv1.3."""

    problem: TlsProblem | None = None
    error: str = ""
    not_after: float | None = None
    version: str = ""


class HttpFacts(Timed, frozen=True, kw_only=True):
    """The answer to GET …/api/ping. date: the server's time in Unix seconds. at: this machine's time, in between."""

    status: int | None = None
    content_type: str = ""
    location: str = ""
    error: str | None = None
    date: float | None = None
    at: float = 0.0

    @property
    def clock_offset(self) -> float | None:
        """Seconds by which the server's clock is ahead, None if unknown; its Date header is rounded down."""
        return None if self.date is None else self.date + 0.5 - self.at


class HandshakeFacts(Timed, frozen=True, kw_only=True):
    """error: the refusal or failure, None when the WebSocket was opened. status: of a refusal.

    polling_works: whether a session of long polling could be started after that failure.
    """

    error: RealtimeError | None = None
    status: int | None = None
    polling_works: bool = False


class ActionFacts(Timed, frozen=True, kw_only=True):
    """An action on a channel. error: why it failed. arrived: what was sent came back."""

    error: RealtimeError | None = None
    arrived: bool = False


class ColumnFacts(Struct, frozen=True):
    """A column. readable: the role may select it."""

    name: str
    type: str
    readable: bool
    in_key: bool


class PolicyFacts(Struct, frozen=True):
    """A policy that applies to the role. command: as in the catalog: r, a, w, d or * for all."""

    name: str
    permissive: bool
    command: str


class TableFacts(Struct, frozen=True, kw_only=True):
    """A table, or what has its name. kind, persistence, identity: as in the catalog.

    quoted: schema and name for SQL. has_identity: whether PostgreSQL finds an old row by an index or the whole row.
    operations: which the publication does not publish for it are missing. narrowed: "row filter", "column list" or "".
    bypass: policies do not apply to the role.
    """

    quoted: str
    kind: str
    persistence: str
    identity: str
    columns: tuple[ColumnFacts, ...]
    identity_columns: tuple[str, ...] = ()
    published: bool = False
    narrowed: str = ""
    partitions: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    row_security: bool = False
    bypass: bool = False
    policies: tuple[PolicyFacts, ...] = ()
    may_use_schema: bool = True

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.in_key)


class RowsFacts(Timed, frozen=True, kw_only=True):
    """exist: whether the table has rows, None if unknown. visible: whether the role sees one. error: of a policy.

    skipped: why it was not evaluated.
    """

    exist: bool | None = None
    visible: bool | None = None
    error: str | None = None
    skipped: str = ""


Access = Mapping[tuple[str, str], bool]
"""Whether (extension, "read" or "write") is allowed."""


class PolicyError(Struct, frozen=True):
    """A policy on realtime.messages that fails."""

    policy: str
    error: str


class MessagesFacts(Timed, frozen=True, kw_only=True):
    """What the policies on realtime.messages allow the role for the topic. missing: privileges that the role lacks."""

    row_security: bool = True
    bypass: bool = False
    missing: tuple[str, ...] = ()
    access: Access = {}
    errors: tuple[PolicyError, ...] = ()
    skipped: str = ""


class SlotFacts(Struct, frozen=True):
    """A replication slot. kept: the bytes of log that it keeps."""

    name: str
    active: bool
    lost: bool
    kept: int


class DatabaseFacts(Timed, frozen=True, kw_only=True):
    """The database. problem: why it cannot be used: the end of the name of a row in `PROBLEMS`, with `error`.

    incomplete: why some facts are missing. table_read: whether the catalog was searched for the table. near: tables
    with a similar name. partitions: bounds of those of realtime.messages. durations: of the steps, in seconds.
    """

    problem: str | None = None
    error: str = ""
    incomplete: str | None = None
    version: str = ""
    wal_level: str = "logical"
    max_slots: int = 0
    slots: tuple[SlotFacts, ...] = ()
    replica: bool = False
    missing: tuple[str, ...] = ()
    old: tuple[str, ...] = ()
    partitioned: bool = False
    partitions: tuple[str, ...] = ()
    publication: bool = False
    operations: frozenset[str] = frozenset()
    role_exists: bool = True
    table_read: bool = False
    table: TableFacts | None = None
    near: tuple[str, ...] = ()
    bad_values: Mapping[str, str] = {}
    rows: RowsFacts | None = None
    messages: MessagesFacts | None = None
    durations: Mapping[str, float] = {}


CLOCK_TOLERANCE: Final = 30.0
"""Seconds by which clocks may differ; a Date header is rounded down, and the answer was on its way."""


def server_time(now: float, http: HttpFacts | None) -> float:
    """Return the time by the server's clock if it is known and differs clearly from ours."""
    offset = None if http is None else http.clock_offset
    return now + offset if offset is not None and abs(offset) >= CLOCK_TOLERANCE else now


class Facts(Struct, frozen=True, kw_only=True):
    """Everything that was seen; None: the step was not reached. now: in Unix seconds."""

    target: Target
    now: float
    dns: DnsFacts | None = None
    tcp: TcpFacts | None = None
    tls: TlsFacts | None = None
    http: HttpFacts | None = None
    handshake: HandshakeFacts | None = None
    public_join: ActionFacts | None = None
    presence: ActionFacts | None = None
    broadcast: ActionFacts | None = None
    publish: ActionFacts | None = None
    private_join: ActionFacts | None = None
    changes: ActionFacts | None = None
    database: DatabaseFacts | None = None

    @property
    def unusable_token(self) -> str | None:
        """Why the token was not used for channels, None if it was."""
        return self.target.unusable_token(server_time(self.now, self.http))
