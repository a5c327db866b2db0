"""Relay the changes of a table to browsers as server-sent events, with FastAPI.

    SUPAWIRE_URL=… SUPAWIRE_KEY=… uvicorn fastapi_relay:app --timeout-graceful-shutdown 1

The application has one client, opened and closed with it. Each browser has its own stream with a bounded buffer, so a
browser that does not read loses its oldest events and does not delay others. Gaps are relayed too, so that the page can
fetch its data again.
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
    """Join the channel before the first request, and leave it after the last."""
    async with connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]) as client:
        app.state.orders = client.channel("orders")
        # the join requests these changes from the start, so the streams of browsers need no new join
        app.state.orders.on(ORDERS, lambda change: None)
        await app.state.orders.subscribe(wait="ready")
        yield


app = FastAPI(lifespan=lifespan)


def as_json(event: Any) -> str:
    """Return the event as JSON; Decimal, datetime and similar values as text."""
    if isinstance(event, Gap):
        return json.dumps({"type": "GAP", "lost": sorted(event.lost)})
    row = event.old_record if event.type == "DELETE" else event.record
    return json.dumps({"type": event.type, "row": row}, default=str)


@app.get("/orders")
async def orders(request: Request) -> StreamingResponse:
    """Stream the changes to one browser until it disconnects."""
    events = request.app.state.orders.listen(ORDERS, gaps(), buffer=100, overflow="drop_oldest")

    async def lines() -> AsyncIterator[str]:
        async with events:
            yield ": welcome\n\n"
            async for event in events:
                yield f"data: {as_json(event)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@app.get("/")
async def page() -> HTMLResponse:
    """Return a page that shows the changes."""
    return HTMLResponse("""<!doctype html><title>Orders</title><ul id="orders"></ul><script>
        new EventSource("/orders").onmessage = (message) => {
            const line = document.createElement("li");
            line.textContent = message.data;
            document.getElementById("orders").append(line);
        };
    </script>""")
