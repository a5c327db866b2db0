"""Parse any form of a server's URL into its WebSocket and HTTP addresses. See docs/protocol.md, URLs."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from msgspec import Struct

from supawire._validation import Secret, check_pairs, check_text, check_token
from supawire.errors import InvalidArgumentError

_SCHEMES: Final = {"http": False, "ws": False, "https": True, "wss": True}
_TAILS: Final = (
    "/websocket",
    "/longpoll",
    "/api/broadcast",
    "/api",
)  # ends of a copied URL
_SET_BY_ARGUMENTS: Final = {"apikey": "the key argument", "vsn": "protocol="}
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::\d{1,5})?")
_URL_LIKE: Final = re.compile(r"(https?|wss?|postgres(ql)?)://\w", re.ASCII | re.IGNORECASE)
_KEY_LIKE: Final = re.compile(r"eyJ[\w-]+\.|sb_(?:publishable|secret)_")
_IN_DATABASE_URL: Final = re.compile(r"@db\.([a-z0-9]{1,40})\.supabase\.co|//[a-z_]{1,40}\.([a-z0-9]{1,40}):")
_MAX_SEARCHED: Final = 300
_SITES: Final = frozenset({"supabase.co", "www.supabase.co", "supabase.com", "www.supabase.com", "app.supabase.com"})
_DASHBOARD: Final = re.compile(r"(?:/dashboard)?/project/([a-z0-9-]+)")


class Endpoint(Struct, frozen=True):
    """The addresses of a server.

    socket_url: the WebSocket URL with all query parameters except the key. rest_url: the base of the HTTP interface,
    `…/api`, without a trailing slash. host: Host header and TLS name instead of the URL's host, or None.
    """

    socket_url: str
    rest_url: str
    host: str | None
    key: Secret

    @classmethod
    def of(
        cls,
        url: str,
        key: str | Secret,
        *,
        protocol: str = "2.0.0",
        params: Mapping[str, str] | None = None,
        host: str | None = None,
    ) -> "Endpoint":
        """Parse `url`: project URL, `…/realtime/v1`, `…/realtime/v1/websocket`, `…/socket/websocket`; http(s) or ws(s).

        Parameters in its query are kept unless `params` overrides them; `apikey` and `vsn` come from the arguments.
        Raises: InvalidArgumentError.
        """
        _refuse_swapped(url, key)
        parts = _split(url)
        secure = _SCHEMES[parts.scheme]
        socket_base, rest_base = _bases(re.sub(r"/+", "/", parts.path).rstrip("/"))
        query = dict(parse_qsl(parts.query, keep_blank_values=True)) | check_params(params or {})
        query = {name: value for name, value in query.items() if name not in _SET_BY_ARGUMENTS} | {"vsn": protocol}
        return cls(
            socket_url=f"{'wss' if secure else 'ws'}://{parts.netloc}{socket_base}/websocket?{urlencode(query)}",
            rest_url=f"{'https' if secure else 'http'}://{parts.netloc}{rest_base}/api",
            host=None if host is None else check_host(host),
            key=check_token("key", key),
        )

    @property
    def address(self) -> str:
        """Host and port, for display."""
        return urlsplit(self.socket_url).netloc

    def __repr__(self) -> str:
        """Show the address without the query, whose parameters may be secrets of a gateway."""
        return f"Endpoint({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        socket_url, _, query = self.socket_url.partition("?")
        shown = f"{socket_url}?…" if query else socket_url
        return [("socket_url", shown), ("rest_url", self.rest_url), ("host", self.host)]

    @property
    def params(self) -> dict[str, str]:
        """The query parameters except the key."""
        return dict(parse_qsl(urlsplit(self.socket_url).query, keep_blank_values=True))

    def reveal(self) -> str:
        """Return the WebSocket URL including the key; use it at once, do not store or show it."""
        return f"{self.socket_url}&apikey={quote(self.key.reveal(), safe='')}"

    def reveal_longpoll(self, protocol: str) -> str:
        """Return the URL for long polling in this version, including the key; use it at once, do not store or show it.

        See docs/protocol.md, Long polling.
        """
        parts = urlsplit(self.socket_url)
        query = urlencode(self.params | {"vsn": protocol, "apikey": self.key.reveal()})
        scheme = "https" if parts.scheme == "wss" else "http"
        return f"{scheme}://{parts.netloc}{parts.path.removesuffix('/websocket')}/longpoll?{query}"


def check_params(params: object) -> dict[str, str]:
    """Return a copy of extra query parameters; refuses the two that the library sets."""
    pairs = check_pairs("params", params)
    for name, instead in _SET_BY_ARGUMENTS.items():
        if name in pairs:
            raise InvalidArgumentError(f"params: {name} is set by {instead}")
    return pairs


def check_host(host: object) -> str:
    """Check a host name, optionally with a port, for Host and TLS."""
    text = check_text("host", host)
    if not _HOST.fullmatch(text):
        raise InvalidArgumentError(f"host={text!r} is not a host name; pass it without scheme and path")
    return text


def _refuse_swapped(url: object, key: object) -> None:
    if isinstance(url, str) and isinstance(key, str) and (_KEY_LIKE.match(url) or _URL_LIKE.match(key)):
        raise InvalidArgumentError("url and key are swapped", hint="Write connect(url, key).")


def _split(url: object) -> SplitResult:
    text = check_text("url", url, secret=True)  # its query may contain a key
    _refuse_database_url(text)
    if any(character in text for character in ' \\<>"'):
        raise InvalidArgumentError(
            "the URL contains a blank or another character that is not allowed in URLs; use .strip()"
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidArgumentError(f"the URL cannot be parsed: {error}") from error
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise InvalidArgumentError(
            "the URL must begin with https://, http://, wss:// or ws:// and a host, as in https://abc.supabase.co"
        )
    if "@" in parts.netloc:
        raise InvalidArgumentError(
            "the URL must not contain a user name or password; pass credentials for a gateway in headers="
        )
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if not _HOST.fullmatch(name):
        raise InvalidArgumentError(f"{name!r} is not a host name; write an international name in its xn-- form")
    _refuse_other_services(parts)
    netloc = name if port is None else f"{name}:{port}"
    return parts._replace(netloc=netloc, path=quote(parts.path, safe="/%:@!$&'()*+,;=~"))


def _refuse_database_url(url: str) -> None:
    if not url.startswith(("postgres://", "postgresql://")):
        return
    found = _IN_DATABASE_URL.search(url[:_MAX_SEARCHED])
    name = next(filter(None, found.groups()), "") if found else "<project>"
    raise InvalidArgumentError(
        f"this is the URL of the database; the project's URL is https://{name}.supabase.co",
        hint="The dashboard shows it under Settings, API.",
    )


def _refuse_other_services(parts: SplitResult) -> None:
    host = parts.hostname or ""
    if host in _SITES and not _DASHBOARD.match(parts.path):
        raise InvalidArgumentError(
            f"{host} is the website of Supabase, not a project; the project's URL is https://<project>.supabase.co",
            hint="The dashboard shows it under Settings, API.",
        )
    if host.endswith(".supabase.com") and host.count(".") == 2 and host not in _SITES:
        raise InvalidArgumentError(
            f"{host} is not the host of a project; the project's URL is https://{host.partition('.')[0]}.supabase.co"
        )
    project = _DASHBOARD.match(parts.path) if parts.hostname in {"supabase.com", "app.supabase.com"} else None
    if project:
        raise InvalidArgumentError(
            f"this is the URL of the dashboard; the project's URL is https://{project[1]}.supabase.co"
        )
    other = re.match(r"/(rest|auth|storage|functions|graphql)/v1", parts.path)
    if other:
        root = f"{parts.scheme}://{parts.netloc}"
        raise InvalidArgumentError(f"{other[0]} is the path of another service; the project's URL is {root}")


def _bases(path: str) -> tuple[str, str]:
    for tail in _TAILS:
        path = path.removesuffix(tail)
    if path.endswith("/socket"):
        return path, path.removesuffix("/socket")
    if not path.endswith("/realtime/v1"):
        path = f"{path.removesuffix('/realtime')}/realtime/v1"
    return path, path
