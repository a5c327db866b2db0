"""Relay the changes of a table to browsers, with Litestar: a guard decides who may connect.

SUPAWIRE_URL=… SUPAWIRE_KEY=… uvicorn litestar_relay:app
"""

import os
from typing import Any

from litestar import Litestar, Request, WebSocket, get, websocket
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp

from supawire import changes, connect_async
from supawire.asgi import Relay, View

relay = Relay(lambda: connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]))
ORDERS = View("orders", changes("orders"))


def knows_the_password(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Refuse a connection without the password with status 401; a real application asks its session or token."""
    if connection.query_params.get("password") != "open":
        raise NotAuthorizedException("unknown user")


@get("/orders", guards=[knows_the_password])
async def orders(request: Request[Any, Any, Any]) -> ASGIApp:
    """Stream the changes to one browser until it disconnects."""
    return relay.sse(request, ORDERS)


@websocket("/orders/socket", guards=[knows_the_password])
async def orders_by_websocket(socket: WebSocket[Any, Any, Any]) -> None:
    """Send the same over a WebSocket."""
    await relay.websocket(socket, ORDERS)


app = Litestar([orders, orders_by_websocket], lifespan=[relay.lifespan])
