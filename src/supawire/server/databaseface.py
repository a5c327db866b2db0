"""The PostgreSQL levels of the local server, as far as `LocalServer` shows them."""

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from supawire.errors import InvalidArgumentError, StateError
from supawire.options import check_bool, check_text

if TYPE_CHECKING:
    from supawire.server.postgres.level import Level
    from supawire.server.postgres.project import Project

INSTEAD: Final = {
    "emit": "sql('insert into …') makes a real change.",
    "send": "sql('select realtime.send(%s::jsonb, %s, %s)', payload, event, topic) does this in the database.",
    "policy": "Rights are policies on realtime.messages: sql('create policy … on realtime.messages …').",
}


def make_level(
    database: str | None,
    *,
    prepare: bool,
    announce_outages: bool = False,
    isolate_policy_errors: bool = False,
    project: "Project | None" = None,
) -> "Level":
    """The level for this database, or with an embedded one. Raises: ImportError that names the extra; StateError."""
    if sys.platform == "win32":
        raise StateError("the PostgreSQL levels run on Linux and macOS only", hint="In WSL they do.")
    try:
        from supawire.server.postgres.ground import Behaviour
        from supawire.server.postgres.level import Level
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise ImportError(
            "the PostgreSQL level needs the extra `postgres`: pip install 'supawire[postgres]'", name="psycopg"
        ) from error
    behaviour = Behaviour(announce_outages=announce_outages, isolate_policy_errors=isolate_policy_errors)
    return Level(database, prepare=prepare, behaviour=behaviour, project=project)


def project_in(path: str | os.PathLike[str]) -> "Project":
    """Read the Supabase project in a folder. Raises: StateError that names the file; InvalidArgumentError."""
    from supawire.server.postgres.project import read_project

    if not isinstance(path, (str, os.PathLike)):
        raise InvalidArgumentError(f"project must be the path of a folder, not {type(path).__name__}")
    return read_project(path)


class DatabaseFace:
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

    def _make_level(self) -> "Level | None":
        if not self._has_database:
            return None
        return make_level(
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
