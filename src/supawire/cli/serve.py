"""`supawire serve`: run the local server until it is interrupted."""

import asyncio
import errno
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter
from rich.console import Console

from supawire.cli.arguments import check_signing_secret
from supawire.cli.banner import banner
from supawire.cli.env_files import EnvFile
from supawire.cli.output import make_console, print_error
from supawire.cli.settings import ServeSettings
from supawire.errors import InvalidArgumentError, RealtimeError
from supawire.server.app import App
from supawire.server.local import serve as serve_here
from supawire.server.local_api import make_backend, project_in

if TYPE_CHECKING:
    from supawire.server.postgres.backend import PostgresBackend
    from supawire.server.postgres.project import Project

STOPPED: Final = "Stopped. Clients were asked to reconnect (close code 1012)."


def serve(
    *,
    postgres: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="Start a temporary PostgreSQL, whose rows change by SQL. It is empty at first and removed at the end.",
        ),
    ] = False,
    database: Annotated[
        str | None,
        Parameter(help="Use the PostgreSQL at this URL. The password may come from PGPASSWORD or .pgpass instead."),
    ] = None,
    prepare: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="Create what the server needs in --database: roles, the schema realtime, publications.",
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
            help="When a row policy raises, only its own subscriber gets an error. On the real server no client gets "
            "any change until the policy works again.",
        ),
    ] = False,
    project: Annotated[
        Path | None,
        Parameter(
            help="Start a temporary PostgreSQL and run the migrations and the seed of the Supabase project in this "
            "folder, such as `.`; settings of its config.toml apply."
        ),
    ] = None,
    host: Annotated[
        str, Parameter(help="Address to listen on. With others than 127.0.0.1, other machines can connect.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 selects a free one.")] = 4000,
    strict: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Delay errors and apply limits, as a self-hosted Realtime does."
        ),
    ] = False,
    secret: Annotated[
        str | None,
        Parameter(
            env_var="SUPAWIRE_SECRET",
            help="Secret for keys and tokens (HS256), random by default. With a fixed one, keys stay valid after a "
            "restart. The environment variable keeps it out of your shell's history.",
        ),
    ] = None,
    show_keys: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Print the keys, ready to paste into a shell.")
    ] = False,
    env_file: Annotated[
        Path | None,
        Parameter(help="Write address and keys to this file, which only you can read; it is removed at the end."),
    ] = None,
    allow_host: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            show_default=False,
            help="Another host name that clients use, such as host.docker.internal. Repeatable.",
        ),
    ] = (),
    inspector: Annotated[
        bool,
        Parameter(
            negative="--no-inspector",
            show_default=False,
            help="Show in a browser, at the server's address, what happens. Off when other machines can connect.",
        ),
    ] = True,
) -> int:
    """Run the local server, for development and tests.

    It has broadcast, presence, private channels and replay, in both wire versions. Rows change by the route
    `/dev/emit`, or by SQL if there is a database.

    Ctrl-C or SIGTERM stops it, and clients are asked to reconnect.
    """
    found = _project(project, database)
    secret = secret or (found.jwt_secret if found else None)
    settings = ServeSettings(
        host=host,
        port=_port(port),
        strict=strict,
        secret=check_signing_secret(secret) if secret else secrets.token_urlsafe(48),
        fixed=bool(secret),
        show_keys=show_keys,
        env_file=EnvFile(env_file) if env_file else None,
        allow_host=allow_host,
        inspector=inspector,
        backend=_backend(
            postgres,
            database,
            prepare=prepare,
            announce_outages=announce_outages,
            isolate_policy_errors=isolate_policy_errors,
            project=found,
        ),
    )
    try:
        asyncio.run(_serve(settings, make_console()))
    except RealtimeError:  # before OSError: some RealtimeErrors are OSErrors too
        raise
    except OSError as error:
        print_error(f"cannot listen on {host}, port {port}: {_reason(error)}")
        return 1
    return 0


async def _serve(settings: ServeSettings, console: Console) -> None:
    def ready(app: App) -> None:
        values = settings.values(app.port)
        if settings.env_file is not None:
            settings.env_file.write(values)
        banner(console, settings, values)

    try:
        await serve_here(
            settings.options(), host=settings.host, port=settings.port, on_ready=ready, level=settings.backend
        )
    finally:
        if settings.env_file is not None:
            settings.env_file.remove()
    console.print(STOPPED)


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; give another one with --port, or 0 for any free one"
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or str(error)


def _project(project: Path | None, database: str | None) -> "Project | None":
    if project is None:
        return None
    if database is not None:
        raise InvalidArgumentError("--project starts a database and --database names one; give one of them")
    return project_in(project)


def _backend(
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
        raise InvalidArgumentError(f"--port must be from 0 to 65535, not {port}; 0 selects a free one")
    return port
