"""The files of the page, and the headers that keep everything else out of it."""

from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/inspector/look.css": ("look.css", "text/css; charset=utf-8"),
    "/inspector/main.js": ("main.js", "text/javascript; charset=utf-8"),
    "/inspector/draw.js": ("draw.js", "text/javascript; charset=utf-8"),
    "/inspector/lists.js": ("lists.js", "text/javascript; charset=utf-8"),
}
LIVE: Final = "/inspector/live"
"""Where the page's socket leads."""
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self' ws://localhost:* ws://127.0.0.1:*; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class File(NamedTuple):
    """One file of the page."""

    content: bytes
    content_type: str


@cache
def file_at(path: str) -> File | None:
    """The file that this path leads to."""
    if path not in FILES:
        return None
    name, content_type = FILES[path]
    return File(files("supawire.server.inspector").joinpath("static", name).read_bytes(), content_type)
