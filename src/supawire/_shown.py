"""Text from outside as a log or an error may show it: without tokens, on one line, and not endless."""

import re
from typing import Final

HIDDEN: Final = "***"
MOST: Final = 500
"""Characters of a text from outside that are shown."""

_RUN: Final = re.compile(r"[\w.-]{8,}+", re.ASCII)
_KEYS: Final = ("sb_secret_", "sb_publishable_")
_PART: Final = 8
"""Letters that the first two parts of a token have at least, whatever they begin with."""
_CUT: Final = 16
"""Letters after which the beginning of a token counts as one, though its other parts are cut off."""


def hide_tokens(text: str, *, any_parts: bool = False) -> str:
    """The text without what looks like a JWT or a key of Supabase, wherever they stand.

    any_parts: also without three parts with dots between that do not begin as a JWT does.
    """
    return _RUN.sub(lambda run: _without_tokens(run[0], any_parts=any_parts), text)


def _without_tokens(run: str, *, any_parts: bool) -> str:
    starts = [at for at in map(run.find, _KEYS) if at >= 0]
    at = run.find("eyJ")
    if at >= 0 and ("." in run[at:] or len(run) - at >= _CUT):
        starts.append(at)
    if any_parts:
        parts = run.split(".", 2)
        if len(parts) == 3 and min(len(parts[0]), len(parts[1])) >= _PART:
            starts.append(0)
    return run[: min(starts)] + HIDDEN if starts else run


def printable(text: str, most: int = MOST) -> str:
    """The text on one line, its control characters escaped; of a longer one the beginning, and how long it is."""
    head = hide_tokens(text[: most + _CUT])[:most]
    line = head if head.isprintable() else "".join(map(_escaped, head))
    return line if len(text) <= most else f"{line}… ({len(text)} characters)"


def _escaped(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
