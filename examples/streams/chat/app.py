"""A web application whose page shows the answer of a model as it grows, and keeps it over reloads.

    SUPAWIRE_URL=… SUPAWIRE_KEY=… uvicorn app:app

The page posts a question, and gets the id of the answer. The work is done by `worker.py`, another process, which
streams the answer. The page reads it with supabase-js and the module `streams.js` of supawire, and finds it again after
a reload by the id in its address.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse

from supawire import connect_async
from supawire.browser import STREAMS

HERE = Path(__file__).parent


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the client with the application."""
    async with connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]) as app.state.realtime:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/questions")
async def ask(request: Request) -> dict[str, str]:
    """Pass a question to the workers; return the id of its answer."""
    answer = uuid4().hex
    question = {"id": answer, "text": (await request.json())["text"]}
    await request.app.state.realtime.publish("questions", "asked", question)
    return {"id": answer}


@app.get("/streams.js")
async def streams() -> FileResponse:
    """Return the module that reads streams."""
    return FileResponse(STREAMS, media_type="text/javascript")


@app.get("/supabase.js")
async def library() -> FileResponse:
    """Return supabase-js, from the place where it is installed."""
    return FileResponse(os.environ["SUPABASE_JS"], media_type="text/javascript")


@app.get("/")
async def page() -> HTMLResponse:
    """Return the page, with the public address and key."""
    text = (HERE / "page.html").read_text(encoding="utf-8")
    text = text.replace("%URL%", os.environ["SUPAWIRE_URL"]).replace("%KEY%", os.environ["SUPAWIRE_KEY"])
    return HTMLResponse(text)
