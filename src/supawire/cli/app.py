"""Which commands there are, and what the shell gets back."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from cyclopts import App, CycloptsError

from supawire.cli.banner import complain, console_of, tolerate_narrow_encodings
from supawire.cli.demo import demo
from supawire.cli.serve import serve
from supawire.errors import InvalidArgumentError, RealtimeError

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it."""


def build() -> App:
    """The application with its commands."""
    app = App(
        "supawire",
        help="Supabase Realtime on this machine: a local server for development and tests, and a short tour.",
        version=f"supawire {version('supawire')}",
        help_format="plaintext",
        console=console_of(),
        suppress_keyboard_interrupt=False,  # below we say so, and with which exit code
    )
    app.command(serve, name="serve")
    app.command(demo, name="demo")
    return app


def run(words: Sequence[str]) -> int:
    """Run a command line; the exit code: 0 well, 1 not, 2 asked wrongly, 130 interrupted."""
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
