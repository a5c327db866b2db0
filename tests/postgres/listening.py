"""A client that joins with bindings and keeps what it is told: frames of version 2.0.0, nothing in between."""

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final

from websockets.sync.client import ClientConnection, connect

from supawire.server import LocalServer
from supawire.server.postgres.backend import BackendOptions, PostgresBackend

PATIENCE: Final = 30.0
"""Seconds for anything to happen on a machine that is busy."""
SUBSCRIBED: Final = "Subscribed to PostgreSQL"


class Listener:
    """One channel on a socket of its own. `frames` are the payloads of all events so far, by event."""

    def __init__(self, socket: ClientConnection, topic: str) -> None:
        self._socket = socket
        self.topic = topic
        self.frames: dict[str, list[Any]] = {}
        self.ids: list[int] = []

    def push(self, event: str, payload: dict[str, Any]) -> None:
        """Send something on the channel."""
        self._socket.send(json.dumps(["1", "1", f"realtime:{self.topic}", event, payload]))

    def read(self, timeout: float = PATIENCE) -> tuple[str, Any]:
        """Event and payload of the next frame."""
        *_, event, payload = json.loads(self._socket.recv(timeout), parse_float=Decimal)
        self.frames.setdefault(event, []).append(payload)
        return event, payload

    def raw(self, event: str, timeout: float = PATIENCE) -> str:
        """The next frame, which must be of this event, as it came: it may be nested deeper than Python reads."""
        frame = self._socket.recv(timeout)
        assert isinstance(frame, str)
        assert event in frame[:200]
        return frame

    def wait(self, event: str, fits: Callable[[Any], bool] = lambda _: True, timeout: float = PATIENCE) -> Any:
        """The payload of the next frame of this event that fits."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            came, payload = self.read(left)
            if came == event and fits(payload):
                return payload
        raise TimeoutError(event)

    def system(self) -> tuple[str, str]:
        """Status and message of the next `system` frame about changes."""
        payload = self.wait("system", lambda one: one["extension"] == "postgres_changes")
        return payload["status"], payload["message"]

    def change(self) -> dict[str, Any]:
        """The `data` of the next change."""
        return self.wait("postgres_changes")["data"]

    def change_in(self, timeout: float) -> dict[str, Any]:
        """The same within this time. Raises: TimeoutError."""
        return self.wait("postgres_changes", timeout=timeout)["data"]

    def changes(self, count: int) -> list[dict[str, Any]]:
        """So many of them."""
        return [self.change() for _ in range(count)]


class ServerWithOptions(LocalServer):
    """A server on this database with other timeouts than the real one."""

    def __init__(self, database: str, options: BackendOptions, *, prepare: bool = False) -> None:
        self._backend_options = options
        super().__init__(database=database, prepare=prepare)

    def _make_backend(self) -> PostgresBackend:
        return PostgresBackend(self._database, prepare=self._prepare, options=self._backend_options)


class Ear:
    """Makes listeners for a server."""

    def __init__(self, server: LocalServer) -> None:
        self.server: Final = server
        self._numbers = 0

    @contextmanager
    def join(self, *bindings: dict[str, Any], token: str | None = None, **claims: Any) -> Generator[Listener]:
        """Join with these bindings, by default as `authenticated`; what the database says of them is not read."""
        self._numbers += 1
        url = self.server.url.replace("http", "ws") + "/socket/websocket?vsn=2.0.0&apikey="
        token = token or self.server.token(**claims)
        with connect(url + token, max_size=None) as socket:
            listener = Listener(socket, f"ear-{self._numbers}")
            listener.push("phx_join", {"config": {"postgres_changes": list(bindings)}})
            reply = listener.wait("phx_reply")["response"]["postgres_changes"]
            listener.ids = [binding["id"] for binding in reply]
            yield listener

    @contextmanager
    def listen(self, *bindings: dict[str, Any], token: str | None = None, **claims: Any) -> Generator[Listener]:
        """Join, and be told that everything is live."""
        with self.join(*bindings, token=token, **claims) as listener:
            assert listener.system() == ("ok", SUBSCRIBED)
            yield listener


def of(table: str, event: str = "*", schema: str = "public", **more: Any) -> dict[str, Any]:
    """A binding."""
    return {"event": event, "schema": schema, "table": table, **more}
