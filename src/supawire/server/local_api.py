"""The methods of `LocalServer` for emitting changes and messages, injecting faults and using the database.

Each call is executed on the server's thread.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from supawire.errors import InvalidArgumentError, StateError
from supawire.events import Instant
from supawire.options import check_bool, check_event, check_json, check_text, check_topic
from supawire.server.bindings import Row, RowChange, make_change
from supawire.server.hub import Hub

if TYPE_CHECKING:
    from supawire.server.postgres.backend import PostgresBackend
    from supawire.server.postgres.project import Project


T = TypeVar("T")


class ActApi:
    """Row changes and messages sent by the server itself; each call is executed on the server's thread."""

    def _do(self, act: Callable[[Hub, Instant], T]) -> T:
        raise NotImplementedError

    def _check_without_database(self, name: str) -> None:
        raise NotImplementedError

    def emit(
        self,
        type: str,
        table: str,
        *,
        record: Row | None = None,
        old_record: Row | None = None,
        schema: str = "public",
        columns: Mapping[str, str] | Iterable[Mapping[str, str]] | None = None,
        errors: str | Sequence[str] | None = None,
    ) -> None:
        """Deliver a row change to every channel with a matching binding.

        Args: type: INSERT, UPDATE or DELETE. record: the new row, as Python values. old_record: the old row; required
        for DELETE; for UPDATE it defaults to the `id` of the new row. columns: types by name, or a list of
        `{"name", "type"}`; inferred from the values by default. errors: the frame's `errors`, such as
        `"Error 401: Unauthorized"`.
        Raises: InvalidArgumentError. StateError with a database: change its rows with `sql` instead.
        """
        self._check_without_database("emit")
        change = make_change(
            type, table, record=record, old_record=old_record, schema=schema, columns=columns, errors=errors
        )
        self._emit(change)

    def _emit(self, change: RowChange) -> None:
        self._do(lambda hub, now: hub.emit(change, now))

    def emit_update(
        self,
        table: str,
        *,
        record: Row | None = None,
        old_record: Row | None = None,
        schema: str = "public",
        columns: Mapping[str, str] | Iterable[Mapping[str, str]] | None = None,
        errors: str | Sequence[str] | None = None,
    ) -> None:
        """Deliver the update of a row; see `emit`."""
        self.emit("UPDATE", table, record=record, old_record=old_record, schema=schema, columns=columns, errors=errors)

    def emit_delete(
        self,
        table: str,
        *,
        record: Row | None = None,
        old_record: Row | None = None,
        schema: str = "public",
        columns: Mapping[str, str] | Iterable[Mapping[str, str]] | None = None,
        errors: str | Sequence[str] | None = None,
    ) -> None:
        """Deliver the deletion of a row; see `emit`."""
        self.emit("DELETE", table, record=record, old_record=old_record, schema=schema, columns=columns, errors=errors)

    def send(self, topic: str, event: str, payload: Mapping[str, Any] | bytes, private: bool = True) -> str:
        """Store and deliver a message, as the database function `realtime.send` does.

        `payload` is bytes, or an object, to which `id` is added unless it has one. Private messages can be replayed.
        Returns the message's id. Raises: InvalidArgumentError. StateError with a database: use its `realtime.send`
        instead.
        """
        self._check_without_database("send")
        if not isinstance(payload, Mapping | bytes):
            raise InvalidArgumentError(f"payload must be an object or bytes, not {payload.__class__.__name__}")
        _check_message(topic, event, private)
        if not isinstance(payload, bytes):
            check_json(payload)
        body = payload if isinstance(payload, bytes) else dict(payload)
        return self._do(lambda hub, now: hub.send(topic, event, body, now, private=private))

    def broadcast(self, topic: str, event: str, payload: Any, private: bool = False) -> None:
        """Deliver a message without storing it, as the HTTP endpoint does."""
        _check_message(topic, event, private)
        check_json(payload)
        self._do(lambda hub, now: hub.broadcast(topic, event, payload, now, private=private))

    def request_disconnect(self) -> None:
        """Send `Server requested disconnect` on every channel, then close with code 1012."""
        self._do(lambda hub, now: hub.request_disconnect(now))


def _check_message(topic: str, event: str, private: bool) -> None:
    check_topic(topic)
    check_event(event)
    check_bool("private", private)


UNSENDABLE_CODES: Final = frozenset({1004, 1005, 1006, 1015})
"""Reserved close codes that are never sent in a close frame."""


class FaultApi:
    """Fault injection.

    `topic` is a topic without `realtime:`, or `"*"` for all; `connection` is the number of one socket, by default all.
    """

    def _do(self, act: Callable[[Hub, Instant], T]) -> T:
        raise NotImplementedError

    def drop_connections(self, code: int | None = None, *, connection: int | None = None) -> None:
        """Close sockets with this code; without a code the connection is aborted and clients report 1006."""
        if code in UNSENDABLE_CODES:
            raise InvalidArgumentError(
                f"close code {code} cannot be sent; leave it out to abort the connection, which clients report as 1006"
            )
        self._do(lambda hub, now: hub.faults.drop_connections(code, connection=connection))

    def refuse_connections(self, times: int | None = None, *, seconds: float | None = None, status: int = 503) -> None:
        """Refuse the next `times` handshakes, all for `seconds`, or all until `accept_connections`; answer `status`."""
        self._do(lambda hub, now: hub.faults.refuse_connections(times=times, seconds=seconds, status=status))

    def accept_connections(self) -> None:
        """Stop refusing handshakes, also those of `block_websockets`."""
        self._do(lambda hub, now: hub.faults.accept_connections())

    def block_websockets(self, status: int = 400) -> None:
        """Refuse WebSocket upgrades with this status, as a proxy that removes `Upgrade`, while long polling works."""
        self._do(lambda hub, now: hub.faults.block_websockets(status))

    def lose_answers(self, method: str, times: int = 1) -> None:
        """Execute the next long polling requests, a `GET` with frames or a `POST`, and abort their connections."""
        self._do(lambda hub, now: hub.faults.lose_answers(method, times))

    def pause(self, *, connection: int | None = None) -> None:
        """Stop answering and sending, as behind a broken network, until `resume`; input is still read."""
        self._do(lambda hub, now: hub.faults.pause(connection=connection))

    def resume(self, *, connection: int | None = None) -> None:
        """Handle the input received since `pause`, and continue normally."""
        self._do(lambda hub, now: hub.faults.resume(connection=connection))

    def lag(self, seconds: float, *, connection: int | None = None) -> None:
        """Delay everything that is sent by this many seconds, in order; 0 ends it."""
        self._do(lambda hub, now: hub.faults.lag(seconds, connection=connection))

    def send_raw(self, data: str | bytes, *, binary: bool = False, connection: int | None = None) -> None:
        """Send arbitrary bytes as one frame; a text frame unless `binary`."""
        self._do(lambda hub, now: hub.faults.send_raw(data, binary=binary, connection=connection))

    def garbage(self, *, connection: int | None = None) -> None:
        """Send a dozen invalid frames; one is text that is not UTF-8, on which strict clients close the connection."""
        self._do(lambda hub, now: hub.faults.garbage(connection=connection))

    def delay_replies(self, seconds: float) -> None:
        """Delay every reply by this many seconds; the reply to a join suspends its socket meanwhile. 0 ends it."""
        self._do(lambda hub, now: hub.faults.delay_replies(seconds))

    def drop_reply(self, event: str, times: int | None = None) -> None:
        """Execute pushes of this event, such as `phx_join` or `heartbeat`, but do not reply to them."""
        self._do(lambda hub, now: hub.faults.drop_reply(event, times))

    def reject_join(self, topic: str, reason: str) -> None:
        """Refuse joins of a topic with this reason. See docs/protocol.md, Join errors."""
        self._do(lambda hub, now: hub.faults.reject_join(topic, reason))

    def delay_join(self, topic: str, seconds: float) -> None:
        """Suspend the socket for this many seconds before a join of this topic is answered."""
        self._do(lambda hub, now: hub.faults.delay_join(topic, seconds))

    def close_channel(self, topic: str, *, stale: bool = False) -> None:
        """End a topic's channels with `phx_close`; with `stale`, only send one with the previous join_ref."""
        self._do(lambda hub, now: hub.faults.close_channel(topic, stale=stale))

    def crash_channel(self, topic: str) -> None:
        """End a topic's channels with `phx_error`, as when their process crashes."""
        self._do(lambda hub, now: hub.faults.crash_channel(topic))

    def expire_tokens(self, topic: str | None = None) -> None:
        """End channels as if their token had just expired."""
        self._do(lambda hub, now: hub.faults.expire_tokens(topic))

    def send_system(self, topic: str, status: str, message: str, *, extension: str = "system") -> None:
        """Send a `system` frame without ending the channels."""
        self._do(lambda hub, now: hub.faults.send_system(topic, status, message, extension=extension))

    def reset_faults(self) -> None:
        """Remove all fault rules, pauses and lags. Effects of earlier faults are not undone."""
        self._do(lambda hub, now: hub.faults.reset())


ALTERNATIVES: Final = {
    "emit": "Change rows with SQL: sql('insert into …').",
    "send": "Call the database function: sql('select realtime.send(%s::jsonb, %s, %s)', payload, event, topic).",
    "policy": "Create policies on realtime.messages: sql('create policy … on realtime.messages …').",
}


def make_backend(
    database: str | None,
    *,
    prepare: bool,
    announce_outages: bool = False,
    isolate_policy_errors: bool = False,
    project: "Project | None" = None,
) -> "PostgresBackend":
    """Return the backend for this or an embedded database. Raises: ImportError that names the extra; StateError."""
    if sys.platform == "win32":
        raise StateError("a local server with PostgreSQL runs on Linux and macOS only", hint="It runs in WSL too.")
    try:
        from supawire.server.postgres.backend import BackendOptions, PostgresBackend
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise ImportError(
            "PostgreSQL needs the extra `postgres`: pip install 'supawire[postgres]'", name="psycopg"
        ) from error
    options = BackendOptions(announce_outages=announce_outages, isolate_policy_errors=isolate_policy_errors)
    return PostgresBackend(database, prepare=prepare, options=options, project=project)


def project_in(path: str | os.PathLike[str]) -> "Project":
    """Read the Supabase project in a folder. Raises: StateError that names the file; InvalidArgumentError."""
    from supawire.server.postgres.project import read_project

    if not isinstance(path, (str, os.PathLike)):
        raise InvalidArgumentError(f"project must be the path of a folder, not {type(path).__name__}")
    return read_project(path)


class DatabaseApi:
    """Access to the server's database, if it has one."""

    def __init__(
        self,
        postgres: bool,
        database: str | None,
        *,
        prepare: bool,
        announce_outages: bool,
        isolate_policy_errors: bool,
        project: str | os.PathLike[str] | None,
    ) -> None:
        check_bool("postgres", postgres)
        check_bool("prepare", prepare)
        check_bool("announce_outages", announce_outages)
        check_bool("isolate_policy_errors", isolate_policy_errors)
        if database is not None:
            check_text("database", database, secret=True)
        if project is not None and database is not None:
            raise InvalidArgumentError(
                "project= starts a PostgreSQL and runs migrations in it, and database= selects an existing one; "
                "give one of them"
            )
        self._project_path: Final = project
        self._project: Final = None if project is None else project_in(project)
        if postgres and database is not None:
            raise InvalidArgumentError(
                "postgres=True starts a database and database= selects an existing one; give one of them"
            )
        postgres = postgres or project is not None
        if prepare and not postgres and database is None:
            raise InvalidArgumentError("prepare=True needs database=, the database to prepare")
        if not postgres and database is None:
            for name, given in (
                ("announce_outages", announce_outages),
                ("isolate_policy_errors", isolate_policy_errors),
            ):
                if given:
                    raise InvalidArgumentError(f"{name}=True needs a database; give postgres=True or database= as well")
        self._database = database
        self._prepare = prepare
        self._announce_outages = announce_outages
        self._isolate_policy_errors = isolate_policy_errors
        self._has_database = postgres or database is not None
        self._backend = self._make_backend()

    def _check_process(self) -> None:
        raise NotImplementedError

    def _make_backend(self) -> "PostgresBackend | None":
        if not self._has_database:
            return None
        return make_backend(
            self._database,
            prepare=self._prepare,
            announce_outages=self._announce_outages,
            isolate_policy_errors=self._isolate_policy_errors,
            project=None if self._project_path is None else project_in(self._project_path),  # read again at each start
        )

    @property
    def database_url(self) -> str:
        """The URL of the database. With an embedded database its role has all rights."""
        if self._backend is None:
            raise StateError("this server has no database", hint="Use emit(), or give postgres=True or database=.")
        return self._backend.url

    def sql(self, text: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run SQL in the database, commit, and return the rows.

        `%s` in the text stands for a parameter. Text without parameters may hold several statements.
        Raises: StateError without a database, or when the server is not running; psycopg.Error from PostgreSQL.
        """
        if self._backend is None:
            raise StateError(
                "this server has no database", hint="Use emit() and send(), or give postgres=True or database=."
            )
        self._check_process()
        if not self._backend.running:
            raise StateError("the local server is not running; use it inside `with LocalServer(…) as server:`")
        return self._backend.session.run(text, parameters)

    def _close_session(self) -> None:
        """Close the connection used by `sql` after the backend has stopped."""
        if self._backend is not None:
            self._backend.session.close()

    def _check_without_database(self, name: str) -> None:
        """Raise StateError for a method that is only available without a database."""
        if self._backend is not None:
            raise StateError(f"{name}() is not available on a server with a database", hint=ALTERNATIVES[name])
