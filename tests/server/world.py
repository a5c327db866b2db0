"""A hub under virtual time with clients that collect frames, without sockets and clocks."""

import base64
import json
from random import Random
from typing import Any

from supawire.core import binary
from supawire.events import Instant
from supawire.server.bindings import make_change
from supawire.server.effects import (
    Accepted,
    CloseSocket,
    Effect,
    Later,
    PauseReading,
    Refusal,
    Report,
    Request,
    Respond,
    RestAnswer,
    RestRequest,
    ResumeReading,
    Send,
    SendQuery,
    Unsubscribe,
)
from supawire.server.hub import Hub
from supawire.server.hub_options import HubOptions
from supawire.server.queries import Answer, Query
from supawire.server.tokens import sign

SECRET = "a-secret-that-is-long-enough-for-hs256-signing"
START = 1_800_000_000.0


class Client:
    """The client side of one socket. `got` holds every frame received: parsed JSON, or the bytes of a binary frame."""

    def __init__(self, world: "World", number: int, v2: bool) -> None:
        self.world = world
        self.number = number
        self.v2 = v2
        self.got: list[Any] = []
        self.times: list[float] = []
        self.closed: tuple[int | None] | None = None
        self.reading: list[str] = []
        self._ref = 0

    def push(self, topic: Any, event: Any, payload: Any, *, ref: Any = ..., join_ref: Any = None) -> Any:
        """Send a text frame and return its ref."""
        if ref is ...:
            self._ref += 1
            ref = str(self._ref)
        frame: Any = [join_ref, ref, topic, event, payload]
        if not self.v2:
            frame = {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": join_ref}
        self.raw(json.dumps(frame))
        return ref

    def raw(self, data: str | bytes) -> None:
        """Send bytes: a str as a text frame, bytes as a binary frame."""
        raw = data.encode() if isinstance(data, str) else data
        self.world.hub.receive(self.number, raw, isinstance(data, bytes), self.world.now)
        self.world.pump()

    def text(self, data: bytes) -> None:
        """Send bytes as a text frame."""
        self.world.hub.receive(self.number, data, False, self.world.now)
        self.world.pump()

    def join(self, topic: str = "realtime:lab", config: dict[str, Any] | None = None, **more: Any) -> str:
        """Join and return the ref, which is also the join_ref."""
        self._ref += 1
        ref = str(self._ref)
        payload = {"config": config or {}, **more}
        self.push(topic, "phx_join", payload, ref=ref, join_ref=ref)
        return ref

    def user_push(self, topic: str, event: str, payload: bytes, *, json: bool, join_ref: str = "1") -> None:
        """Send a binary broadcast (kind 3)."""
        self._ref += 1
        fields = join_ref.encode(), str(self._ref).encode(), topic.encode(), event.encode(), b""
        self.raw(binary.pack(binary.USER_PUSH, *fields, payload=payload, json=json))

    def track(self, topic: str, payload: Any, join_ref: str = "1") -> Any:
        """Track a payload."""
        return self.push(
            topic, "presence", {"type": "presence", "event": "track", "payload": payload}, join_ref=join_ref
        )

    def take(self) -> list[Any]:
        """Return and remove the received frames."""
        got, self.got = self.got, []
        return got

    def events(self, name: str) -> list[Any]:
        """Return the payloads of the frames of this event since the last `take`."""
        return [event.payload for event in map(self.parts, self.got) if event.event == name]

    def parts(self, frame: Any) -> "Parts":
        """Return the parts of a received frame of either version."""
        if isinstance(frame, bytes):
            return Parts(None, None, "", "binary", frame)
        if isinstance(frame, dict):
            return Parts(None, frame["ref"], frame["topic"], frame["event"], frame["payload"])
        return Parts(*frame)

    def received(self) -> list[tuple[str, Any]]:
        """Return event and payload of the frames since the last `take`."""
        return [(part.event, part.payload) for part in map(self.parts, self.got)]

    def disconnect(self) -> None:
        """Lose the connection."""
        self.world.hub.disconnected(self.number, self.world.now)
        self.world.pump()


class Parts:
    """The parts of a frame."""

    def __init__(self, join_ref: Any, ref: Any, topic: Any, event: Any, payload: Any) -> None:
        self.join_ref = join_ref
        self.ref = ref
        self.topic = topic
        self.event = event
        self.payload = payload


class World:
    """A hub, its clients and its virtual time."""

    def __init__(self, **options: Any) -> None:
        self.now = Instant(1000.0, START)
        self.hub = Hub(HubOptions(secret=SECRET, **options), Random(7))
        self.clients: dict[int, Client] = {}
        self.reports: list[str] = []
        self.pending: dict[int, Query[Any]] = {}
        """Questions of the hub that were not answered yet; only with `database=True`."""
        self.unsubscribed: list[int] = []
        self.responses: dict[int, RestAnswer] = {}
        self.later = 0
        """The number of the last REST answer that was not there at once."""

    def token(self, role: str | None = "authenticated", lasts: float | None = 3600, **claims: Any) -> str:
        """Return a token that expires in virtual time."""
        base: dict[str, Any] = {} if role is None else {"role": role}
        if lasts is not None:
            base["exp"] = int(self.now.wall + lasts)
        return sign({**base, **claims}, SECRET)

    def connect(self, *, vsn: str = "2.0.0", token: str | None = None, host: str = "localhost:4000") -> Client:
        """Return a client whose handshake is accepted."""
        number = len(self.clients) + 1
        client = self.clients[number] = Client(self, number, vsn.startswith("2"))
        answer = self.handshake(number, {"vsn": vsn, "apikey": token or self.token()}, host=host)
        assert isinstance(answer, Accepted), answer
        assert answer.v2 is client.v2
        return client

    def handshake(
        self,
        number: int,
        query: dict[str, str],
        *,
        host: str = "localhost",
        headers: dict[str, str] | None = None,
    ) -> Accepted | Refusal:
        """Return the answer to an upgrade request."""
        answer = self.hub.connect(number, Request(host, query, headers or {}), self.now)
        self.pump()
        return answer

    def rest(self, path: str, body: Any = b"", **fields: Any) -> RestAnswer:
        """Return the answer to a POST; `body` is JSON unless it is bytes."""
        headers = {"authorization": f"Bearer {self.token()}", "content-type": "application/json"}
        headers |= fields.pop("headers", {})
        headers = {name: value for name, value in headers.items() if value}
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = RestRequest(
            fields.pop("method", "POST"), path, fields.pop("host", "localhost"), headers=headers, body=raw, **fields
        )
        answer = self.hub.rest(request, self.now)
        self.pump()
        if isinstance(answer, Later):
            self.later = answer.number
            return self.responses.get(answer.number, PENDING)
        return answer

    def answer(self, answer: Answer, number: int | None = None) -> Query[Any]:
        """Answer the oldest pending query, or the one of this number, and return the query."""
        number = next(iter(self.pending)) if number is None else number
        query = self.pending.pop(number)
        self.hub.answered(number, answer, self.now)
        self.pump()
        return query

    def emit(self, type: str, table: str, **row: Any) -> None:
        """Emit a row change."""
        self.hub.emit(make_change(type, table, **row), self.now)
        self.pump()

    def fault(self, name: str, *args: Any, **more: Any) -> None:
        """Inject a fault."""
        self.hub.at(self.now)
        getattr(self.hub.faults, name)(*args, **more)
        self.pump()

    def pump(self) -> None:
        """Perform the effects of the hub."""
        while (effect := self.hub.next_effect()) is not None:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Report):
            self.reports.append(effect.text)
            return
        if isinstance(effect, SendQuery):
            assert self.hub.options.database, "a query to a database that is not there"
            self.pending[effect.number] = effect.query
            return
        if isinstance(effect, Unsubscribe):
            self.unsubscribed.append(effect.channel)
            return
        if isinstance(effect, Respond):
            self.responses[effect.number] = effect.answer
            return
        client = self.clients.get(effect.conn)
        if client is None:
            return
        if isinstance(effect, Send):
            assert client.closed is None, "a frame after the close"
            client.got.append(effect.data if effect.binary else loads(effect.data))
            client.times.append(self.now.mono - 1000.0)
        elif isinstance(effect, CloseSocket):
            client.closed = (effect.code,)
        elif isinstance(effect, PauseReading | ResumeReading):
            client.reading.append(type(effect).__name__)

    def run(self, seconds: float) -> None:
        """Advance the time, stopping at every deadline."""
        end = self.now.mono + seconds
        while (deadline := self.hub.next_deadline) is not None and deadline <= end:
            self._pass(max(deadline, self.now.mono))
            self.hub.tick(self.now)
            self.pump()
        self._pass(end)

    def _pass(self, mono: float) -> None:
        self.now = Instant(mono, self.now.wall + mono - self.now.mono)


def loads(data: bytes) -> Any:
    """Return the JSON value of a frame, or its text when it is not JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode(errors="replace")


def unsigned(header: dict[str, Any], signature: str = "") -> str:
    """Return a token with this header, valid claims, and this signature."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part({'role': 'service_role', 'exp': int(START) + 60})}.{signature}"


PENDING = RestAnswer(0)
"""What `World.rest` returns when the answer comes later."""
OK = {"status": "ok", "response": {}}


def denied(reason: str) -> dict[str, Any]:
    """Return the payload of a refused join."""
    return {"status": "error", "response": {"reason": reason}}


def system(message: str, *, status: str = "error", extension: str = "system", channel: str = "lab") -> dict[str, Any]:
    """Return the payload of a system frame."""
    return {"message": message, "status": status, "extension": extension, "channel": channel}
