"""The command line, `supawire`, with one module per command. Requires the extra `supawire[cli]`."""

import sys
from importlib.util import find_spec
from typing import Final

NEEDED: Final = ("cyclopts", "rich", "jwt")
"""Packages of the extra `cli`, which includes `server`."""


def main() -> int:
    """Run the command line. Return the exit code: 0 success, 1 failure, 2 wrong usage or a missing extra."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"supawire: the command line needs the extra `cli`, as {' and '.join(missing)} cannot be found; "
            "pip install 'supawire[cli]' brings it",
            file=sys.stderr,
        )
        return 2
    try:
        from supawire.cli.app import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # during imports; later interrupts are handled by `run`
        return 130
