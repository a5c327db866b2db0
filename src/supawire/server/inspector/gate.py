"""Who may look: somebody at this machine, from the page itself.

Any page in a browser can send requests to this machine, and a name of its own can be made to lead here (DNS rebinding).
So Host must be this machine's, what is live comes only from our own page, and no proxy may stand in between.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

from supawire.server.dev import is_here

PROXIES: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "cf-connecting-ip")
OUTSIDE: Final = ("cross-site", "same-site")


def refusal(address: str | None, headers: Mapping[str, str], *, live: bool) -> str | None:
    """Why this request is not answered, or None. Header names are lower case; `live`: for the socket of the page."""
    host = headers.get("host", "")
    if not _is_loopback(address) or any(name in headers for name in PROXIES):
        return "the inspector is for this machine alone"
    if not is_here(host):
        return "open the inspector as http://127.0.0.1 or http://localhost"
    origin = headers.get("origin")
    if live and origin is None:
        return "the inspector's socket is for its page"
    if origin is not None and origin != f"http://{host}":
        return "the inspector is not for other pages"
    if headers.get("sec-fetch-site") in OUTSIDE and not _is_visit(headers):
        return "the inspector is not for other pages"
    return None


def _is_loopback(address: str | None) -> bool:
    try:
        return ip_address(address or "").is_loopback
    except ValueError:
        return False


def _is_visit(headers: Mapping[str, str]) -> bool:
    """Whether somebody followed a link to the page, which shows another site nothing."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
