"""What both uses of aiohttp, WebSocket and HTTP, need."""

import importlib.util
from typing import Any

import aiohttp
from yarl import URL

from supawire.errors import InvalidArgumentError
from supawire.options import Secret


def connector(proxy: Secret | None, *, force_close: bool = False) -> aiohttp.BaseConnector:
    """What opens sockets: straight, or through a SOCKS proxy. Raises `InvalidArgumentError` without its package."""
    if proxy is None or not is_socks(proxy):
        return aiohttp.TCPConnector(force_close=force_close)
    if importlib.util.find_spec("aiohttp_socks") is None:
        raise InvalidArgumentError(
            "a SOCKS proxy needs the package aiohttp-socks", hint="pip install 'supawire[socks]'"
        )
    socks: Any = importlib.import_module("aiohttp_socks")
    return socks.ProxyConnector.from_url(proxy.reveal(), force_close=force_close)


def is_socks(proxy: Secret) -> bool:
    """Whether the connector goes through this proxy, not the request."""
    return proxy.reveal().startswith("socks")


def http_proxy(proxy: Secret | None) -> str | None:
    """The proxy that a request is told of; it may hold a password."""
    return None if proxy is None or is_socks(proxy) else proxy.reveal()


def tls_name(host: str | None) -> str | None:
    """The name that TLS shall check: the host without its port."""
    return None if host is None else (URL.build(scheme="https", authority=host).host or host)
