"""Clients that join with bindings and store what they receive: plain frames of version 2.0.0."""

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final, LiteralString, cast

import psycopg
import pytest
from websockets.sync.client import ClientConnection, connect

from supawire.server import LocalServer
from supawire.server.postgres.backend import BackendOptions, PostgresBackend

PATIENCE: Final = 30.0
"""Seconds for anything to happen on a machine that is busy."""
SUBSCRIBED: Final = "Subscribed to PostgreSQL"


class Listener:
    """One channel on its own socket. `frames` has the payloads of all events so far, by event."""

    def __init__(self, socket: ClientConnection, topic: str) -> None:
        self._socket = socket
        self.topic = topic
        self.frames: dict[str, list[Any]] = {}
        self.ids: list[int] = []

    def push(self, event: str, payload: dict[str, Any]) -> None:
        """Push an event on the channel."""
        self._socket.send(json.dumps(["1", "1", f"realtime:{self.topic}", event, payload]))

    def read(self, timeout: float = PATIENCE) -> tuple[str, Any]:
        """Return event and payload of the next frame."""
        *_, event, payload = json.loads(self._socket.recv(timeout), parse_float=Decimal)
        self.frames.setdefault(event, []).append(payload)
        return event, payload

    def raw(self, event: str, timeout: float = PATIENCE) -> str:
        """Return the next frame as text.

        It must be of this event; it may be nested more deeply than Python can parse.
        """
        frame = self._socket.recv(timeout)
        assert isinstance(frame, str)
        assert event in frame[:200]
        return frame

    def wait(self, event: str, fits: Callable[[Any], bool] = lambda _: True, timeout: float = PATIENCE) -> Any:
        """Return the payload of the next frame of this event that fits."""
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

    @property
    def has_no_further_status(self) -> bool:
        """Return whether no `system` frame was received except the first confirmation."""
        return [one["message"] for one in self.frames["system"]] == [SUBSCRIBED]

    def change(self) -> dict[str, Any]:
        """Return the `data` of the next change."""
        return self.wait("postgres_changes")["data"]

    def change_in(self, timeout: float) -> dict[str, Any]:
        """Return the `data` of the next change. Raises: TimeoutError when none arrives within this time."""
        return self.wait("postgres_changes", timeout=timeout)["data"]

    def changes(self, count: int) -> list[dict[str, Any]]:
        """Return the `data` of the next changes."""
        return [self.change() for _ in range(count)]


class ServerWithOptions(LocalServer):
    """A server on this database with other timeouts than the real one."""

    def __init__(self, database: str, options: BackendOptions, *, prepare: bool = False) -> None:
        self._backend_options = options
        super().__init__(database=database, prepare=prepare)

    def _make_backend(self) -> PostgresBackend:
        return PostgresBackend(self._database, prepare=self._prepare, options=self._backend_options)


class Listeners:
    """Creates listeners for a server."""

    def __init__(self, server: LocalServer) -> None:
        self.server: Final = server
        self._numbers = 0

    @contextmanager
    def join(self, *bindings: dict[str, Any], token: str | None = None, **claims: Any) -> Generator[Listener]:
        """Join with these bindings, by default as `authenticated`; the status of the subscription is not read."""
        self._numbers += 1
        url = self.server.url.replace("http", "ws") + "/socket/websocket?vsn=2.0.0&apikey="
        token = token or self.server.token(**claims)
        with connect(url + token, max_size=None) as socket:
            listener = Listener(socket, f"listeners-{self._numbers}")
            listener.push("phx_join", {"config": {"postgres_changes": list(bindings)}})
            reply = listener.wait("phx_reply")["response"]["postgres_changes"]
            listener.ids = [binding["id"] for binding in reply]
            yield listener

    @contextmanager
    def listen(self, *bindings: dict[str, Any], token: str | None = None, **claims: Any) -> Generator[Listener]:
        """Join, and wait until the bindings are active."""
        with self.join(*bindings, token=token, **claims) as listener:
            assert listener.system() == ("ok", SUBSCRIBED)
            yield listener


def of(table: str, event: str = "*", schema: str = "public", **more: Any) -> dict[str, Any]:
    """Return a binding."""
    return {"event": event, "schema": schema, "table": table, **more}


def wait_until_logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Return when the log contains these words."""
    end = time.monotonic() + PATIENCE
    while words not in caplog.text:
        assert time.monotonic() < end
        time.sleep(0.005)


def insert_until_received(
    sql: psycopg.Connection[tuple[Any, ...]], listener: Listener, table: str, first: int
) -> tuple[int, int]:
    """Insert rows until one is received; return their count, and the number of the first one received."""
    number = first
    while True:
        sql.execute(cast("LiteralString", f"insert into {table} (id) values ({number})"))
        try:
            return number - first + 1, listener.change_in(0.1)["record"]["id"]
        except TimeoutError:
            number += 1
