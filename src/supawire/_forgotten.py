"""What becomes of a client or a local server that is collected although nobody closed it.

Its owner is warned as Python warns of a file that was not closed: a `ResourceWarning` at the line that opened it.
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
    """The line outside of this package from which the present call came."""
    import inspect  # heavy, and wanted when something is opened

    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return Site("<unknown>", 0) if frame is None else Site(frame.f_code.co_filename, frame.f_lineno)


def warn_of(what: str, site: Site, hint: str) -> None:
    """Warn that this was never closed."""
    text = f"{what} that was opened at {site.file}:{site.line} was never closed; {hint}"
    warnings.warn_explicit(text, ResourceWarning, site.file, site.line)
