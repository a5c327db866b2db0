"""The command line, `supawire`, with one module per command. Requires the extra `supawire[cli]`.

Packages of the extra are imported in functions, so that `main` can name a missing one.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from supawire.errors import InvalidArgumentError, RealtimeError

if TYPE_CHECKING:
    from cyclopts import App

NEEDED: Final = ("cyclopts", "rich", "jwt")
"""Packages of the extra `cli`, which includes `server`."""
INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as used by shells."""


def main() -> int:
    """Run the command line. Return the exit code: 0 success, 1 failure, 2 wrong usage or a missing extra."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"supawire: the command line needs the extra `cli`: {' and '.join(missing)} not found; "
            "run pip install 'supawire[cli]'",
            file=sys.stderr,
        )
        return 2
    try:
        return run(sys.argv[1:])
    except KeyboardInterrupt:  # during imports; later interrupts are handled by `run`
        return INTERRUPTED


def build() -> "App":
    """Create the application with its commands."""
    from cyclopts import App

    from supawire.cli.banner import make_console
    from supawire.cli.demo import demo
    from supawire.cli.serve import serve

    app = App(
        "supawire",
        help="Supabase Realtime on this machine: a local server for development and tests, and a short tour.",
        version=f"supawire {version('supawire')}",
        help_format="plaintext",
        console=make_console(),
        suppress_keyboard_interrupt=False,  # `run` handles it and sets the exit code
    )
    app.command(serve, name="serve")
    app.command(demo, name="demo")
    return app


def run(words: Sequence[str]) -> int:
    """Run a command line. Return the exit code: 0 success, 1 failure, 2 wrong usage, 130 interrupted."""
    from cyclopts import CycloptsError

    from supawire.cli.banner import print_error, tolerate_narrow_encodings

    tolerate_narrow_encodings()
    app = build()
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        print_error(f"{error} (see supawire --help)")
        return 2
    except InvalidArgumentError as error:
        print_error(str(error))
        return 2
    except RealtimeError as error:
        print_error(str(error))
        return 1
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
    return code if isinstance(code, int) else 0
