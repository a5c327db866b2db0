"""Relay the changes of a table to browsers, with FastAPI: who may see what is decided by a dependency.

    SUPAWIRE_URL=… SUPAWIRE_KEY=… uvicorn fastapi_relay:app

All browsers share one channel. A browser that comes back receives what it has missed, or a `gap`, after which the page
fetches its data again.
"""

import os
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import HTMLResponse

from supawire import changes, connect_async
from supawire.asgi import Relay, View

relay = Relay(lambda: connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]))
app = FastAPI(lifespan=relay.lifespan)

SHOPS = {"alice": 1, "bob": 2}
"""The shop of each user; a real application asks its session or token."""


def shop_of_user(user: str = "") -> int:
    """Return the shop of the user; FastAPI answers 401 if there is none."""
    if user not in SHOPS:
        raise HTTPException(401, "unknown user")
    return SHOPS[user]


def orders_of(shop: int) -> View:
    """Return the view of one shop: the others' rows are hidden. All shops have the same selector, so one channel."""

    def show(change: Any) -> Any:
        row = change.raw["old_record" if change.type == "DELETE" else "record"]
        return change if row.get("shop") == shop else None

    return View("orders", changes("orders"), show=show)


Shop = Annotated[int, Depends(shop_of_user)]


@app.get("/orders")
async def orders(request: Request, shop: Shop) -> Response:
    """Stream the changes to one browser until it disconnects."""
    return relay.sse(request, orders_of(shop))


@app.websocket("/orders")
async def orders_by_websocket(websocket: WebSocket, shop: Shop) -> None:
    """Send the same over a WebSocket."""
    await relay.websocket(websocket, orders_of(shop))


@app.get("/")
async def page() -> HTMLResponse:
    """Return a page that shows the changes."""
    return HTMLResponse("""<!doctype html><title>Orders</title><ul id="orders"></ul><script>
        const source = new EventSource("/orders?user=alice")
        const show = (message) => {
            const line = document.createElement("li")
            line.textContent = message.type + " " + message.data
            document.getElementById("orders").append(line)
        }
        source.addEventListener("change", show)
        source.addEventListener("gap", show)  // fetch the orders again
    </script>""")
