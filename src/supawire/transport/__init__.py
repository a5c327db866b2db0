"""Transports and HTTP clients, which carry frames and HTTP requests; replaceable by `transport=` and `http=`."""

from supawire.transport.base import (
    Closed,
    Connection,
    HttpClient,
    HttpRequest,
    HttpResponse,
    OpenRequest,
    Sink,
    Transport,
)

__all__ = [
    "Closed",
    "Connection",
    "HttpClient",
    "HttpRequest",
    "HttpResponse",
    "OpenRequest",
    "Sink",
    "Transport",
]
