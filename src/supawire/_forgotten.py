"""Warn about a client or local server that was garbage-collected without being closed.

Like Python for unclosed files, it emits a `ResourceWarning` for the line that opened the object.
"""

import warnings
from pathlib import Path
from typing import Final, NamedTuple

_PACKAGE: Final = str(Path(__file__).parent)


class Site(NamedTuple):
    """A line of the user's code."""

    file: str
    line: int


def call_site() -> Site:
    """Return the innermost line of the call stack that is outside this package."""
    import inspect  # slow to import, and needed only when something is opened

    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return Site("<unknown>", 0) if frame is None else Site(frame.f_code.co_filename, frame.f_lineno)


def warn_of(what: str, site: Site, hint: str) -> None:
    """Warn that the object was never closed."""
    text = f"{what} that was opened at {site.file}:{site.line} was never closed; {hint}"
    warnings.warn_explicit(text, ResourceWarning, site.file, site.line)
