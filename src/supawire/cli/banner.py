"""What `supawire serve` says when it listens."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Final

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from supawire.cli.envfile import KEY, SERVICE_KEY, URL, lines
from supawire.cli.wish import Wish

CLIENT: Final = """\
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

EMIT: Final = """\
curl -X POST {url}/dev/emit \\
  -H "Authorization: Bearer ${key}" \\
  -d '{{"type": "INSERT", "table": "users", "record": {{"id": 1}}}}'"""


def banner(console: Console, wish: Wish, values: Mapping[str, str]) -> None:
    """Say where the server is, how to get its keys, and what to paste. Keys only when they were asked for."""
    url = values[URL]
    kind = "memory level, strict" if wish.strict else "memory level"
    console.print(f"supawire {version('supawire')}: local server for development and tests ({kind})", style="bold")
    console.print(f"\n  URL   {url}", soft_wrap=True)
    for line in _about_keys(wish):
        console.print(f"  {line}", soft_wrap=True)
    if wish.show_keys:
        console.print()
        for line in lines(values):
            console.print(f"export {line}", soft_wrap=True)
    console.print("\nA client in Python:\n")
    code(console, CLIENT.format(url=url, key=KEY), "python")
    if wish.local:
        console.print('\nA row changes (for everyone who listens with changes("users")):\n')
        code(console, EMIT.format(url=url, key=SERVICE_KEY), "bash")
    else:
        console.print("\nOther machines can reach this server; let nobody in whom you do not know.")
    console.print(f"\nThe tour against this server, in another shell{'' if wish.env_file else ' that has the keys'}:\n")
    code(console, _tour(wish, url), "bash")
    console.print("\nCtrl-C stops it.")


def _about_keys(wish: Wish) -> Iterator[str]:
    if wish.env_file is not None:
        yield f"Keys  in {wish.env_file.path} while it runs; in a shell: set -a; . {wish.env_file.path}; set +a"
    elif wish.show_keys:
        yield "Keys  below, to paste into a shell"
    else:
        yield "Keys  not shown: --show-keys prints them, --env-file FILE saves them"
    if not wish.fixed:
        yield "      they end with this server; a fixed SUPAWIRE_SECRET keeps them valid"


def _tour(wish: Wish, url: str) -> str:
    if wish.env_file is not None:
        return f"supawire demo --env-file {wish.env_file.path}"
    return f"supawire demo --url {url}"


def code(console: Console, text: str, language: str) -> None:
    """A block to copy: coloured in a terminal, never cut or wrapped by us."""
    syntax = Syntax("", language, theme="ansi_dark", background_color="default")
    for line in syntax.highlight(text).split("\n"):
        console.print(Text.assemble("    ", line) if line.plain else line, soft_wrap=True)
