"""Named contexts: URL, key and token of servers, in a file of the user's configuration folder."""

import getpass
import os
import stat
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import tomli_w
from cyclopts import App, Parameter
from platformdirs import user_config_path
from rich.table import Table

from supawire.cli.key_kinds import kind_of_key
from supawire.cli.output import JsonFlag, Output, shown
from supawire.errors import InvalidArgumentError
from supawire.options import ClientOptions, Secret, check_token

MAX_NAME: Final = 64


class Context(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One named server. Its `repr` shows the URL only."""

    url: str
    key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Context({self.url!r})"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: int = 1
    contexts: dict[str, Context] = {}


VERSION: Final = 1


def path() -> Path:
    """Return the path of the file."""
    return user_config_path("supawire", appauthor=False) / "contexts.toml"


def load() -> dict[str, Context]:
    """Return all contexts. Raises: InvalidArgumentError that names the file and the problem."""
    file = path()
    try:
        data = file.read_bytes()
        mode = file.stat().st_mode
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidArgumentError(f"{file} cannot be read: {error.strerror}") from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise InvalidArgumentError(f"{file} contains keys, and other users can read it; run chmod 600 '{file}'")
    return _parse(file, data)


def _parse(file: Path, data: bytes) -> dict[str, Context]:
    try:
        values: dict[str, Any] = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):  # its text may contain a key
        raise InvalidArgumentError(
            f"{file} is not valid TOML; correct it, or remove it and add its contexts again"
        ) from None
    if values.get("version") != VERSION:
        raise InvalidArgumentError(
            f"{file} has version {values.get('version')!r}; this supawire reads version {VERSION}"
        )
    try:
        return msgspec.convert(values, _File).contexts
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(f"{file}: {error}") from error


def save(contexts: dict[str, Context]) -> None:
    """Replace the file, which only its owner can read. Raises: InvalidArgumentError when that is not possible."""
    file = path()
    data = tomli_w.dumps(msgspec.to_builtins(_File(VERSION, contexts)))
    draft = file.with_suffix(".new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w", encoding="utf-8") as opened:
            opened.write(data)
        draft.replace(file)
    except OSError as error:
        raise InvalidArgumentError(f"{file} cannot be written: {error.strerror}") from error


def find(name: str) -> Context:
    """Return a context by name. Raises: InvalidArgumentError that lists the existing names."""
    contexts = load()
    if name not in contexts:
        existing = ", ".join(sorted(contexts)) or "there is none yet"
        raise InvalidArgumentError(
            f"there is no context {shown(name, MAX_NAME)}; existing: {existing}",
            hint="Add one with supawire context add.",
        )
    return contexts[name]


app: Final = App(
    "context", help="Keep URL and key of a server under a name, for --context NAME.", help_format="plaintext"
)


@app.command
def add(
    name: Annotated[str, Parameter(help="Its name: letters, digits, `.`, `_` and `-`.")],
    /,
    *,
    url: Annotated[str, Parameter(help="The project's URL.")],
    key: Annotated[
        str | None,
        Parameter(help="The project's API key. Without this option it is read from stdin, unseen in a terminal."),
    ] = None,
    token: Annotated[str | None, Parameter(help="A user's JWT.")] = None,
) -> int:
    """Add a context, or replace the one of this name."""
    if not 0 < len(name) <= MAX_NAME or not all(letter.isalnum() or letter in "._-" for letter in name):
        raise InvalidArgumentError(
            f"a context's name consists of letters, digits, '.', '_' and '-', at most {MAX_NAME}, not {name!r}"
        )
    given = _ask_for_key() if key is None else key
    checked = check_token("key", given)
    ClientOptions().endpoint(url, checked)
    if token is not None:
        token = check_token("token", token).reveal()
    contexts = load()
    contexts[name] = Context(url, checked.reveal(), token)
    save(contexts)
    Output().line(f"Context {name} saved in {path()}, which only you can read.")
    return 0


@app.command(name="list")
def list_contexts(*, json: JsonFlag = False) -> int:
    """List the contexts: name, URL and kind of key. Keys are not shown."""
    output = Output(json=json)
    contexts = sorted(load().items())
    if json:
        for name, context in contexts:
            kind = kind_of_key(context.key)
            output.record({"name": name, "url": context.url, "key_kind": kind, "has_token": context.token is not None})
        return 0
    if not contexts:
        output.line("There is no context yet. Add one with: supawire context add NAME --url URL")
        return 0
    table = Table("name", "URL", "key", "token", box=None, pad_edge=False)
    for name, context in contexts:
        table.add_row(name, shown(context.url), kind_of_key(context.key), "yes" if context.token else "no")
    output.console.print(table)
    return 0


@app.command
def remove(name: Annotated[str, Parameter(help="Its name.")], /) -> int:
    """Remove a context."""
    find(name)
    contexts = load()
    del contexts[name]
    save(contexts)
    Output().line(f"Context {name} removed.")
    return 0


def _ask_for_key() -> Secret:
    text = getpass.getpass("Key (not shown): ") if sys.stdin.isatty() else sys.stdin.readline()
    if not text.strip():
        raise InvalidArgumentError("no key was given; use --key, or pass it on stdin")
    return check_token("key", text.strip())
