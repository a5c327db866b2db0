"""A chat with presence, relayed to browsers over WebSockets, with plain Starlette.

    SUPAWIRE_URL=… SUPAWIRE_KEY=… uvicorn starlette_relay:app

The relay is mounted as an application; `authorize` decides by the request who may see and send what.
"""

import os

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from supawire import broadcast, connect_async, presence
from supawire.asgi import Incoming, Relay, View


async def authorize(request: HTTPConnection) -> View:
    """Let everyone with a name into the room of the path, and let them send texts under that name only."""
    name = request.query_params.get("name", "")
    if not name:
        raise HTTPException(401, "who are you?")

    def accept(message: Incoming) -> Incoming | None:
        if message.event != "text" or not isinstance(message.payload, str):
            return None
        return Incoming(message.topic, "text", {"from": name, "text": message.payload[:500]})

    return View(f"room:{request.path_params['room']}", broadcast("text"), presence(), accept=accept)


relay = Relay(lambda: connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]), authorize)


async def page(request: Request) -> HTMLResponse:
    """Return the page of the chat."""
    return HTMLResponse(PAGE)


PAGE = """<!doctype html><title>Chat</title><pre id="texts"></pre><form><input autofocus></form><script>
let lastId = "", socket
const show = (text) => document.querySelector("#texts").append(text + "\\n")
function connect() {
    const address = new URL("live/lobby/", location)
    address.protocol = address.protocol.replace("http", "ws")
    address.search = new URLSearchParams({name: "alice", last_event_id: lastId})
    socket = new WebSocket(address)
    socket.onmessage = (message) => {
        const {event, id, data} = JSON.parse(message.data)
        lastId = id || lastId
        if (event === "broadcast") show(data.payload.from + ": " + data.payload.text)
        if (event === "gap") show("…")
    }
    socket.onclose = () => setTimeout(connect, 1000 + Math.random() * 2000)
}
connect()
document.forms[0].onsubmit = (submitted) => {
    submitted.preventDefault()
    const input = document.querySelector("input")
    socket.send(JSON.stringify({event: "text", payload: input.value}))
    input.value = ""
}
</script>"""

app = Starlette(routes=[Route("/", page), Mount("/live/{room}", relay)], lifespan=relay.lifespan)
