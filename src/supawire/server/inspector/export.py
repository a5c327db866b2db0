"""Exports of the history: a recording, and a pytest that does the same again. Tokens are in neither.

The test calls the sync client as the recorded clients did, with the server's own actions (row changes, messages by
HTTP) in between, and asserts what arrived, in the same order. It is made to be read and changed.
"""

import re
from base64 import urlsafe_b64decode
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from keyword import iskeyword
from typing import Any, Final, NamedTuple

from supawire._display import hide_tokens, printable
from supawire.core.frames import (
    ACCESS_TOKEN,
    BROADCAST,
    HEARTBEAT,
    JOIN,
    LEAVE,
    POSTGRES_CHANGES,
    PREFIX,
    PRESENCE,
    PRESENCE_DIFF,
    PRESENCE_STATE,
    REPLY,
    SYSTEM,
)
from supawire.server.inspector.history import Entry, Kind
from supawire.server.inspector.journal import Parts, parts_of, status_of
from supawire.server.recorder import redact
from supawire.server.wire import DECODE_ERRORS, decode, encode, is_list, is_object

HEAD: Final = '''"""What clients did on a local server and what arrived, recorded {at}.

Written by the inspector of supawire. Needs supawire[server] and pytest.
"""
'''
UNTIL: Final = '''

def until(condition):
    """Wait until the condition holds."""
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")
'''
LIVE: Final = "Subscribed to PostgreSQL"
MAX_SENT: Final = 200
"""Number of recent messages with which one that arrived is compared."""
RESERVED: Final = frozenset(
    {
        "broadcast", "change", "changes", "closing", "connect", "list", "message", "presence", "pytest", "server",
        "set", "time", "until",
    }
)  # fmt: skip
"""Names that the test uses already."""
_WORD: Final = re.compile(r"[^a-z0-9]+")


def replay_test(entries: Sequence[Entry]) -> str:
    """Return the text of a test file that repeats the recorded entries."""
    return _Module(entries).text()


def recording(entries: Sequence[Entry]) -> str:
    """Return the frames in the format of recordings, which `Recording.load` of `supawire.testing` reads.

    As there, "out" is what a client sent and "in" what it received, and times are seconds since the first frame.
    """
    frames = [entry for entry in entries if entry.kind in (Kind.IN, Kind.OUT)]
    start = frames[0].at if frames else 0.0
    recorded_at = datetime.fromtimestamp(start, UTC)
    lines = [encode({"format": "supawire recording", "version": 1, "recorded_at": recorded_at})]
    for entry in frames:
        direction = "out" if entry.kind is Kind.IN else "in"
        content = {"binary": _without_tokens(entry)} if entry.binary else {"text": _text_without_tokens(entry.data)}
        at = round(entry.at - start, 6)
        lines.extend(
            encode({"at": at, "connection": connection, "direction": direction, **content})
            for connection in entry.connections
        )
    return "".join(f"{line.decode()}\n" for line in lines)


def _text_without_tokens(data: bytes) -> str:
    try:
        return hide_tokens(encode(redact(decode(data))).decode())
    except DECODE_ERRORS:
        return hide_tokens(data.decode(errors="replace"), any_parts=True)


def _without_tokens(entry: Entry) -> bytes:
    """Return a binary frame in which tokens of the payload are hidden. Only its header has lengths."""
    parts = parts_of(entry)
    payload = parts.payload
    head = entry.data[: len(entry.data) - len(payload)]
    value = _value(parts) if parts.json else None
    hidden = payload if value is None else encode(redact(value))
    return head + hide_tokens(hidden.decode("latin-1")).encode("latin-1")


_Topic = tuple[int, str]
"""A connection and a topic."""


class _Join(NamedTuple):
    """A join: the variables of the channel and of its stream of events, and whether it is private."""

    channel: str
    events: str
    private: bool


class _Module:
    """Writes one test file."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._parts = [parts_of(entry) if entry.kind in (Kind.IN, Kind.OUT) else Parts() for entry in entries]
        self._lines: list[str] = []
        self._clients: set[int] = set()
        self._joins: dict[_Topic, _Join] = {}
        self._left: dict[_Topic, str] = {}
        """Channels that were left: they must be removed before their topic is used again, with other options."""
        self._present: dict[_Topic, dict[str, set[str]]] = {}
        """The references of who is present, by presence key."""
        self._sent: deque[tuple[str, str, Any]] = deque(maxlen=MAX_SENT)
        """Broadcasts that clients sent or the test itself sends, as topic, event and payload."""
        self._replies: dict[tuple[int, str, str], Parts] = {}
        """By connection, topic and ref."""
        self._live: set[_Topic] = set()
        """Where changes were confirmed."""
        self._changes: dict[str, dict[str, Any]] = {}
        """The changes that are still to be written, by what identifies them; of several forms the widest."""
        self._index()
        self._names: set[str] = set()
        self._used: set[str] = set()
        """Names of supawire that the test imports."""
        self._private = False

    def _index(self) -> None:
        for entry, parts in zip(self._entries, self._parts, strict=True):
            if entry.kind is Kind.CHANGE:
                data = _object_in(entry.data)
                if len(data) and len(entry.data) > len(encode(self._changes.get(_identity(data), {}))):
                    self._changes[_identity(data)] = data
            elif entry.kind is Kind.OUT and parts.event == REPLY and parts.ref:
                for connection in entry.connections:
                    self._replies[connection, parts.topic, parts.ref] = parts
            elif entry.kind is Kind.OUT and parts.event == SYSTEM:
                value = _value(parts)
                if is_object(value) and value.get("message") == LIVE:
                    self._live.update((connection, parts.topic) for connection in entry.connections)

    def text(self) -> str:
        """Return the text of the file."""
        for at, entry in enumerate(self._entries):
            match entry.kind:
                case Kind.IN:
                    self._received(entry, self._parts[at])
                case Kind.OUT:
                    self._arrived(entry, self._parts[at])
                case Kind.CHANGE:
                    self._changed(entry)
                case Kind.OPENED:
                    self._client(entry.connections[0])
                case Kind.REFUSED:
                    self._refused(entry)
                case Kind.CLOSED:
                    self._closed(entry.connections[0])
        return self._module()

    def _module(self) -> str:
        at = datetime.fromtimestamp(self._entries[0].at if self._entries else 0, UTC)
        body = [*self._lines] or ["assert server.url"]
        if self._private:
            body.insert(0, "server.policy(lambda *question: True)  # the private joins below were allowed")
        names = sorted({"LocalServer", *self._used}, key=lambda name: (name.islower(), name))
        waits = any(line.startswith("until(") for line in body)
        raises = any("pytest.raises" in line for line in body)
        lines = [*["import time"] * waits, "from contextlib import ExitStack", ""]
        lines += [*["import pytest", ""] * raises, f"from supawire import {', '.join(names)}"]
        test = ["", "", "def test_recorded():", "    with LocalServer() as server, ExitStack() as closing:"]
        return (
            HEAD.format(at=f"{at:%Y-%m-%d %H:%M} UTC")
            + "\n"
            + "\n".join(lines)
            + "\n"
            + UNTIL * waits
            + "\n".join([*test, *(f"        {line}" for line in body)])
            + "\n"
        )

    def _add(self, line: str, *names: str) -> None:
        self._lines.append(hide_tokens(line))
        self._used.update(names)

    def _comment(self, text: str) -> None:
        self._add(f"# {printable(' '.join(text.split()), 200)}")

    def _unused(self, name: str) -> str:
        """Return a name that no other variable has."""
        base, number = _WORD.sub("_", name.lower()).strip("_") or "channel", 1
        base = f"room_{base}" if base[0].isdigit() or base in RESERVED or iskeyword(base) else base
        found = base
        while found in self._names:
            number += 1
            found = f"{base}_{number}"
        self._names.add(found)
        return found

    # --- connections

    def _client(self, connection: int) -> str:
        name = f"client_{connection}"
        if connection not in self._clients:
            self._clients.add(connection)
            self._add(f"{name} = closing.enter_context(connect(server.url, server.anon_key))", "connect")
        return name

    def _closed(self, connection: int) -> None:
        if connection in self._clients:
            self._clients.discard(connection)
            self._add(f"client_{connection}.close()")
        for kept in (self._joins, self._left, self._present):
            for key in [key for key in kept if key[0] == connection]:
                del kept[key]

    def _refused(self, entry: Entry) -> None:
        self._comment(f"a handshake was refused: {entry.data.decode(errors='replace')}")
        self._add(f"server.refuse_connections(status={entry.code})")
        self._add("with pytest.raises(RealtimeError):", "RealtimeError")
        self._add("    connect(server.url, server.anon_key, open_timeout=1)", "connect")
        self._add("server.accept_connections()")

    # --- frames from clients

    def _received(self, entry: Entry, parts: Parts) -> None:
        (connection,) = entry.connections
        if parts.event == HEARTBEAT or not parts.topic.startswith(PREFIX):
            return
        if parts.event == JOIN:
            self._join(connection, parts)
            return
        value = _value(parts)
        if parts.event == BROADCAST:
            self._broadcast(connection, parts, value)
        elif parts.event == LEAVE:
            join = self._joins.pop((connection, parts.topic), None)
            if join is not None:
                self._left[connection, parts.topic] = join.channel
                self._add(f"{join.channel}.unsubscribe()")
        elif parts.event == PRESENCE and is_object(value):
            join = self._channel(connection, parts.topic)
            payload = redact(value.get("payload"))
            call = f"track({payload!r})" if value.get("event") == "track" else "untrack()"
            self._add(f"{join.channel}.{call}")
        elif parts.event == ACCESS_TOKEN and is_object(value):
            self._add(f"{self._channel(connection, parts.topic).channel}.set_auth({_token(value) or 'None'})")
        else:
            self._comment(f"client {connection} sent {parts.event!r}, which this client does not send")

    def _join(self, connection: int, parts: Parts) -> None:
        payload = _value(parts)
        config = payload.get("config") if is_object(payload) else None
        config = config if is_object(config) else {}
        key = (connection, parts.topic)
        if (former := self._joins.pop(key, None)) is not None:
            self._left[key] = former.channel
        topic = parts.topic.removeprefix(PREFIX)
        options = _options(config)
        if is_object(payload) and (token := _token(payload)) is not None:
            options.append(f"token={token}")
        reply = self._replies.get((connection, parts.topic, parts.ref))
        if reply is not None and status_of(reply) not in ("", "ok"):
            self._join_refused(key, topic, options, _reason(_value(reply)))
            return
        join = self._open(key, topic, options, config)
        self._private = self._private or "private=True" in options
        ready = 'wait="ready"' if key in self._live else ""
        self._add(f"{join.channel}.subscribe({ready})")

    def _join_refused(self, key: _Topic, topic: str, options: list[str], reason: str) -> None:
        client, name = self._new_channel(key, topic, options)
        self._add(f"server.reject_join({topic!r}, {reason!r})")
        self._add("with pytest.raises(RealtimeError):", "RealtimeError")
        self._add(f"    {name}.subscribe(timeout=2)")
        self._add("server.reset_faults()")
        self._add(f"{client}.remove_channel({name})")

    def _new_channel(self, key: _Topic, topic: str, options: list[str]) -> tuple[str, str]:
        """Write a channel, and return the variables of its client and of the channel."""
        client, name = self._client(key[0]), self._unused(topic)
        if (former := self._left.pop(key, None)) is not None:
            self._add(f"{client}.remove_channel({former})")
        self._add(f"{name} = {client}.channel({', '.join([repr(topic), *options])})")
        return client, name

    def _open(self, key: _Topic, topic: str, options: list[str], config: dict[str, Any]) -> _Join:
        """Write a channel and its listeners."""
        _, name = self._new_channel(key, topic, options)
        join = self._joins[key] = _Join(name, self._unused(f"{name}_events"), "private=True" in options)
        bindings = config.get("postgres_changes")
        selectors = [*(_selector(each) for each in (bindings if is_list(bindings) else []) if is_object(each))]
        self._add(f"{join.events} = {name}.listen({', '.join(['broadcast()', *selectors])})", "broadcast")
        if selectors:
            self._used.add("changes")
        presence = config.get("presence")
        if is_object(presence) and presence.get("enabled"):
            self._add(f"{name}.on(presence(), lambda event: None)", "presence")
        return join

    def _channel(self, connection: int, topic: str) -> _Join:
        """Return the channel of a frame; one that was joined before the first entry is joined here."""
        key = (connection, topic)
        if (join := self._joins.get(key)) is None:
            join = self._open(key, topic.removeprefix(PREFIX), [], {})
            self._add(f"{join.channel}.subscribe()")
        return join

    def _broadcast(self, connection: int, parts: Parts, value: Any) -> None:
        event, payload = _message(parts, value)
        join = self._channel(connection, parts.topic)
        reply = self._replies.get((connection, parts.topic, parts.ref))
        if reply is not None and status_of(reply) not in ("", "ok"):
            self._comment(f"the server refused the next message: {_reason(_value(reply))}")
            self._comment(f"{join.channel}.broadcast({event!r}, {payload!r})")
            return
        self._sent.append((parts.topic, event, payload))
        self._add(f"{join.channel}.broadcast({event!r}, {payload!r})")

    # --- what arrived

    def _arrived(self, entry: Entry, parts: Parts) -> None:
        value = _value(parts)
        if parts.event == BROADCAST:
            self._message_arrived(entry, parts, value)
        elif parts.event == POSTGRES_CHANGES and is_object(value) and is_object(value.get("data")):
            data = redact(value["data"])
            rows = {name: data[name] for name in ("record", "old_record") if data.get(name) is not None}
            for join in self._receivers(entry, parts):
                self._add(f"change = {join.events}.get(timeout=5)")
                self._add(f"assert (change.type, change.table) == ({data.get('type')!r}, {data.get('table')!r})")
                for name, row in rows.items():
                    self._add(f"assert change.raw[{name!r}] == {row!r}")
        elif parts.event in (PRESENCE_STATE, PRESENCE_DIFF) and is_object(value):
            self._presence_arrived(entry, parts, value)
        elif parts.event == SYSTEM and status_of(parts) == "error":
            message = value.get("message") if is_object(value) else ""
            self._comment(f"the server said on {parts.topic}: {message}")

    def _receivers(self, entry: Entry, parts: Parts) -> Iterable[_Join]:
        for connection in entry.connections:
            if (join := self._joins.get((connection, parts.topic))) is not None:
                yield join

    def _message_arrived(self, entry: Entry, parts: Parts, value: Any) -> None:
        event, payload = _message(parts, value)
        meta = value.get("meta") if is_object(value) and not parts.user_event else None
        if is_object(meta) and meta.get("replayed"):
            self._comment(f"a stored message arrived again: {event}")
            return
        receivers = list(self._receivers(entry, parts))
        sent = (parts.topic, event, payload)
        if receivers and sent not in self._sent:
            more = ", private=True" if receivers[0].private else ""
            self._sent.append(sent)
            self._add(f"server.broadcast({parts.topic.removeprefix(PREFIX)!r}, {event!r}, {payload!r}{more})")
        for join in receivers:
            self._add(f"message = {join.events}.get(timeout=5)")
            self._add(f"assert (message.event, message.payload) == ({event!r}, {payload!r})")

    def _presence_arrived(self, entry: Entry, parts: Parts, value: dict[str, Any]) -> None:
        for connection in entry.connections:
            key = (connection, parts.topic)
            if (join := self._joins.get(key)) is None:
                continue
            here = self._present.setdefault(key, {})
            if parts.event == PRESENCE_STATE:
                here.clear()
            for name, refs in _refs(value if parts.event == PRESENCE_STATE else value.get("joins")):
                here.setdefault(name, set()).update(refs)
            for name, refs in _refs(value.get("leaves") if parts.event == PRESENCE_DIFF else None):
                here.setdefault(name, set()).difference_update(refs)
            names = ", ".join(repr(name) for name in sorted(here) if here[name])
            expected = f"{{{names}}}" if names else "set()"
            self._add(f"until(lambda: set({join.channel}.presence_state()) == {expected})")

    def _changed(self, entry: Entry) -> None:
        """Write the change of a row. Listeners for some columns give further entries of the same change."""
        data = self._changes.pop(_identity(_object_in(entry.data)), {})
        if data.get("type") not in ("INSERT", "UPDATE", "DELETE") or data.get("errors"):
            return
        rows = {name: redact(data.get(name)) for name in ("record", "old_record")}
        columns = data.get("columns")
        listed = [each for each in columns if is_object(each)] if is_list(columns) else []
        named = {str(each.get("name")): each.get("type") for each in listed}
        more = [f"{name}={row!r}" for name, row in rows.items() if row]
        more += [] if data.get("schema") == "public" else [f"schema={data.get('schema')!r}"]
        more += [f"columns={named!r}"] if named else []
        self._add(f"server.emit({', '.join([repr(data['type']), repr(data.get('table')), *more])})")


def _refs(entries: Any) -> Iterable[tuple[str, set[str]]]:
    """Yield each key of presence entries with the references of its entries."""
    for key, entry in entries.items() if is_object(entries) else ():
        metas = entry.get("metas") if is_object(entry) else None
        yield key, {str(meta.get("phx_ref")) for meta in (metas if is_list(metas) else []) if is_object(meta)}


def _identity(data: dict[str, Any]) -> str:
    """Return what is the same in all forms of a change."""
    keys = data.get("record") or data.get("old_record")
    key = keys.get("id") if is_object(keys) else None
    return repr([data.get(name) for name in ("commit_timestamp", "schema", "table", "type")] + [key])


def _value(parts: Parts) -> Any:
    try:
        return decode(parts.payload)
    except DECODE_ERRORS:
        return None


def _object_in(data: bytes) -> dict[str, Any]:
    try:
        value = decode(data)
    except DECODE_ERRORS:
        return {}
    return value if is_object(value) else {}


def _message(parts: Parts, value: Any) -> tuple[str, Any]:
    """Return event and payload of a broadcast, which has them in the frame or, as JSON, in the payload."""
    if parts.user_event:
        return parts.user_event, redact(value) if parts.json else parts.payload
    if is_object(value):
        return str(value.get("event")), redact(value.get("payload"))
    return "", None


def _reason(value: Any) -> str:
    response = value.get("response") if is_object(value) else None
    reason = response.get("reason") if is_object(response) else response
    return reason if isinstance(reason, str) else encode(response).decode()


def _options(config: dict[str, Any]) -> list[str]:
    """Return the options of a channel as keyword arguments."""
    broadcast, presence = config.get("broadcast"), config.get("presence")
    broadcast, presence = broadcast if is_object(broadcast) else {}, presence if is_object(presence) else {}
    given = {"private": config.get("private"), "echo": broadcast.get("self"), "ack": broadcast.get("ack")}
    options = [f"{name}=True" for name, value in given.items() if value is True]
    key = presence.get("key")
    return [*options, f"presence_key={key!r}"] if isinstance(key, str) and key else options


def _selector(binding: dict[str, Any]) -> str:
    """Return the selector of a binding for row changes."""
    defaults = {"schema": "public", "event": "*"}
    table = binding.get("table", "*")
    named = {name: binding.get(name) for name in ("schema", "event", "filter", "select")}
    more = [f"{name}={value!r}" for name, value in named.items() if value and value != defaults.get(name)]
    return f"changes({', '.join([*([] if table == '*' else [repr(table)]), *more])})"


def _token(payload: dict[str, Any]) -> str | None:
    """Return code that makes a token with the role and the user of a recorded one; None for the key of `anon`."""
    token = payload.get("access_token") or payload.get("user_token")
    if not isinstance(token, str):
        return None
    try:
        part = token.split(".")[1]
        claims = decode(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, *DECODE_ERRORS):
        return None
    role, user = (claims.get("role"), claims.get("sub")) if is_object(claims) else (None, None)
    if role in (None, "anon"):
        return None
    return f"server.token({role!r}{f', sub={user!r}' if isinstance(user, str) else ''})"
