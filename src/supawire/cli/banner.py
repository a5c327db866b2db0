"""What `supawire serve` says when it listens."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from supawire.cli import samples
from supawire.cli.envfile import KEY, PUBLISHABLE_KEY, SECRET_KEY, SERVICE_KEY, URL, lines
from supawire.cli.wish import Wish

if TYPE_CHECKING:
    from supawire.server.postgres.project import Project


def banner(console: Console, wish: Wish, values: Mapping[str, str]) -> None:
    """Say where the server is, how to get its keys, and what to paste. Keys only when they were asked for."""
    url = values[URL]
    kind = f"PostgreSQL {wish.level.version}" if wish.level else "memory level"
    strict = ", strict" if wish.strict else ""
    console.print(
        f"supawire {version('supawire')}: local server for development and tests ({kind}{strict})", style="bold"
    )
    console.print(f"\n  URL   {url}", soft_wrap=True)
    for line in _about_keys(wish):
        console.print(f"  {line}", soft_wrap=True)
    if wish.inspected:
        console.print(f"  Look  {url}/ shows in a browser what goes on", soft_wrap=True)
    if wish.show_keys:
        console.print()
        for line in lines(values):
            console.print(f"export {line}", soft_wrap=True)
    if wish.level is None:
        _memory(console, wish, url)
    else:
        _database(console, wish, url)
    console.print("\nCtrl-C stops it.")


def _memory(console: Console, wish: Wish, url: str) -> None:
    console.print("\nA client in Python:\n")
    code(console, samples.TALK.format(url=url, key=KEY), "python")
    if wish.local:
        console.print('\nA row changes (for everyone who listens with changes("users")):\n')
        code(console, samples.EMIT.format(url=url, key=SERVICE_KEY), "bash")
    _let_in(console, wish)
    console.print(f"\nThe tour against this server, in another shell{'' if wish.env_file else ' that has the keys'}:\n")
    code(console, _tour(wish, url), "bash")


def _database(console: Console, wish: Wish, url: str) -> None:
    assert wish.level is not None
    if wish.level.project is not None:
        console.print(f"  SQL   {_ran(wish.level.project)}", soft_wrap=True)
    console.print("\nThe database:\n")
    code(console, samples.PSQL.format(psql=wish.level.psql, database=wish.level.shown_url), "bash")
    console.print("\nA table that clients are told about, and a row, for psql:\n")
    code(console, samples.TABLE.format(grant="" if wish.level.embedded else samples.GRANT), "sql")
    console.print("\nA client in Python, which prints what changes:\n")
    code(console, samples.WATCH.format(url=url, key=KEY), "python")
    console.print("\nThe same in JavaScript, with @supabase/supabase-js and Node 22 or a browser:\n")
    code(console, samples.WATCH_IN_JAVASCRIPT.format(url=url, key=KEY), "javascript")
    _let_in(console, wish)
    if wish.level.embedded:
        console.print("\nThe database goes with the server.")


def _let_in(console: Console, wish: Wish) -> None:
    if not wish.local:
        console.print("\nOther machines can reach this server; let nobody in whom you do not know.")


def _about_keys(wish: Wish) -> Iterator[str]:
    if wish.env_file is not None:
        yield f"Keys  in {wish.env_file.path} while it runs; in a shell: set -a; . {wish.env_file.path}; set +a"
    elif wish.show_keys:
        yield "Keys  below, to paste into a shell"
    else:
        yield "Keys  not shown: --show-keys prints them, --env-file FILE saves them"
    yield f"      JWTs: {KEY}, {SERVICE_KEY}"
    yield f"      sb_ keys: {PUBLISHABLE_KEY}, {SECRET_KEY}"
    if not wish.fixed:
        yield "      they end with this server; a fixed SUPAWIRE_SECRET keeps them valid"


def _ran(project: "Project") -> str:
    """Return what of a project has run."""
    counts = ((len(project.migrations), "migration"), (len(project.seeds), "seed"))
    files = " and ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts)
    return f"{files} of {project.root.name} have run"


def _tour(wish: Wish, url: str) -> str:
    if wish.env_file is not None:
        return f"supawire demo --env-file {wish.env_file.path}"
    return f"supawire demo --url {url}"


def code(console: Console, text: str, language: str) -> None:
    """A block to copy: coloured in a terminal, never cut or wrapped by us."""
    syntax = Syntax("", language, theme="ansi_dark", background_color="default")
    for line in syntax.highlight(text).split("\n"):
        console.print(Text.assemble("    ", line) if line.plain else line, soft_wrap=True)
