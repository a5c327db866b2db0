"""Transports and HTTP clients, which carry frames and HTTP requests; replaceable by `transport=` and `http=`."""

from supawire.transport.base import Closed, Connection, OpenRequest, Sink, Transport
from supawire.transport.http import HttpClient, HttpRequest, HttpResponse

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
