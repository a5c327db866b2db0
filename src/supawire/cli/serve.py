"""`supawire serve`: run the local server until it is interrupted."""

import asyncio
import errno
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter
from rich.console import Console

from supawire.cli.banner import banner, complain, console_of
from supawire.cli.settings import EnvFile, ServeSettings
from supawire.errors import InvalidArgumentError, RealtimeError
from supawire.server.app import App
from supawire.server.local import serve as serve_here
from supawire.server.local_api import make_backend, project_in

if TYPE_CHECKING:
    from supawire.server.postgres.backend import PostgresBackend
    from supawire.server.postgres.project import Project

SHORTEST_SECRET: Final = 32
STOPPED: Final = "Stopped. Clients were told to come back (close code 1012)."


def serve(
    *,
    postgres: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="With a PostgreSQL of its own, empty at the start and gone at the end: rows change by SQL.",
        ),
    ] = False,
    database: Annotated[
        str | None,
        Parameter(
            help="With this PostgreSQL, by its URL. A password need not stand in it: PGPASSWORD and .pgpass are read."
        ),
    ] = None,
    prepare: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="Make what the server wants in --database: roles, the schema realtime, publications.",
        ),
    ] = False,
    announce_outages: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="Inform channels when the connection to the database is lost; the real server does not.",
        ),
    ] = False,
    isolate_policy_errors: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="When a row policy raises, only its own subscriber gets an error; on the real server nobody gets any "
            "change meanwhile.",
        ),
    ] = False,
    project: Annotated[
        Path | None,
        Parameter(
            help="The folder of a Supabase project, such as .: a PostgreSQL of the server's own, in which its "
            "migrations and its seed have run, with the settings of its config.toml."
        ),
    ] = None,
    host: Annotated[
        str, Parameter(help="Address to listen on. Others than 127.0.0.1 let other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 takes a free one.")] = 4000,
    strict: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Hold errors back and apply limits, as a self-hosted Realtime does."
        ),
    ] = False,
    secret: Annotated[
        str | None,
        Parameter(
            env_var="SUPAWIRE_SECRET",
            help="Signs and checks keys and tokens (HS256). A fixed one keeps keys valid when the server starts again; "
            "left out, it is random. The environment variable keeps it out of your shell's history.",
        ),
    ] = None,
    show_keys: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Print the keys, ready to paste into a shell.")
    ] = False,
    env_file: Annotated[
        Path | None,
        Parameter(help="Write address and keys to this file, for you alone to read, and remove it at the end."),
    ] = None,
    allow_host: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            show_default=False,
            help="Another name by which clients reach it, such as host.docker.internal. Repeatable.",
        ),
    ] = (),
    inspector: Annotated[
        bool,
        Parameter(
            negative="--no-inspector",
            show_default=False,
            help="Show in a browser, at the server's address, what goes on. Never where other machines reach it.",
        ),
    ] = True,
) -> int:
    """Run the local server, for development and tests.

    It has broadcast, presence, private channels and replay, in both wire versions. Rows change when you say so, or by
    SQL where there is a database.

    Ctrl-C or SIGTERM stops it, and clients are told to come back.
    """
    found = _project(project, database)
    secret = secret or (found.jwt_secret if found else None)
    wish = ServeSettings(
        host=host,
        port=_port(port),
        strict=strict,
        secret=_secret(secret),
        fixed=bool(secret),
        show_keys=show_keys,
        env_file=EnvFile(env_file) if env_file else None,
        allow_host=allow_host,
        inspector=inspector,
        level=_level(
            postgres,
            database,
            prepare=prepare,
            announce_outages=announce_outages,
            isolate_policy_errors=isolate_policy_errors,
            project=found,
        ),
    )
    try:
        asyncio.run(_serve(wish, console_of()))
    except RealtimeError:  # before OSError: some RealtimeErrors are OSErrors too
        raise
    except OSError as error:
        complain(f"cannot listen on {host}, port {port}: {_reason(error)}")
        return 1
    return 0


async def _serve(wish: ServeSettings, console: Console) -> None:
    def ready(app: App) -> None:
        values = wish.values(app.port)
        if wish.env_file is not None:
            wish.env_file.write(values)
        banner(console, wish, values)

    try:
        await serve_here(wish.options(), host=wish.host, port=wish.port, on_ready=ready, level=wish.level)
    finally:
        if wish.env_file is not None:
            wish.env_file.remove()
    console.print(STOPPED)


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "something listens there already; --port takes another one, 0 any free one"
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or str(error)


def _project(project: Path | None, database: str | None) -> "Project | None":
    if project is None:
        return None
    if database is not None:
        raise InvalidArgumentError("--project starts a database and --database names one; give one of them")
    return project_in(project)


def _level(
    postgres: bool,
    database: str | None,
    *,
    prepare: bool,
    announce_outages: bool,
    isolate_policy_errors: bool,
    project: "Project | None",
) -> "PostgresBackend | None":
    if postgres and database is not None:
        raise InvalidArgumentError("--postgres starts a database and --database names one; give one of them")
    if prepare and database is None:
        raise InvalidArgumentError("--prepare prepares a database; name it with --database")
    if not postgres and database is None and project is None:
        for name, given in (
            ("--announce-outages", announce_outages),
            ("--isolate-policy-errors", isolate_policy_errors),
        ):
            if given:
                raise InvalidArgumentError(f"{name} is for a database; give --postgres or --database as well")
        return None
    try:
        return make_backend(
            database,
            prepare=prepare,
            announce_outages=announce_outages,
            isolate_policy_errors=isolate_policy_errors,
            project=project,
        )
    except ImportError as error:
        raise InvalidArgumentError(str(error)) from error


def _port(port: int) -> int:
    if not 0 <= port < 65_536:
        raise InvalidArgumentError(f"--port must be from 0 to 65535, not {port}; 0 takes a free one")
    return port


def _secret(secret: str | None) -> str:
    if not secret:
        return secrets.token_urlsafe(48)
    if len(secret.encode()) < SHORTEST_SECRET:
        raise InvalidArgumentError(
            f"--secret must have at least {SHORTEST_SECRET} bytes, which HS256 wants; left out, it is random"
        )
    return secret
