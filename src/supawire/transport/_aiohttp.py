"""Helpers for aiohttp, shared by the WebSocket transport and the HTTP client."""

import asyncio
import importlib.util
import os
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any, Final
from urllib.parse import quote, quote_plus

import aiohttp
from yarl import URL

from supawire._validation import check_bool
from supawire.errors import InvalidArgumentError
from supawire.options import Secret

NO_LIMIT: Final = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
"""No aiohttp timeouts: callers apply their own."""

MAX_BODY: Final = 64_000
"""Maximum bytes read of a response body."""

BODY_TIMEOUT: Final = 2.0
"""Seconds to wait for the body; the status is sufficient without it."""

_MIN_SECRET: Final = 8
"""Minimum length of a key or proxy address to be redacted; shorter ones are not secret and occur in ordinary words."""

_MIN_HEADER: Final = 16
"""Minimum length of a user-defined header value to be redacted; shorter ones are names and versions."""
_REMOTE_DNS: Final = {"socks5h": "socks5", "socks4a": "socks4"}
"""Schemes that make the proxy resolve host names, with the schemes that aiohttp-socks uses for them."""


def hide(text: str, secrets: Iterable[Secret | None], headers: Iterable[str] = ()) -> str:
    """Redact what was sent and a peer may repeat: secrets, and long values of user-defined headers."""
    values = [secret.reveal() for secret in secrets if secret is not None]
    values += [value for value in headers if len(value) >= _MIN_HEADER]
    for value in values:
        for shown in (value, value.rpartition(" ")[2], quote(value, safe=""), quote_plus(value)):
            text = text.replace(shown, "***") if len(shown) >= _MIN_SECRET else text
    return text


async def read_beginning(response: aiohttp.ClientResponse, timeout: float) -> bytes:
    """Read the beginning of the body. Read errors are ignored, because the status tells what happened."""
    body = b""
    try:
        async with asyncio.timeout(timeout):
            while len(body) < MAX_BODY and (part := await response.content.read(MAX_BODY - len(body))):
                body += part
    except (TimeoutError, aiohttp.ClientError):
        return body  # return what has been received
    return body


def connector(proxy: Secret | None, *, force_close: bool = False) -> aiohttp.BaseConnector:
    """Create the connector: direct, or through a SOCKS proxy.

    Raises `InvalidArgumentError` if aiohttp-socks is missing.
    """
    if proxy is None or not is_socks(proxy):
        return aiohttp.TCPConnector(force_close=force_close)
    if importlib.util.find_spec("aiohttp_socks") is None:
        raise InvalidArgumentError(
            "a SOCKS proxy requires the package aiohttp-socks", hint="pip install 'supawire[socks]'"
        )
    socks: Any = importlib.import_module("aiohttp_socks")
    scheme, _, rest = proxy.reveal().partition("://")
    plain = _REMOTE_DNS.get(scheme)
    more = {} if plain is None else {"rdns": True}
    return socks.ProxyConnector.from_url(f"{plain or scheme}://{rest}", force_close=force_close, **more)


# --- connections of aiofastnet

FAST_VARIABLE: Final = "SUPAWIRE_FAST"


def carrier(transport: asyncio.Transport) -> str:
    """Return the packages that carry a connection, with their versions."""
    fast: Any = sys.modules.get("aiofastnet")
    with_fast = f", aiofastnet {fast.__version__}" if fast is not None and isinstance(transport, fast.Transport) else ""
    return f"aiohttp {aiohttp.__version__}{with_fast}"


def uses_aiofastnet(wanted: bool | None) -> bool:
    """Return whether connections are to be opened by aiofastnet: as wanted, or, for None, if it is installed.

    The environment variable SUPAWIRE_FAST=0 changes the latter to no. Raises `InvalidArgumentError` if aiofastnet is
    wanted and missing, if `wanted` is of another type, or if the variable is neither 0 nor 1.
    """
    if wanted is not None:
        check_bool("fast", wanted)
    setting = os.environ.get(FAST_VARIABLE, "1")
    if setting not in ("0", "1"):
        raise InvalidArgumentError(f"{FAST_VARIABLE} must be 0 or 1, not {setting!r}")
    if wanted is False or (wanted is None and setting == "0"):
        return False
    try:
        importlib.import_module("aiofastnet")
    except ImportError as error:  # missing, or not for this machine
        if wanted:
            raise InvalidArgumentError(
                f"fast=True requires the package aiofastnet: {error}",
                hint="pip install 'supawire[fast]', or omit fast=",
            ) from None
        return False
    return True


class _Changed:
    """An object with some attributes replaced; all others are those of the original."""

    def __init__(self, original: object, **replaced: Any) -> None:
        self._original = original
        self.__dict__ |= replaced

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class FastConnector(aiohttp.TCPConnector):
    """Opens connections by aiofastnet, whose TLS costs less than that of the event loop.

    aiohttp calls `create_connection` of the event loop in a private method. Here that method runs on a connector whose
    event loop has aiofastnet's function in that place. An aiohttp without this method never calls it, and one that does
    something else in it opens the connection as usual. From version 3.15 on aiohttp uses aiofastnet by itself.
    """

    async def _wrap_create_connection(self, *args: Any, **options: Any) -> Any:
        opens: Any = getattr(aiohttp.TCPConnector, "_wrap_create_connection")  # noqa: B009  private: no type
        loop: Any = getattr(self, "_loop", None)
        if not isinstance(loop, asyncio.AbstractEventLoop) or _OPENS_FAST:
            return await opens(self, *args, **options)
        fast: Any = importlib.import_module("aiofastnet")
        view = _Changed(loop, create_connection=partial(fast.create_connection, loop))
        try:
            return await opens(_Changed(self, _loop=view), *args, **options)
        except (AttributeError, TypeError):  # this version of aiohttp does not accept another object for the connector
            return await opens(self, *args, **options)


_OPENS_FAST: Final = tuple(map(int, aiohttp.__version__.split(".")[:2])) >= (3, 15)


def network_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions raised when the network, the peer or a proxy fails; all others are bugs."""
    proxies: Any = sys.modules.get("aiohttp_socks")  # SOCKS errors cannot occur before the package is loaded
    names = ("ProxyError", "ProxyConnectionError", "ProxyTimeoutError")  # none is a subclass of another
    of_proxies = [getattr(proxies, name) for name in names if hasattr(proxies, name)]
    return (aiohttp.ClientError, OSError, EOFError, *of_proxies)


def is_socks(proxy: Secret) -> bool:
    """Return whether the proxy is configured on the connector rather than on the request."""
    return proxy.reveal().startswith("socks")


def http_proxy(proxy: Secret | None) -> str | None:
    """Return the proxy to pass with a request; its URL may contain a password."""
    return None if proxy is None or is_socks(proxy) else proxy.reveal()


def tls_name(host: str | None) -> str | None:
    """Return the host name that TLS verifies: the host without its port."""
    return None if host is None else (URL.build(scheme="https", authority=host).host or host)
