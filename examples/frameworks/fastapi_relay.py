"""Browsers see the changes of a table: FastAPI relays them as server-sent events.

    SUPAWIRE_URL=… SUPAWIRE_KEY=… uvicorn fastapi_relay:app --timeout-graceful-shutdown 1

One client for the application, opened and closed with it; one iterator for each browser, with a bounded buffer of its
own, so that a browser that does not read delays nobody and loses its oldest events. A lost connection is told too: the
page fetches again what it shows.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from supawire import Gap, changes, connect_async, gaps

ORDERS = changes("orders")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Joined before the first request, left after the last."""
    async with connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]) as client:
        app.state.orders = client.channel("orders")
        # what the join asks for stays the same however many browsers come and go, so none of them needs another join
        app.state.orders.on(ORDERS, lambda change: None)
        await app.state.orders.subscribe(wait="ready")
        yield


app = FastAPI(lifespan=lifespan)


def as_json(event: Any) -> str:
    """What the page gets; Decimal, datetime and the like as text."""
    if isinstance(event, Gap):
        return json.dumps({"type": "GAP", "lost": sorted(event.lost)})
    row = event.old_record if event.type == "DELETE" else event.record
    return json.dumps({"type": event.type, "row": row}, default=str)


@app.get("/orders")
async def orders(request: Request) -> StreamingResponse:
    """The stream of one browser; its iterator ends with it."""
    events = request.app.state.orders.listen(ORDERS, gaps(), buffer=100, overflow="drop_oldest")

    async def lines() -> AsyncIterator[str]:
        async with events:
            yield ": welcome\n\n"
            async for event in events:
                yield f"data: {as_json(event)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@app.get("/")
async def page() -> HTMLResponse:
    """A page that shows them."""
    return HTMLResponse("""<!doctype html><title>Orders</title><ul id="orders"></ul><script>
        new EventSource("/orders").onmessage = (message) => {
            const line = document.createElement("li");
            line.textContent = message.data;
            document.getElementById("orders").append(line);
        };
    </script>""")
