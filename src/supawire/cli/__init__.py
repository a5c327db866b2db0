"""The command line, `supawire`, with one module per command. Requires the extra `supawire[cli]`.

Packages of the extra are imported in functions, so that `main` can name a missing one. The module of a command is
imported when the command runs.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from supawire.errors import InvalidArgumentError, RealtimeError

if TYPE_CHECKING:
    from cyclopts import App

NEEDED: Final = {
    "cyclopts": "cyclopts",
    "rich": "rich",
    "jwt": "jwt",
    "dotenv": "python-dotenv",
    "platformdirs": "platformdirs",
    "standardwebhooks": "standardwebhooks",
    "tomli_w": "tomli-w",
}
"""Modules of the extra `cli`, which includes `server`, and the packages that have them."""

SUCCESS: Final = 0
FAILURE: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130
TERMINATED: Final = 143
"""Exit codes after Ctrl-C and after SIGTERM, as used by shells."""

EXIT_CODES: Final = {
    SUCCESS: "success; also when the reader of a pipe has closed it, as `head` does",
    FAILURE: "the command failed: no server answers, a refusal, something that was not delivered",
    WRONG_USAGE: "wrong arguments, a broken settings file, or the extra is not installed; nothing was sent",
    INTERRUPTED: "Ctrl-C",
    TERMINATED: "SIGTERM; `serve`, `worker run` and `bridge` end with 0 instead",
}


_NO_LOG: Final = logging.NullHandler()
"""Keeps warnings of clients off stderr: commands print states and errors themselves."""


class Command(NamedTuple):
    """A command: where its function or `App` is, its line in the list of commands, and its group there."""

    name: str
    path: str
    help: str
    group: str


COMMANDS: Final = (
    Command("serve", "supawire.cli.serve:serve", "Run the local server, for development and tests.", "Local server"),
    Command("demo", "supawire.cli.demo:demo", "Show every feature in 13 seconds, and test a server.", "Local server"),
    Command("trigger", "supawire.cli.trigger:trigger", "Change a row on the local server.", "Local server"),
    Command("token", "supawire.cli.token:app", "Make a token for the local server, or explain one.", "Local server"),
    Command("listen", "supawire.cli.listen:listen", "Show the events of a channel, and pass them on.", "Channels"),
    Command("send", "supawire.cli.messages:send", "Send one message over the socket.", "Channels"),
    Command("publish", "supawire.cli.messages:publish", "Send one message by HTTP.", "Channels"),
    Command("presence", "supawire.cli.presence:presence", "Show who is present in a channel.", "Channels"),
    Command("doctor", "supawire.cli.doctor:doctor", "Find out what is wrong, and what to do.", "Diagnosis"),
    Command("bench", "supawire.cli.bench:bench", "Measure a server.", "Diagnosis"),
    Command("record", "supawire.cli.record:record", "Write what a channel receives to a file.", "Recordings"),
    Command("replay", "supawire.cli.replay:replay", "Serve a recording to a client, or print it.", "Recordings"),
    Command("mcp", "supawire.cli.mcp:mcp", "Offer tools to a coding agent (Model Context Protocol).", "Agents"),
    Command("worker", "supawire.cli.worker:app", "Run jobs that must be done.", "Jobs"),
    Command("bridge", "supawire.cli.bridge:bridge", "Hand changes and broadcasts on to a broker.", "Jobs"),
    Command("context", "supawire.cli.contexts:app", "Keep URL and key of a server under a name.", "Settings"),
    Command("completion", "supawire.cli.completion:completion", "Print or install completion for a shell.", "Settings"),
)


def main() -> int:
    """Run the command line. Return the exit code, see `EXIT_CODES`."""
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        print(
            f"supawire: the command line needs the extra `cli`: {' and '.join(missing)} not found; "
            "run pip install 'supawire[cli]'",
            file=sys.stderr,
        )
        return WRONG_USAGE
    terminated = False

    def terminate(number: int, frame: object) -> None:
        nonlocal terminated
        terminated = True
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a job that a script has started with &
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)  # so that connections are closed and commands of --exec end

    signal.signal(signal.SIGTERM, terminate)
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # during imports; later interrupts are handled by `run`
        code = INTERRUPTED
    return TERMINATED if terminated and code == INTERRUPTED else code


def build() -> "App":
    """Create the application with its commands."""
    from cyclopts import App

    from supawire.cli.output import make_console

    def version() -> str:
        from supawire.cli.version import describe

        return describe()

    app = App(
        "supawire",
        help="Supabase Realtime from the command line, and a local server for development and tests.",
        version=version,
        help_format="plaintext",
        console=make_console(),
        suppress_keyboard_interrupt=False,  # `run` handles it and sets the exit code
    )
    for command in COMMANDS:
        app.command(command.path, name=command.name, help=command.help, group=command.group)
    return app


def run(words: Sequence[str]) -> int:
    """Run a command line. Return the exit code, see `EXIT_CODES`."""
    from supawire.cli.output import tolerate_narrow_encodings

    tolerate_narrow_encodings()
    logging.getLogger("supawire").addHandler(_NO_LOG)
    app = build()
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  what is not expected is raised again
        return _failed(error)
    return code if isinstance(code, int) else SUCCESS


def _failed(error: BaseException) -> int:
    """Print in one line why a command ended, and return the exit code. Raises the error if it is a bug."""
    from cyclopts import CycloptsError

    from supawire.cli.output import print_error

    while isinstance(error, BaseExceptionGroup):  # of a task group
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    match error:
        case CycloptsError():
            print_error(f"{' '.join(str(error).split())} (see supawire --help)")
            return WRONG_USAGE
        case InvalidArgumentError():
            print_error(str(error))
            return WRONG_USAGE
        case BrokenPipeError():  # the reader of our output has ended; what is left in the buffer goes nowhere
            with suppress(ValueError, OSError):  # stdout was replaced by something without a file
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return SUCCESS
        case RealtimeError():
            print_error(str(error))
            return FAILURE
        case OSError():
            print_error(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
            return FAILURE
        case KeyboardInterrupt():
            print_error("interrupted")
            return INTERRUPTED
        case _:
            raise error
