"""The commands, and the exit codes of the command line."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from cyclopts import App, CycloptsError

from supawire.cli.banner import complain, console_of, tolerate_narrow_encodings
from supawire.cli.demo import demo
from supawire.cli.serve import serve
from supawire.errors import InvalidArgumentError, RealtimeError

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as used by shells."""


def build() -> App:
    """Create the application with its commands."""
    app = App(
        "supawire",
        help="Supabase Realtime on this machine: a local server for development and tests, and a short tour.",
        version=f"supawire {version('supawire')}",
        help_format="plaintext",
        console=console_of(),
        suppress_keyboard_interrupt=False,  # `run` handles it and sets the exit code
    )
    app.command(serve, name="serve")
    app.command(demo, name="demo")
    return app


def run(words: Sequence[str]) -> int:
    """Run a command line. Return the exit code: 0 success, 1 failure, 2 wrong usage, 130 interrupted."""
    tolerate_narrow_encodings()
    app = build()
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        complain(f"{error} (supawire --help says what there is)")
        return 2
    except InvalidArgumentError as error:
        complain(str(error))
        return 2
    except RealtimeError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    return code if isinstance(code, int) else 0
