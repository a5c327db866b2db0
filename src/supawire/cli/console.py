"""Where the commands print, and how much they may decorate."""

import os
import sys

from rich.console import Console


def console_of(*, plain: bool = False) -> Console:
    """Stdout. Without styles when `plain` or NO_COLOR is set, and where there is no terminal."""
    bare = plain or bool(os.environ.get("NO_COLOR"))
    return Console(highlight=False, emoji=False, markup=False, color_system=None if bare else "auto")


def complain(text: str) -> None:
    """One message to stderr, under the name of the program."""
    print(f"supawire: {text}", file=sys.stderr)


def tolerate_narrow_encodings() -> None:
    """Print `?` for a character that the output cannot hold, instead of failing in the middle of a line."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
