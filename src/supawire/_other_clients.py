"""Names and calls of supabase-js, realtime-py and supabase-py, and what to write here instead.

People and coding agents write them by habit. Each raises an error that shows the line to write. The rows below are the
only place of these facts: the errors, the page and its tests use them. Nothing here runs before a name is missing or a
call is wrong.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Final, Literal, NamedTuple, NoReturn, TypeVar, cast

from supawire._display import brief
from supawire._validation import NoAttributeError, NotSupportedError
from supawire.errors import InvalidArgumentError, StateError

F = TypeVar("F", bound=Callable[..., Any])
K = TypeVar("K")

Where = Literal[
    "supawire",
    "client",
    "channel",
    "change",
    "insert",
    "delete",
    "message",
    "entry",
    "presence event",
    "presence state",
]


class Name(NamedTuple):
    """A row: names that another client has in this place, a line of code that works here, and a remark.

    Names are in snake_case; the same in camelCase is found as well. The line is for the async client; the sync client's
    is the same without `await` and `_async`.
    """

    where: Where
    names: tuple[str, ...]
    write: str
    remark: str = ""


_OPEN: Final = "client = await connect_async(url, key)"
_JOINED: Final = "channel.state is ChannelState.JOINED"
_QUERIES: Final = "Tables, sign-in and storage stay in the package supabase."

NAMES: Final = (
    Name("supawire", ("create_client", "RealtimeClient", "SyncRealtimeClient"), "client = connect(url, key)"),
    Name("supawire", ("acreate_client", "create_async_client", "AsyncRealtimeClient"), _OPEN),
    Name(
        "supawire",
        ("RealtimeChannel", "AsyncRealtimeChannel", "SyncRealtimeChannel"),
        'channel = client.channel("room")',
        "The classes are Channel and AsyncChannel.",
    ),
    Name(
        "supawire",
        ("RealtimeSubscribeStates", "REALTIME_SUBSCRIBE_STATES"),
        "await channel.subscribe()",
        "It returns when the channel is joined and raises when the join is refused.",
    ),
    Name("supawire", ("ChannelStates", "REALTIME_CHANNEL_STATES"), _JOINED),
    Name(
        "supawire",
        ("RealtimePostgresChangesListenEvent", "REALTIME_POSTGRES_CHANGES_LISTEN_EVENT"),
        'changes("orders", event="INSERT")',
    ),
    Name("supawire", ("RealtimePostgresChangesPayload", "PostgresChangesPayload"), "isinstance(change, Insert)"),
    Name("supawire", ("REALTIME_LISTEN_TYPES",), 'channel.on(broadcast("typing"), handler)'),
    Name(
        "supawire",
        ("RealtimePresenceListenEvents", "REALTIME_PRESENCE_LISTEN_EVENTS"),
        "channel.on(presence(), handler)",
    ),
    Name(
        "supawire",
        ("postgres_changes_filter", "RealtimePostgresFilterBuilder"),
        'changes("orders", where=col("total") >= 100)',
    ),
    Name("supawire", ("NotConnectedError",), "StateError"),
    Name("supawire", ("AuthorizationError",), "JoinDeniedError"),
    Name("supawire", ("RealtimeHTTPError",), "HttpError"),
    Name("client", ("connect",), _OPEN, "The client is open already, and reconnects by itself."),
    Name("client", ("disconnect",), "await client.close()"),
    Name("client", ("get_channels",), "list(client.channels.values())"),
    Name("client", ("is_connected", "connection_state"), "client.state is ConnectionState.OPEN"),
    Name("client", ("realtime",), 'channel = client.channel("room")'),
    Name("client", ("on", "on_postgres_changes"), 'client.channel("room").on(changes("orders"), handler)'),
    Name("client", ("subscribe",), 'await client.channel("room").subscribe()'),
    Name(
        "client",
        ("send", "push", "send_broadcast"),
        'await client.channel("room").broadcast("typing", {"user": "alice"})',
    ),
    Name("client", ("on_heartbeat", "send_heartbeat"), "client.listen(heartbeats=True)"),
    Name("client", ("on_open", "on_close", "on_error", "on_message"), "client.listen()"),
    Name(
        "client",
        ("table", "from_", "rpc", "schema", "postgrest", "auth", "storage", "functions"),
        "client = await from_supabase_async(supabase)",
        _QUERIES,
    ),
    Name("client", ("access_token",), "await client.set_auth(token)"),
    Name("channel", ("on_postgres_changes",), 'channel.on(changes("orders", event="INSERT"), handler)'),
    Name("channel", ("on_broadcast",), 'channel.on(broadcast("typing"), handler)'),
    Name(
        "channel",
        ("on_presence_sync", "on_presence_join", "on_presence_leave"),
        "channel.on(presence(), handler)",
        "The handler gets one event: PresenceSync, PresenceJoin, PresenceLeave or PresenceUpdate.",
    ),
    Name("channel", ("on_system",), "channel.on(system(), handler)"),
    Name("channel", ("on_close", "on_error"), "channel.on(status(), handler)"),
    Name("channel", ("send", "push", "send_broadcast"), 'await channel.broadcast("typing", {"user": "alice"})'),
    Name("channel", ("http_send",), 'await client.publish(channel.topic, "typing", {"user": "alice"})'),
    Name("channel", ("send_presence",), 'await channel.track({"user": "alice"})'),
    Name("channel", ("join",), "await channel.subscribe()"),
    Name("channel", ("leave",), "await channel.unsubscribe()"),
    Name("channel", ("teardown",), "await client.remove_channel(channel)"),
    Name("channel", ("is_joined", "is_joining", "is_leaving", "is_errored", "is_closed", "joined_once"), _JOINED),
    Name("channel", ("presence",), "channel.presence_state()"),
    Name("channel", ("params", "config"), "channel.options"),
    Name("insert", ("old", "old_record"), "change.record", "An inserted row has no old one."),
    Name(
        "delete",
        ("new", "new_record", "record", "row", "data", "get"),
        "change.old_record",
        "A deleted row has no new one; the old one has the key, or all columns with REPLICA IDENTITY FULL.",
    ),
    Name("change", ("new", "new_record", "data", "payload", "get"), "change.record"),
    Name("change", ("old",), "change.old_record"),
    Name("change", ("event", "event_type"), "change.type"),
    Name("message", ("data", "message", "get"), "message.payload"),
    Name("message", ("type",), "message.event"),
    Name("message", ("meta",), "message.replayed"),
    Name("entry", ("presence_ref", "phx_ref"), "entry.ref"),
    Name("entry", ("phx_ref_prev",), "entry.previous_ref"),
    Name("entry", ("data", "metas", "get"), "entry.payload"),
    Name("presence event", ("new_presences", "current_presences", "joins", "get"), "event.current"),
    Name("presence event", ("left_presences", "leaves"), "event.previous"),
    Name("presence state", ("current", "current_presences", "presences", "joins", "leaves", "get"), "event.state"),
)

CALLS: Final = (
    (
        'channel.on("postgres_changes", {"event": "INSERT", "schema": "public", "table": "orders"}, handler)',
        'channel.on(changes("orders", event="INSERT"), handler)',
    ),
    (
        'channel.on("postgres_changes", event="UPDATE", schema="app", table="orders", filter="id=gt.1", cb=handler)',
        'channel.on(changes("orders", schema="app", event="UPDATE", filter="id=gt.1"), handler)',
    ),
    ('channel.on("postgres_changes", {"event": "*"}, handler)', "channel.on(changes(), handler)"),
    ('channel.on("INSERT", handler)', 'channel.on(changes("orders", event="INSERT"), handler)'),
    ('channel.on("broadcast", {"event": "typing"}, handler)', 'channel.on(broadcast("typing"), handler)'),
    ('channel.on("presence", {"event": "sync"}, handler)', "channel.on(presence(), handler)"),
    ('channel.on("system", {}, handler)', "channel.on(system(), handler)"),
    ("await channel.subscribe(handler)", "await channel.subscribe()"),
    (
        'client.channel("lobby", {"config": {"private": True, "broadcast": {"self": True, "ack": True}}})',
        'client.channel("lobby", private=True, echo=True, ack=True)',
    ),
    (
        'client.channel("lobby", params={"config": {"presence": {"key": "alice", "enabled": True}}})',
        'client.channel("lobby", presence_key="alice")',
    ),
    ('changes({"event": "INSERT", "schema": "public", "table": "orders"})', 'changes("orders", event="INSERT")'),
    ('changes("orders", "id=eq.1")', 'changes("orders", filter="id=eq.1")'),
    ('changes("INSERT", "orders")', 'changes("orders", event="INSERT")'),
    ('changes("public:orders:id=eq.1")', 'changes("orders", filter="id=eq.1")'),
    ('broadcast({"event": "typing"})', 'broadcast("typing")'),
    ('presence({"event": "sync"})', "presence()"),
    ('presence(event="join")', "presence()"),
)
"""Calls in the form of another client, and the right ones, which the functions below write from the arguments."""

_CHANGE_EVENTS: Final = ("INSERT", "UPDATE", "DELETE", "*")
_LISTENERS: Final = ("postgres_changes", "broadcast", "presence", "system")
_SNAKE: Final = re.compile(r"(?<=[a-z0-9])_([a-z])")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])[A-Z]")
_TABLE: Final = {(row.where, name): row for row in NAMES for name in row.names}
_OPTIONS: Final = {
    ("private",): "private",
    ("broadcast", "self"): "echo",
    ("broadcast", "ack"): "ack",
    ("broadcast", "replication_ready"): "replication_ready",
    ("broadcast", "replay", "since"): "replay_since",
    ("broadcast", "replay", "limit"): "replay_limit",
    ("presence", "key"): "presence_key",
}
"""Where the options of a channel are in the `config` of other clients, and their names here."""


class MissingNameError(StateError, ImportError):
    """A `StateError` for `from supawire import ...`, which is also an ImportError."""


def sync_form(line: str) -> str:
    """Return a line of code for the sync client."""
    return line.replace("await ", "").replace("_async(", "(")


# --- names


def explain_attribute(*where: Where, sync: bool = False) -> Callable[[Any, str], Any]:
    """Return a `__getattr__` that explains names of other clients.

    For all others it raises Python's own error, also the AttributeError of a property of the object.
    """

    def __getattr__(self: object, name: str) -> Any:  # noqa: N807
        row = None if name.startswith("_") else _find(where, self, name)
        if row is None:
            return object.__getattribute__(self, name)
        kind = type(self).__name__
        topic = getattr(self, "topic", None)
        raise NoAttributeError(f"{kind!r} object has no attribute {name!r}", topic=topic, hint=_hint(row, sync=sync))

    return __getattr__


class _OtherName:
    """A name of another client on a class: reading it raises the error that shows the line to write here."""

    __slots__ = ("_explain", "_name")

    def __init__(self, name: str, explain: Callable[[Any, str], Any]) -> None:
        self._name = name
        self._explain = explain

    def __get__(self, it: object, kind: type) -> Any:
        if it is None:
            raise AttributeError(f"type object {kind.__name__!r} has no attribute {self._name!r}")
        return self._explain(it, self._name)


def _is_own(kind: type, name: str) -> bool:
    return not isinstance(inspect.getattr_static(kind, name, None), _OtherName)


class WithoutOtherNames(type):
    """The metaclass of the classes with `explain_names`: `dir()` of them shows their own names only."""

    def __dir__(cls) -> list[str]:
        return [name for name in super().__dir__() if _is_own(cls, name)]


def explain_names(where: Where, *, sync: bool = False) -> Callable[[type[K]], type[K]]:
    """Decorate a class, so that names of other clients on its objects raise an error that shows what to write.

    They are attributes of the class, because a `__getattr__` would make every attribute of the objects slower.
    """

    def decorate(kind: type[K]) -> type[K]:
        explain = explain_attribute(where, sync=sync)
        found = [name for place, name in _TABLE if place == where]
        words = [*found, *(name for name in dir(kind) if not name.startswith("_"))]
        names = {spelling for name in words for spelling in (name, _SNAKE.sub(lambda it: it[1].upper(), name))}
        for name in names:
            if not hasattr(kind, name):
                setattr(kind, name, _OtherName(name, explain))

        def __dir__(self: object) -> list[str]:  # noqa: N807
            return [name for name in object.__dir__(self) if _is_own(type(self), name)]

        setattr(kind, "__dir__", __dir__)  # noqa: B010  the checker knows no such assignment
        return kind

    return decorate


def explain_item(*where: Where) -> Callable[[Any, object], Any]:
    """Return a `__getitem__` for an event, which has attributes and no items."""

    def __getitem__(self: object, key: object) -> NoReturn:  # noqa: N807
        row = _find(where, self, key, item=True) if isinstance(key, str) else None
        if row is None and where == ("entry",):
            row = Name("entry", (), f"entry.payload[{_text(key)}]")
        hint = "It has attributes: print it to see them." if row is None else _hint(row)
        raise NotSupportedError(f"{type(self).__name__!r} object is not subscriptable", hint=hint)

    return __getitem__


def explain_import(name: str, caller: FrameType | None) -> AttributeError | ImportError | None:
    """Return the error for a name of another client that the package does not have, None for any other name.

    `from supawire import name` shows only an ImportError, everything else needs an AttributeError.
    """
    row = _find(("supawire",), None, name)
    if row is None:
        return None
    if _imports_from(caller):
        return MissingNameError(f"cannot import name {name!r} from 'supawire'", hint=_hint(row))
    return NoAttributeError(f"module 'supawire' has no attribute {name!r}", hint=_hint(row))


def _imports_from(caller: FrameType | None) -> bool:
    """Return whether this frame executes `from ... import`."""
    import dis

    if caller is None:
        return False
    return caller.f_code.co_code[caller.f_lasti] == dis.opmap["IMPORT_FROM"]


def _find(where: tuple[Where, ...], it: object, name: str, *, item: bool = False) -> Name | None:
    """Return the row of a name. A name in camelCase, or an item, that is an attribute here gets a row of its own."""
    snake = _CAMEL.sub(lambda letter: f"_{letter[0].lower()}", name)
    for each in where:
        for spelling in (name, snake):
            if (row := _TABLE.get((each, spelling))) is not None:
                return row
    if it is not None and (item or snake != name) and not snake.startswith("_") and hasattr(type(it), snake):
        subject = "event" if where[-1].startswith("presence") else where[-1]
        return Name(where[-1], (), f"{subject}.{snake}")
    return None


def _hint(row: Name, *, sync: bool = False) -> str:
    line = sync_form(row.write) if sync else row.write
    return f"Write {line}" + (f". {row.remark}" if row.remark else "")


# --- calls


def takes_misuse(function: F) -> F:
    """Hide the parameters `misplaced` and `misnamed` in the signature that `help`, mocks and the reference show.

    A function has them to explain a call in the form of another client.
    """
    shown = inspect.signature(function)
    kept = [each for name, each in shown.parameters.items() if name not in ("misplaced", "misnamed")]
    cast("Any", function).__signature__ = shown.replace(parameters=kept)
    return function


def wrong_listener(
    selector: object, handler: object, misplaced: tuple[object, ...], misnamed: Mapping[str, object]
) -> Exception:
    """Return the error for arguments of `on` in the form of another client, or for too many arguments."""
    given = [config for part in (handler, *misplaced) if (config := _mapping(part)) is not None]
    config = {**(given[0] if given else {}), **misnamed}
    if isinstance(selector, str) and (selector in _LISTENERS or selector.upper() in _CHANGE_EVENTS):
        return InvalidArgumentError(
            f"{selector!r} is not a selector, which says what to listen for",
            hint=f"Write channel.on({_selector(selector, config)}, handler)",
        )
    if misnamed:
        return TypeError(f"on() got an unexpected keyword argument {next(iter(misnamed))!r}")
    return InvalidArgumentError(
        "on() takes a selector and a handler", hint='Write channel.on(broadcast("typing"), handler)'
    )


def is_listener(selector: object) -> bool:
    """Return whether the first argument of `on` is a word that other clients use there."""
    return isinstance(selector, str) and (selector in _LISTENERS or selector in _CHANGE_EVENTS)


def wrong_subscribe() -> InvalidArgumentError:
    """Return the error for a callback that was passed to `subscribe`."""
    return InvalidArgumentError(
        "subscribe() takes no callback: it returns when the channel is joined and raises when the join is refused",
        hint="Write await channel.subscribe() (in the sync client without await), and channel.on(status(), handler) to "
        "follow later changes",
    )


def wrong_channel(topic: object, misplaced: tuple[object, ...], misnamed: Mapping[str, object]) -> Exception:
    """Return the error for the options of a channel in the form of another client, or for an unknown option."""
    given = [
        *misplaced,
        *(value for name, value in misnamed.items() if name in ("params", "opts", "options", "config")),
    ]
    if not given:
        return TypeError(f"channel() got an unexpected keyword argument {next(iter(misnamed))!r}")
    config: object = {"config": misnamed["config"]} if "config" in misnamed else given[0]
    line = ", ".join([_text(topic), *_options(config)])
    return InvalidArgumentError(
        "the options of a channel are keyword arguments, not a dict", hint=f"Write client.channel({line})"
    )


def wrong_changes(table: object, misplaced: tuple[object, ...]) -> InvalidArgumentError:
    """Return the error for arguments of `changes` in the form of another client."""
    words = [word for word in (table, *misplaced) if isinstance(word, str)]
    if (config := _mapping(table)) is not None:
        line = _selector("postgres_changes", config)
    else:
        parts = [part for word in words for part in (word.split(":") if word is table else [word])]
        event = next((part for part in parts if part in _CHANGE_EVENTS), None)
        rows = next((part for part in parts if "=" in part), None)
        names = [part for part in parts if part not in (event, rows)]
        named = {"schema": names[0] if len(names) > 1 else None, "table": names[-1] if names else "orders"}
        line = _selector("postgres_changes", {**named, "event": event, "filter": rows})
    return InvalidArgumentError(
        "changes() takes the name of a table; everything else is a keyword argument", hint=f"Write {line}"
    )


def wrong_selector(name: Literal["broadcast", "presence"], given: object) -> InvalidArgumentError:
    """Return the error for arguments of `broadcast` or `presence` in the form of another client."""
    why = "takes the name of an event" if name == "broadcast" else "selects all presence events: their classes differ"
    return InvalidArgumentError(f"{name}() {why}", hint=f"Write {_selector(name, _mapping(given) or {})}")


def _selector(kind: str, config: Mapping[str, object]) -> str:
    """Return the code of the selector for a listener of another client."""
    if kind == "broadcast":
        event = config.get("event", "*")
        return f"broadcast({'' if event == '*' else _text(event)})"
    if kind in ("presence", "system"):
        return f"{kind}()"
    event = config.get("event") if kind == "postgres_changes" else kind
    table = config.get("table", None if kind == "postgres_changes" else "orders")
    schema = config.get("schema")
    named = {
        "schema": None if schema == "public" else schema,
        "event": None if event == "*" else event,
        "filter": config.get("filter"),
    }
    positional = [] if table in (None, "*") else [_text(table)]
    return f"changes({', '.join([*positional, *(f'{name}={_text(value)}' for name, value in named.items() if value)])})"


def _options(params: object) -> list[str]:
    """Return the keyword arguments for the options of another client."""
    config = (_mapping(params) or {}).get("config", params)
    found: list[str] = []
    for path, name in _OPTIONS.items():
        value: object = config
        for key in path:
            value = (_mapping(value) or {}).get(key)
        if name == "replay_since" and isinstance(value, int | float):
            value /= 1000  # other clients take milliseconds
        if value:
            found.append(f"{name}={_text(value)}")
    return found


def _mapping(value: object) -> Mapping[str, object] | None:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else None


def _text(value: object) -> str:
    """Return a value as code, with the quotation marks that the pages use."""
    shown = brief(value)
    return f'"{shown[1:-1]}"' if isinstance(value, str) and '"' not in shown and "\\" not in shown else shown
