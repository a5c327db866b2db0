"""The fuzzed parts, and the exceptions that each may raise."""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final

from supawire._values.filter_syntax import OPERATORS, check, matches, parse, problem
from supawire._values.rows import TYPES, decode_columns, decode_row, read_array, read_interval, unsent_columns
from supawire.core import binary
from supawire.core.codec import CODECS
from supawire.core.receive import LARGE_FRAME_BYTES
from supawire.errors import InvalidArgumentError, RemoteProtocolError, RowError
from supawire.events import Broadcast, ChannelState, PresenceSync
from supawire.options import PROTOCOLS
from supawire.server.bindings import bind
from supawire.server.postgres.pgoutput import StreamError, decode
from supawire.server.postgres.values import read_record
from supawire.transport.longpoll import decode_answer
from tests.core.busy_channel import Live, busy, still_receives
from tests.fuzz.engine import TEXTS, Target, any_json, dumped
from tests.server.world import World

EVENTS: Final = (
    "broadcast",
    "postgres_changes",
    "presence_state",
    "presence_diff",
    "system",
    "phx_reply",
    "phx_close",
    "phx_error",
    "phx_join",
    "phx_leave",
    "heartbeat",
    "access_token",
    "presence",
    "x",
)


class Codec:
    """Frames to the session of a client. An input is a line with the version and `text` or `binary`, then the frame."""

    name = "codec"
    words: tuple[bytes, ...] = (
        b"realtime:room",
        b"broadcast",
        b"postgres_changes",
        b"presence_diff",
        b"presence_state",
        b"system",
        b"phx_reply",
        b'"ids":[100]',
        b'"data":{"type":"INSERT","record":{"id":1}}',
        b'{"metas":[{"phx_ref":"1"}]}',
        b'"joins":',
        b'"leaves":',
        b'{"event":"e","payload":',
        b'"meta":{"id":"1","replayed":true}',
        b'"status":"ok"',
        b'"response":',
        b"\x04\x0d\x01\x00\x01",
    )

    def __init__(self) -> None:
        self._live: dict[str, Live] = {}
        self._count = 0

    def run(self, data: bytes) -> None:
        head, _, frame = data.partition(b"\n")
        protocol = PROTOCOLS[b"1.0.0" in head]
        with suppress(RemoteProtocolError):
            CODECS[protocol].plain(frame)
        live = self._live.get(protocol)
        if live is None or live[0].state(live[1]) is not ChannelState.JOINED:
            live = self._live[protocol] = busy(protocol)
        client, _, received = live
        receive = client.session.receive_large if len(frame) > LARGE_FRAME_BYTES else client.session.receive
        delivery = receive(client._generation, frame, b"binary" in head, client.now)
        for listener in delivery[0] if delivery else ():
            listener(delivery[1] if delivery else None)
        client.pump()
        for event in received:
            look_at(event)
        received.clear()
        client.effects.clear()
        self._count += 1
        if self._count % 1000 == 0:
            self._live.clear()
            fresh = busy(protocol)
            fresh[0].receive_raw(frame, binary=b"binary" in head)
            assert fresh[0].state(fresh[1]) is not ChannelState.JOINED or still_receives(fresh)

    def make(self, random: Random) -> bytes:
        version = random.choice(PROTOCOLS)
        if version == "2.0.0" and random.random() < 0.2:
            payload = random.choice((dumped(any_json(random)), random.randbytes(20)))
            meta = random.choice((b"", b'{"id":"1","replayed":true}', dumped(any_json(random))))[:255]
            packed = binary.pack(
                binary.USER_BROADCAST,
                b"realtime:room",
                random.choice((b"e", b"")),
                meta,
                payload=payload,
                json=random.random() < 0.5,
            )
            return b"2.0.0 binary\n" + packed
        topic, event, payload = "realtime:room", random.choice(EVENTS), self._payload(random)
        refs = random.choice(((None, None), ("1", "1"), (None, "3"), (1, 2), (any_json(random, 1), None)))
        if version == "2.0.0":
            return b"2.0.0 text\n" + dumped([*refs, topic, event, payload])
        whole = {"topic": topic, "event": event, "payload": payload, "ref": refs[1], "join_ref": refs[0]}
        return b"1.0.0 text\n" + dumped(whole)

    def _payload(self, random: Random) -> Any:
        metas = {name: {"metas": [{"phx_ref": random.choice(TEXTS), "x": any_json(random, 1)}]} for name in ("a", "b")}
        row = {random.choice(("id", "name")): any_json(random) for _ in range(2)}
        data = {
            "type": random.choice(("INSERT", "UPDATE", "DELETE", "TRUNCATE")),
            "record": row,
            "old_record": row,
            "columns": [{"name": "id", "type": random.choice([*TYPES])}],
            "errors": any_json(random, 1),
            "table": "users",
            "schema": "public",
            "commit_timestamp": random.choice(TEXTS),
        }
        wild = any_json(random)
        made: dict[str, Any] = random.choice(
            (
                {"event": "e", "payload": wild, "meta": {"id": random.choice(TEXTS), "replayed": True}},
                {"ids": random.choice(([100], [100, 101], [1], wild)), "data": data},
                metas,
                {"joins": metas, "leaves": random.choice((metas, {}, wild))},
                {"status": random.choice(("ok", "error")), "response": wild},
                {
                    "extension": random.choice(("postgres_changes", "system")),
                    "status": "error",
                    "message": random.choice(TEXTS),
                },
            )
        )
        for member in [*made]:
            if random.random() < 0.1:
                made[member] = any_json(random)
        return made


def look_at(event: Any) -> None:
    """Read every attribute that users can read; only `RowError` may be raised."""
    repr(event)
    for name in ("payload", "record", "row", "old_record", "columns", "errors", "commit_timestamp", "raw"):
        with suppress(RowError):
            getattr(event, name, None)
    if isinstance(event, Broadcast):
        return
    if isinstance(event, PresenceSync):
        for metas in event.state.values():
            for meta in metas:
                with suppress(RowError):
                    _ = meta.payload


class Rows:
    """Rows as a server sends them. An input is a line with the columns, then the row."""

    name = "rows"
    words: tuple[bytes, ...] = (
        *(one.encode() for one in TYPES),
        b'"_int4"',
        b'{"name":"c","type":"numeric"}',
        b'"{1,NULL,\\"a\\"}"',
    )

    def run(self, data: bytes) -> None:
        columns, _, record = data.partition(b"\n")
        listed = decode_columns(columns)
        assert all(isinstance(column.name, str) for column in listed)
        with suppress(RowError):
            unsent_columns(columns, decode_row(columns, record))
        text = record.decode("utf-8", "replace")
        for read in (read_array, read_interval, *(kind.read for kind in TYPES.values())):
            with suppress(ValueError):
                read(text)

    def make(self, random: Random) -> bytes:
        kinds = [random.choice([*TYPES, "jsonb", "_text", "_int4", "_numeric", "mood", "_mood"]) for _ in range(3)]
        columns = [{"name": f"c{place}", "type": kind} for place, kind in enumerate(kinds)]
        return dumped(columns) + b"\n" + dumped({f"c{place}": any_json(random) for place in range(len(kinds))})


class Filters:
    """Filters, as users write them and as clients send them. Lines: column type, value as text, filter."""

    name = "filters"
    words: tuple[bytes, ...] = (
        *(f".{op}.".encode() for op in OPERATORS),
        b"not.",
        b"a=",
        b",b=",
        b"(a,b)",
        b"[[:alpha:]]",
        b"(a+)+$",
        b"{2,255}",
        b"|",
        b"(?i)",
        b"\\m",
        b"\\1",
        b"***=",
        b"[^]]",
        b"%_\\%",
        b'"a\\"b"',
        b"null",
    )

    def run(self, data: bytes) -> None:
        kind, _, rest = data.decode("utf-8", "replace").partition("\n")
        value, _, text = rest.partition("\n")
        with suppress(InvalidArgumentError):
            check(text)
        bind({"event": "*", "schema": "public", "table": "t", "filter": text})
        bind({"event": "*", "schema": value, "table": text}).covers("INSERT", "public", value)
        try:
            conditions = parse(text)
        except InvalidArgumentError:
            return
        for condition in conditions:
            problem(condition, kind)
            problem(condition)
            assert matches([condition], {condition.column: value}, {condition.column: kind}) in (True, False)
            assert matches([condition], {condition.column: value}) in (True, False)

    def make(self, random: Random) -> bytes:
        op = random.choice(OPERATORS)
        pattern = "".join(
            random.choices(["a", "b", ".", "*", "+", "(", ")", "[", "]", "|", "{2}", "\\", "%", "_", "^", "$"], k=8)
        )
        operand = random.choice((pattern, random.choice(TEXTS), f"({pattern},{random.choice(TEXTS)})", f'"{pattern}"'))
        value = random.choice((*TEXTS, "a" * random.choice((1, 100, 10_000)) + "!"))
        negated = random.choice(("", "not."))
        return "\n".join(
            (random.choice([*TYPES, "jsonb", "mood", "_text"]), value, f"c={negated}{op}.{operand}")
        ).encode()


class LongPoll:
    """Answers to requests of long polling."""

    name = "longpoll"
    words: tuple[bytes, ...] = (
        b'{"status":200,"token":"t","messages":[]}',
        b'"status":410',
        b'"messages":["{}"]',
        b'"\\ud800"',
        b'"token":null',
        b"<html>",
    )

    def run(self, data: bytes) -> None:
        answer = decode_answer(data)
        if answer is not None:
            for message in answer.messages:
                message.encode()

    def make(self, random: Random) -> bytes:
        return dumped({"status": random.choice((200, 204, 410)), "token": "t", "messages": [any_json(random)]})


class Pgoutput:
    """Messages of PostgreSQL's replication stream, and texts of its records."""

    name = "pgoutput"
    words: tuple[bytes, ...] = (
        b"B",
        b"C",
        b"R",
        b"I",
        b"U",
        b"D",
        b"N",
        b"K",
        b"O",
        b"t\x00\x00\x00\x01a",
        b"n",
        b"u",
        b"public\x00",
        b"\x00\x01",
        b"\xff\xff\xff\xff",
        b'("a","b\\"",)',
        b"(,)",
    )

    def run(self, data: bytes) -> None:
        with suppress(StreamError):
            decode(data)
        text = data.decode("utf-8", "replace")
        for wanted in (text, f"({text})"):
            with suppress(ValueError):
                read_record(wanted)

    def make(self, random: Random) -> bytes:
        values = b"".join(
            random.choice((b"n", b"u", b"t" + len(text).to_bytes(4) + text)) for text in (b"1", b"abc", b"", b"{}")
        )
        row = random.choice((4, 4, 4, 5, 65_535)).to_bytes(2) + values
        return random.choice(
            (
                b"B" + random.randbytes(20),
                b"C" + random.randbytes(25),
                b"I\x00\x00\x00\x01N" + row,
                b"U\x00\x00\x00\x01" + random.choice((b"K", b"O")) + row + b"N" + row,
                b"D\x00\x00\x00\x01K" + row,
                b"R\x00\x00\x00\x01public\x00users\x00d\x00\x01\x01id\x00" + random.randbytes(8),
                b"Y\x00\x00\x00\x01\x00mood\x00",
            )
        )


class Hub:
    """Frames of a client and HTTP requests to the local server. Lines: `t` and a text frame, `b` and a binary frame,
    `h`, a path, a blank and a body; the first line is the version."""

    name = "hub"
    words: tuple[bytes, ...] = (
        b"\nt",
        b"\nb",
        b"\nh",
        b"phx_join",
        b"realtime:lab",
        b'"config":{',
        b'"postgres_changes":[{"event":"*","schema":"public"}]',
        b'"presence":{"key":"a","enabled":true}',
        b'"broadcast":{"ack":true,"self":true,"replay":{"since":1,"limit":5}}',
        b'"private":true',
        b'"access_token":',
        b'"filter":"id=eq.1"',
        b'"type":"presence","event":"track","payload":',
        b"\x03\x01\x01\x0c",
        b"/api/broadcast",
        b'{"messages":[{"topic":"lab","event":"e","payload":{}}]}',
    )

    def run(self, data: bytes) -> None:
        version, *lines = data.split(b"\n")
        world = World()
        client = world.connect(vsn="1.0.0" if version == b"1.0.0" else "2.0.0")
        for line in lines[:50]:
            kind, rest = line[:1], line[1:]
            if kind == b"h":
                path, _, body = rest.partition(b" ")
                world.rest(path.decode("utf-8", "replace"), body)
            elif client.closed is None:
                world.hub.receive(client.number, rest, kind == b"b", world.now)
                world.pump()
            if world.hub.next_deadline is not None and kind == b"w":
                world.run(1.0)
        world.emit("INSERT", "users", record={"id": 1, "name": "ada"})
        world.run(31.0)
        other = world.connect()
        other.join("realtime:other")
        assert other.received()[0][1]["status"] == "ok"

    def make(self, random: Random) -> bytes:
        frames = [self._join(random)]
        for number in range(random.randrange(4)):
            event = random.choice(EVENTS)
            topic = random.choice(("realtime:lab", "phoenix", "realtime:other"))
            payload = random.choice(
                (
                    any_json(random),
                    {"type": "broadcast", "event": "e", "payload": any_json(random)},
                    {"type": "presence", "event": random.choice(("track", "untrack")), "payload": any_json(random)},
                    {"access_token": random.choice(TEXTS)},
                )
            )
            frames.append(["1", str(number + 2), topic, event, payload])
        if random.random() < 0.3:
            messages = [{"topic": "lab", "event": "e", "payload": any_json(random)}, any_json(random)]
            request = b"\nh/api/broadcast " + dumped({"messages": messages})
        else:
            request = b""
        return b"2.0.0" + b"".join(b"\nt" + dumped(frame) for frame in frames) + request

    def _join(self, random: Random) -> list[Any]:
        binding = {"event": random.choice(("*", "INSERT")), "schema": "public", "table": random.choice(TEXTS)}
        binding |= random.choice(({}, {"filter": random.choice(("id=eq.1", "name=match.(a+)+$", *TEXTS))}))
        config: dict[str, Any] = {
            "broadcast": random.choice(({"ack": True, "self": True}, any_json(random))),
            "presence": random.choice(({"key": random.choice(TEXTS), "enabled": True}, any_json(random))),
            "postgres_changes": random.choice(([binding], [any_json(random)], any_json(random))),
            "private": random.choice((False, False, True, any_json(random))),
        }
        return ["1", "1", "realtime:lab", "phx_join", {"config": random.choice((config, config, any_json(random)))}]


TARGETS: Final[dict[str, Callable[[], Target]]] = {
    kind.name: kind for kind in (Codec, LongPoll, Rows, Filters, Pgoutput, Hub)
}
