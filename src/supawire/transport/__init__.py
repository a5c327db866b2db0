"""Transports: how frames get to the server and back; replaceable by `transport=`."""

from supawire.transport.base import Closed, Connection, OpenRequest, Sink, Transport

__all__ = ["Closed", "Connection", "OpenRequest", "Sink", "Transport"]
