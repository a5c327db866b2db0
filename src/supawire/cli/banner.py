"""The output of `supawire serve`: where the server listens, and code to paste for clients and for changing rows."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from supawire.cli.env_files import KEY, PUBLISHABLE_KEY, SECRET_KEY, SERVICE_KEY, URL, lines
from supawire.cli.settings import ServeSettings

if TYPE_CHECKING:
    from supawire.server.postgres.project import Project


BROADCAST_PROGRAM: Final = """\
import asyncio, os, supawire

URL, KEY = "{url}", os.environ["{key}"]

async def main():
    async with supawire.connect_async(URL, KEY) as client:
        room = client.channel("room:lobby", echo=True)
        typing = room.listen(supawire.broadcast("typing"))
        async with room:
            await room.broadcast("typing", {{"user": "alice"}})
            async for message in typing:
                print(message.event, message.payload)

asyncio.run(main())"""

CHANGES_PROGRAM: Final = """\
import asyncio, os, supawire

URL, KEY = "{url}", os.environ["{key}"]

async def main():
    async with supawire.connect_async(URL, KEY) as client:
        room = client.channel("todos")
        rows = room.listen(supawire.changes("todos"))
        async with room:
            async for change in rows:
                print(change)

asyncio.run(main())"""

JAVASCRIPT_PROGRAM: Final = """\
import {{ createClient }} from "@supabase/supabase-js"

const supabase = createClient("{url}", process.env.{key})
const todos = {{ event: "*", schema: "public", table: "todos" }}

supabase
  .channel("todos")
  .on("postgres_changes", todos, (change) => console.log(change))
  .subscribe((status) => console.log(status))"""

EMIT_COMMAND: Final = """\
curl -X POST {url}/dev/emit \\
  -H "Authorization: Bearer ${key}" \\
  -d '{{"type": "INSERT", "table": "users", "record": {{"id": 1}}}}'"""

PSQL_COMMAND: Final = '{psql} "{database}"'

CREATE_TABLE: Final = """\
create table todos (id bigint generated always as identity primary key, body text);
alter publication supabase_realtime add table todos;
{grant}insert into todos (body) values ('hello');"""

GRANT: Final = "grant select on todos to anon, authenticated;\n"
"""Required in a given database; in an embedded one the roles of clients can read every table."""


def banner(console: Console, settings: ServeSettings, values: Mapping[str, str]) -> None:
    """Print where the server is, how to get its keys, and what to paste. Keys only if requested."""
    url = values[URL]
    kind = f"PostgreSQL {settings.backend.version}" if settings.backend else "without a database"
    strict = ", strict" if settings.strict else ""
    console.print(
        f"supawire {version('supawire')}: local server for development and tests ({kind}{strict})", style="bold"
    )
    console.print(f"\n  URL   {url}", soft_wrap=True)
    for line in _about_keys(settings):
        console.print(f"  {line}", soft_wrap=True)
    if settings.inspected:
        console.print(f"  Look  {url}/ shows in a browser what happens", soft_wrap=True)
    if settings.show_keys:
        console.print()
        for line in lines(values):
            console.print(f"export {line}", soft_wrap=True)
    if settings.backend is None:
        _print_without_database(console, settings, url)
    else:
        _print_with_database(console, settings, url)
    console.print("\nCtrl-C stops it.")


def _print_without_database(console: Console, settings: ServeSettings, url: str) -> None:
    console.print("\nA client in Python:\n")
    code(console, BROADCAST_PROGRAM.format(url=url, key=KEY), "python")
    if settings.local:
        console.print('\nChange a row, for clients that listen with changes("users"):\n')
        code(console, EMIT_COMMAND.format(url=url, key=SERVICE_KEY), "bash")
    _warn_if_reachable(console, settings)
    console.print(
        f"\nThe tour against this server, in another shell{'' if settings.env_file else ' that has the keys'}:\n"
    )
    code(console, _tour_command(settings, url), "bash")


def _print_with_database(console: Console, settings: ServeSettings, url: str) -> None:
    assert settings.backend is not None
    if settings.backend.project is not None:
        console.print(f"  SQL   {_describe_project(settings.backend.project)}", soft_wrap=True)
    console.print("\nThe database:\n")
    code(console, PSQL_COMMAND.format(psql=settings.backend.psql, database=settings.backend.shown_url), "bash")
    console.print("\nA table whose changes clients receive, and a row, for psql:\n")
    code(console, CREATE_TABLE.format(grant="" if settings.backend.embedded else GRANT), "sql")
    console.print("\nA client in Python, which prints the changes:\n")
    code(console, CHANGES_PROGRAM.format(url=url, key=KEY), "python")
    console.print("\nThe same in JavaScript, with @supabase/supabase-js and Node 22 or a browser:\n")
    code(console, JAVASCRIPT_PROGRAM.format(url=url, key=KEY), "javascript")
    _warn_if_reachable(console, settings)
    if settings.backend.embedded:
        console.print("\nThe database is removed when the server stops.")


def _warn_if_reachable(console: Console, settings: ServeSettings) -> None:
    if not settings.local:
        console.print("\nOther machines can reach this server; give its keys only to people you trust.")


def _about_keys(settings: ServeSettings) -> Iterator[str]:
    if settings.env_file is not None:
        yield f"Keys  in {settings.env_file.path} while it runs; in a shell: set -a; . {settings.env_file.path}; set +a"
    elif settings.show_keys:
        yield "Keys  below, to paste into a shell"
    else:
        yield "Keys  not shown: --show-keys prints them, --env-file FILE saves them"
    yield f"      JWTs: {KEY}, {SERVICE_KEY}"
    yield f"      sb_ keys: {PUBLISHABLE_KEY}, {SECRET_KEY}"
    if not settings.fixed:
        yield "      valid until this server stops; a fixed SUPAWIRE_SECRET keeps them valid"


def _describe_project(project: "Project") -> str:
    """Describe what was run of the project."""
    counts = ((len(project.migrations), "migration"), (len(project.seeds), "seed"))
    files = " and ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts)
    return f"{files} of {project.root.name} have run"


def _tour_command(settings: ServeSettings, url: str) -> str:
    if settings.env_file is not None:
        return f"supawire demo --env-file {settings.env_file.path}"
    return f"supawire demo --url {url}"


def code(console: Console, text: str, language: str) -> None:
    """Print a block to copy: coloured in a terminal, never cut or wrapped."""
    syntax = Syntax("", language, theme="ansi_dark", background_color="default")
    for line in syntax.highlight(text).split("\n"):
        console.print(Text.assemble("    ", line) if line.plain else line, soft_wrap=True)
