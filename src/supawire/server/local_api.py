"""What a local server does when its owner says so, as methods of `LocalServer`.

The faults as methods of `LocalServer`: each is carried to the server's thread and done there.

The PostgreSQL levels of the local server, as far as `LocalServer` shows them.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from supawire.errors import InvalidArgumentError, StateError
from supawire.events import Instant
from supawire.options import check_bool, check_event, check_json, check_text, check_topic
from supawire.server.bindings import Change, Row, make_change
from supawire.server.hub import Hub

if TYPE_CHECKING:
    from supawire.server.postgres.backend import PostgresBackend
    from supawire.server.postgres.project import Project


T = TypeVar("T")


class ActApi:
    """Changes and messages of the server itself; each is carried to the server's thread and done there."""

    def _do(self, act: Callable[[Hub, Instant], T]) -> T:
        raise NotImplementedError

    def _memory_only(self, name: str) -> None:
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
        """A row changed: everyone with a matching binding is told (protocol §4).

        Args: type: INSERT, UPDATE or DELETE. record: the new row, as Python values. old_record: the old one; a DELETE
        needs it, an UPDATE without has the new row's `id`. columns: types by name, or a list of `{"name", "type"}`;
        left out, taken from the values. errors: the frame's `errors`, such as `"Error 401: Unauthorized"`.
        Raises: InvalidArgumentError. StateError where there is a database: rows change in it, with `sql`.
        """
        self._memory_only("emit")
        change = make_change(
            type, table, record=record, old_record=old_record, schema=schema, columns=columns, errors=errors
        )
        self._emit(change)

    def _emit(self, change: Change) -> None:
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
        """A row was updated; see `emit`."""
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
        """A row was deleted; see `emit`."""
        self.emit("DELETE", table, record=record, old_record=old_record, schema=schema, columns=columns, errors=errors)

    def send(self, topic: str, event: str, payload: Mapping[str, Any] | bytes, private: bool = True) -> str:
        """Store a message and deliver it, as the database function `realtime.send` does (protocol §6.4).

        `payload` is an object, to which `id` is added unless it has one, or bytes. Private ones can be replayed (§6.3).
        Returns the message's id. Raises: InvalidArgumentError. StateError where there is a database, which sends it.
        """
        self._memory_only("send")
        if not isinstance(payload, Mapping | bytes):
            raise InvalidArgumentError(
                f"payload is an object or bytes, not {payload.__class__.__name__}: others are not stored"
            )
        _check_message(topic, event, private)
        if not isinstance(payload, bytes):
            check_json(payload)
        body = payload if isinstance(payload, bytes) else dict(payload)
        return self._do(lambda hub, now: hub.send(topic, event, body, now, private=private))

    def broadcast(self, topic: str, event: str, payload: Any, private: bool = False) -> None:
        """Deliver a message that is not stored, as the HTTP interface does."""
        _check_message(topic, event, private)
        check_json(payload)
        self._do(lambda hub, now: hub.broadcast(topic, event, payload, now, private=private))

    def request_disconnect(self) -> None:
        """`Server requested disconnect` on every channel, then close code 1012 (protocol §3.6)."""
        self._do(lambda hub, now: hub.request_disconnect(now))


def _check_message(topic: str, event: str, private: bool) -> None:
    check_topic(topic)
    check_event(event)
    check_bool("private", private)


UNSENT: Final = frozenset({1004, 1005, 1006, 1015})
"""Close codes that only say what was seen; none of them is ever sent."""


class FaultApi:
    """Misbehaviour on demand. `topic` is a sub-topic, `"*"` all; `connection` one socket's number, left out all."""

    def _do(self, act: Callable[[Hub, Instant], T]) -> T:
        raise NotImplementedError

    def drop_connections(self, code: int | None = None, *, connection: int | None = None) -> None:
        """Close sockets with this code; without one they are cut, and clients see 1006."""
        if code in UNSENT:
            raise InvalidArgumentError(f"no close frame has the code {code}; leave it out, and clients see 1006")
        self._do(lambda hub, now: hub.faults.drop_connections(code, connection=connection))

    def refuse_connections(self, times: int | None = None, *, seconds: float | None = None, status: int = 503) -> None:
        """Refuse the next `times` handshakes, or all for `seconds`, with this status; without both, for good."""
        self._do(lambda hub, now: hub.faults.refuse_connections(times=times, seconds=seconds, status=status))

    def accept_connections(self) -> None:
        """Refuse no more."""
        self._do(lambda hub, now: hub.faults.accept_connections())

    def pause(self, *, connection: int | None = None) -> None:
        """Take everything and say nothing, as behind a dead network; `resume` ends it."""
        self._do(lambda hub, now: hub.faults.pause(connection=connection))

    def resume(self, *, connection: int | None = None) -> None:
        """Answer what was taken meanwhile, and go on."""
        self._do(lambda hub, now: hub.faults.resume(connection=connection))

    def lag(self, seconds: float, *, connection: int | None = None) -> None:
        """Everything sent arrives this much later, in order; 0 ends it."""
        self._do(lambda hub, now: hub.faults.lag(seconds, connection=connection))

    def send_raw(self, data: str | bytes, *, binary: bool = False, connection: int | None = None) -> None:
        """Send any bytes as one frame; text unless `binary`."""
        self._do(lambda hub, now: hub.faults.send_raw(data, binary=binary, connection=connection))

    def garbage(self, *, connection: int | None = None) -> None:
        """Send a dozen frames that mean nothing; one is text that is not UTF-8, which strict clients close over."""
        self._do(lambda hub, now: hub.faults.garbage(connection=connection))

    def delay_replies(self, seconds: float) -> None:
        """Every reply comes this much later; a join's holds its socket meanwhile. 0 ends it."""
        self._do(lambda hub, now: hub.faults.delay_replies(seconds))

    def drop_reply(self, event: str, times: int | None = None) -> None:
        """Do what is asked but do not answer pushes of this event, such as `phx_join` or `heartbeat`."""
        self._do(lambda hub, now: hub.faults.drop_reply(event, times))

    def reject_join(self, topic: str, reason: str) -> None:
        """Refuse joins of a topic with this reason; protocol §9.2 lists the real ones."""
        self._do(lambda hub, now: hub.faults.reject_join(topic, reason))

    def delay_join(self, topic: str, seconds: float) -> None:
        """Joins of a topic hold their socket this long before they are answered."""
        self._do(lambda hub, now: hub.faults.delay_join(topic, seconds))

    def close_channel(self, topic: str, *, stale: bool = False) -> None:
        """End a topic's channels with `phx_close`; with `stale`, only send one that names the join before."""
        self._do(lambda hub, now: hub.faults.close_channel(topic, stale=stale))

    def crash_channel(self, topic: str) -> None:
        """End a topic's channels with `phx_error`, as when their process dies."""
        self._do(lambda hub, now: hub.faults.crash_channel(topic))

    def expire_tokens(self, topic: str | None = None) -> None:
        """End channels as if their token had just run out."""
        self._do(lambda hub, now: hub.faults.expire_tokens(topic))

    def send_system(self, topic: str, status: str, message: str, *, extension: str = "system") -> None:
        """Send a `system` frame; the channels stay."""
        self._do(lambda hub, now: hub.faults.send_system(topic, status, message, extension=extension))

    def reset_faults(self) -> None:
        """Behave again: every rule is gone, pauses and lags end. What was done stays done."""
        self._do(lambda hub, now: hub.faults.reset())


INSTEAD: Final = {
    "emit": "sql('insert into …') makes a real change.",
    "send": "sql('select realtime.send(%s::jsonb, %s, %s)', payload, event, topic) does this in the database.",
    "policy": "Rights are policies on realtime.messages: sql('create policy … on realtime.messages …').",
}


def make_backend(
    database: str | None,
    *,
    prepare: bool,
    announce_outages: bool = False,
    isolate_policy_errors: bool = False,
    project: "Project | None" = None,
) -> "PostgresBackend":
    """The level for this database, or with an embedded one. Raises: ImportError that names the extra; StateError."""
    if sys.platform == "win32":
        raise StateError("the PostgreSQL levels run on Linux and macOS only", hint="In WSL they do.")
    try:
        from supawire.server.postgres.backend import PostgresBackend
        from supawire.server.postgres.component import Behaviour
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise ImportError(
            "the PostgreSQL level needs the extra `postgres`: pip install 'supawire[postgres]'", name="psycopg"
        ) from error
    behaviour = Behaviour(announce_outages=announce_outages, isolate_policy_errors=isolate_policy_errors)
    return PostgresBackend(database, prepare=prepare, behaviour=behaviour, project=project)


def project_in(path: str | os.PathLike[str]) -> "Project":
    """Read the Supabase project in a folder. Raises: StateError that names the file; InvalidArgumentError."""
    from supawire.server.postgres.project import read_project

    if not isinstance(path, (str, os.PathLike)):
        raise InvalidArgumentError(f"project must be the path of a folder, not {type(path).__name__}")
    return read_project(path)


class DatabaseApi:
    """A database of the server's, or the word that there is none."""

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
                "project= runs migrations in a PostgreSQL of the server's own, and database= names another; "
                "give one of them"
            )
        self._project_path: Final = project
        self._project: Final = None if project is None else project_in(project)
        if postgres and database is not None:
            raise InvalidArgumentError("postgres=True starts a database and database= names one; give one of them")
        postgres = postgres or project is not None
        if prepare and not postgres and database is None:
            raise InvalidArgumentError("prepare=True prepares a database; name it with database=")
        if not postgres and database is None:
            for name, given in (
                ("announce_outages", announce_outages),
                ("isolate_policy_errors", isolate_policy_errors),
            ):
                if given:
                    raise InvalidArgumentError(
                        f"{name}=True is for a database; give postgres=True or database= as well"
                    )
        self._database = database
        self._prepare = prepare
        self._announce_outages = announce_outages
        self._isolate_policy_errors = isolate_policy_errors
        self._has_database = postgres or database is not None
        self._level = self._make_level()

    def _check_process(self) -> None:
        raise NotImplementedError

    def _make_level(self) -> "PostgresBackend | None":
        if not self._has_database:
            return None
        return make_backend(
            self._database,
            prepare=self._prepare,
            announce_outages=self._announce_outages,
            isolate_policy_errors=self._isolate_policy_errors,
            project=None if self._project_path is None else project_in(self._project_path),  # as it is at this start
        )

    @property
    def database_url(self) -> str:
        """The URL of the database (PostgreSQL levels); its role may do everything there where it is an embedded one."""
        if self._level is None:
            raise StateError("the memory level has no database", hint="Use emit() to make changes.")
        return self._level.url

    def sql(self, text: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run SQL in the database (PostgreSQL levels), committed at once; the rows, if there are any.

        `%s` in the text stands for a parameter. Text without parameters may hold several statements.
        Raises: StateError at the memory level, and when the server does not run; psycopg.Error, PostgreSQL's own.
        """
        if self._level is None:
            raise StateError("the memory level has no database", hint="Use emit() and send() to make things happen.")
        self._check_process()
        if not self._level.running:
            raise StateError("the local server is not running; use it inside `with LocalServer(…) as server:`")
        return self._level.session.run(text, parameters)

    def _let_go(self) -> None:
        """Close the connection of `sql`, once the level runs no more."""
        if self._level is not None:
            self._level.session.close()

    def _memory_only(self, name: str) -> None:
        """Raises: StateError for what only the memory level does."""
        if self._level is not None:
            raise StateError(f"{name}() is for the memory level; this server has a database", hint=INSTEAD[name])
