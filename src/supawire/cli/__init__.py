"""The command line, `supawire`: one module for each command. It comes with the extra `supawire[cli]`."""

import sys
from importlib.util import find_spec
from typing import Final

NEEDED: Final = ("cyclopts", "rich", "jwt")
"""Packages of the extra `cli`, which includes `server`."""


def main() -> int:
    """Run the command that the shell asked for; the exit code: 0 well, 1 not, 2 asked wrongly or not installed."""
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
    except KeyboardInterrupt:  # while modules were imported; later ones are told by `run`
        return 130
