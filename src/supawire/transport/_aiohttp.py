"""What both uses of aiohttp, WebSocket and HTTP, need."""

import asyncio
import importlib.util
import sys
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from supawire.errors import InvalidArgumentError
from supawire.options import Secret

NO_LIMIT: Final = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
"""Time limits are the caller's; aiohttp has none."""

BODY: Final = 64_000
"""Bytes of an answer's body that are read."""

_BODY_TIME: Final = 2.0
"""Seconds in which they must come; the status alone is enough to go on with."""

_KEY: Final = 8
"""Letters from which on a key or a proxy's address is replaced; a shorter one is no secret, and part of many words."""

_TELLING: Final = 16
"""Letters from which on a header of the user's may be a secret; shorter ones are names and versions."""
_LOOKS_UP: Final = {"socks5h": "socks5", "socks4a": "socks4"}
"""Schemes that say that the proxy is to look up names, and what aiohttp-socks calls them."""


def hide(text: str, secrets: Iterable[Secret | None], headers: Iterable[str] = ()) -> str:
    """The text without what we sent and a peer may repeat: secrets, and long values of the user's headers (R48)."""
    values = [secret.reveal() for secret in secrets if secret is not None]
    values += [value for value in headers if len(value) >= _TELLING]
    for value in values:
        for shown in (value, value.rpartition(" ")[2], quote(value, safe="")):
            text = text.replace(shown, "***") if len(shown) >= _KEY else text
    return text


async def beginning(response: aiohttp.ClientResponse) -> bytes:
    """The body as far as it is looked at. One that breaks off changes nothing: the status says what happened."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_TIME):
            while len(body) < BODY and (part := await response.content.read(BODY - len(body))):
                body += part
    except (TimeoutError, aiohttp.ClientError):
        return body  # what came is kept
    return body


def connector(proxy: Secret | None, *, force_close: bool = False) -> aiohttp.BaseConnector:
    """What opens sockets: straight, or through a SOCKS proxy. Raises `InvalidArgumentError` without its package."""
    if proxy is None or not is_socks(proxy):
        return aiohttp.TCPConnector(force_close=force_close)
    if importlib.util.find_spec("aiohttp_socks") is None:
        raise InvalidArgumentError(
            "a SOCKS proxy needs the package aiohttp-socks", hint="pip install 'supawire[socks]'"
        )
    socks: Any = importlib.import_module("aiohttp_socks")
    scheme, _, rest = proxy.reveal().partition("://")
    plain = _LOOKS_UP.get(scheme)
    more = {} if plain is None else {"rdns": True}
    return socks.ProxyConnector.from_url(f"{plain or scheme}://{rest}", force_close=force_close, **more)


def network_errors() -> tuple[type[Exception], ...]:
    """The exceptions that say that the network, the peer or a proxy failed; everything else is a bug."""
    proxies: Any = sys.modules.get("aiohttp_socks")  # a SOCKS error cannot come before the package is loaded
    names = ("ProxyError", "ProxyConnectionError", "ProxyTimeoutError")  # none of them is a subclass of another
    of_proxies = [getattr(proxies, name) for name in names if hasattr(proxies, name)]
    return (aiohttp.ClientError, OSError, EOFError, *of_proxies)


def is_socks(proxy: Secret) -> bool:
    """Whether the connector goes through this proxy, not the request."""
    return proxy.reveal().startswith("socks")


def http_proxy(proxy: Secret | None) -> str | None:
    """The proxy that a request is told of; it may hold a password."""
    return None if proxy is None or is_socks(proxy) else proxy.reveal()


def tls_name(host: str | None) -> str | None:
    """The name that TLS shall check: the host without its port."""
    return None if host is None else (URL.build(scheme="https", authority=host).host or host)
