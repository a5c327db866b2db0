"""Tables of the command line: its commands, their arguments and options, and its exit codes."""

from collections.abc import Iterator
from typing import Any, cast

from cyclopts import App

from docs.tables import rows, table
from supawire.cli import COMMANDS, EXIT_CODES, build
from supawire.cli.connection import GROUP, Connect


@table("commands")
def commands() -> str:
    """Return the table of the commands."""
    lines = [(f"[`supawire {each.name}`](#supawire-{each.name})", each.help.rstrip(".")) for each in COMMANDS]
    return rows(["command", "does"], lines)


@table("exit-codes")
def exit_codes() -> str:
    """Return the table of the exit codes."""
    return rows(["exit code", "meaning"], [(str(code), meaning) for code, meaning in EXIT_CODES.items()])


@table("connection-options")
def connection_options() -> str:
    """Return the table of the options that select a server, which are the same in every command."""

    def command(*, connect: Connect = Connect()) -> None:
        del connect

    app = App()
    app.default(command)
    return _options(app, shared=True)


def _register() -> None:
    """Register a table of the arguments and options of each command."""
    app = build()
    for each in COMMANDS:
        for name, command in leaves(each.name, app[each.name]):
            table(f"{name.replace(' ', '-')}-options")(lambda command=command: _options(command))


def leaves(name: str, app: App) -> Iterator[tuple[str, App]]:
    """Yield the commands of an app, with the words that call them: itself, or its subcommands."""
    if app.default_command is not None:
        yield name, app
    for word in app:
        if not word.startswith("-"):
            yield from leaves(f"{name} {word}", app[word])


def _options(app: App, *, shared: bool = False) -> str:
    lines: list[tuple[str, str, str]] = []
    is_shared = False
    for argument in app.assemble_argument_collection():
        if not argument.show:
            continue
        if not shared and GROUP in _tuple(argument.parameter.group):
            is_shared = True
            continue
        names = [name for name in argument.names if not name.startswith("--no-")]
        name = names[0] if names[0].startswith("-") else f"`{names[0]}`"
        meaning = argument.parameter.help or ""
        if variables := argument.parameter.env_var:
            named = [variables] if isinstance(variables, str) else list(variables)
            meaning += f" From the environment: {', '.join(f'`{each}`' for each in named)}."
        lines.append((f"`{name.strip('`')}`", _default(argument.field_info.default), meaning))
    if is_shared:
        lines.append(("`--url` …", "", "[Which server to use](#which-server-to-use)."))
    return rows(["option", "default", "meaning"], lines)


def _tuple(value: Any) -> tuple[Any, ...]:
    return cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)


def _default(value: Any) -> str:
    empty = value is None or value is False or value == () or getattr(value, "__name__", "") == "_empty"
    return "" if empty else f"`{value}`"


_register()
