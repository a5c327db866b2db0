"""Output of the commands: text for people, one JSON object a line for programs, errors on stderr."""

import sys
from collections.abc import Mapping
from os import environ
from typing import Annotated, Any, Final, TypeAlias

from cyclopts import Group, Parameter
from rich.console import Console
from rich.text import Text

from supawire._display import hide_tokens, printable
from supawire._values.encode import to_json

MAX_LINE: Final = 4_000
"""Maximum characters of text from outside that are shown in one line for people."""


class CommandConsole(Console):
    """A console that raises `BrokenPipeError` when its reader has closed the pipe; `run` then ends the command."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise  # noqa: PLE0704  called by rich inside `except BrokenPipeError`


def make_console(*, plain: bool = False, stderr: bool = False) -> Console:
    """Return a console for stdout or stderr. Without styles if `plain` or NO_COLOR is set, or it is not a terminal."""
    bare = plain or bool(environ.get("NO_COLOR"))
    return CommandConsole(
        highlight=False, emoji=False, markup=False, color_system=None if bare else "auto", stderr=stderr
    )


def print_error(text: str) -> None:
    """Print one message to stderr, prefixed with the program's name. Keys and tokens in it are hidden."""
    print(f"supawire: {hide_tokens(text)}", file=sys.stderr, flush=True)


def tolerate_narrow_encodings() -> None:
    """Print `?` for characters that the output encoding lacks, instead of failing in the middle of a line."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


class Output:
    """Prints the results of a command: JSON lines if `json`, otherwise text."""

    def __init__(self, *, json: bool = False) -> None:
        self.json: Final = json
        self.console: Final = make_console()

    @property
    def live(self) -> bool:
        """Whether a view that is drawn again and again can be shown: text in a terminal."""
        return not self.json and self.console.is_terminal and not self.console.is_dumb_terminal

    def record(self, fields: Mapping[str, Any]) -> None:
        """Print one JSON object on a line of its own, and flush it."""
        print(to_json(fields), flush=True)

    def line(self, *parts: str | tuple[str, str]) -> None:
        """Print one line of text, which is never wrapped; a part may be a pair of text and style."""
        self.console.print(Text.assemble(*parts), soft_wrap=True)
        self.console.file.flush()


def shown(value: Any, most: int = MAX_LINE) -> str:
    """Return a value for people: text as it is and anything else as JSON, on one line without control characters."""
    return printable(value if isinstance(value, str) else to_json(value), most)


JsonFlag: TypeAlias = Annotated[
    bool,
    Parameter(
        negative=(), show_default=False, help="Print one JSON object a line.", group=Group("Output", sort_key=15)
    ),
]
"""The option `--json` of a command."""
