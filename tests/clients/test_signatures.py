"""Both clients have the same names, signatures and docstrings, apart from `async`."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, get_overloads

import pytest

import supawire
from docs import sync_docstrings
from supawire import (
    AsyncChannel,
    AsyncClient,
    AsyncMirror,
    AsyncOutbox,
    AsyncQueuedSent,
    AsyncStream,
    AsyncStreamReader,
    AsyncStreams,
    AsyncStreamWriter,
    AsyncThrottledSender,
    Channel,
    Client,
    ClientOptions,
    Mirror,
    Outbox,
    QueuedSent,
    Stream,
    StreamReader,
    Streams,
    StreamWriter,
    ThrottledSender,
    connect,
    connect_async,
    from_supabase,
    from_supabase_async,
)
from supawire._validation import misused
from supawire.aio.supabase import Passed

TWINS = [
    (Client, AsyncClient), (Channel, AsyncChannel), (Stream, AsyncStream), (QueuedSent, AsyncQueuedSent),
    (Mirror, AsyncMirror), (Outbox, AsyncOutbox),
    (StreamWriter, AsyncStreamWriter), (StreamReader, AsyncStreamReader),
    (Streams, AsyncStreams), (ThrottledSender, AsyncThrottledSender),
]  # fmt: skip

IN_BLOCKING = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__", "__anext__": "__next__"}

NARROWER = {"transport": "Transport | None", "http": "HttpClient | None", "telemetry": "Telemetry | None"}
"""Options that `ClientOptions` has as `Any`, because it does not import transports and telemetry."""

WAITS = {
    "AsyncClient": {"ping", "publish", "publish_many", "set_auth", "remove_channel", "remove_all_channels", "drain",
                    "close", "wait_closed", "__aenter__", "__aexit__"},
    "AsyncChannel": {"subscribe", "ready", "unsubscribe", "broadcast", "track", "untrack", "set_auth", "__aenter__",
                     "__aexit__"},
    "AsyncStream": {"get", "__anext__", "__aenter__", "__aexit__"},
    "AsyncQueuedSent": {"wait"},
    "AsyncMirror": {"ready", "close", "__aenter__", "__aexit__"},
    "AsyncOutbox": {"add", "flush", "stats", "dead", "retry", "discard", "close", "__aenter__", "__aexit__"},
    "AsyncStreamWriter": {"write", "finish", "__aenter__", "__aexit__"},
    "AsyncStreamReader": {"part", "read", "text"},
    "AsyncStreams": {"__anext__", "__aenter__", "__aexit__"},
    "AsyncThrottledSender": {"flush", "close", "__aenter__", "__aexit__"},
}  # fmt: skip
"""The coroutine functions of the async client; everything else is a plain call in both clients."""

SOURCE = "collections.abc.Iterable[typing.Any]"
"""A source of a stream; plain or async in the async client."""


def plain(text: object) -> str:
    """Return an annotation or a signature with the names of the sync client."""
    words = str(text).replace("supawire.aio", "supawire").replace("supawire.sync", "supawire")
    words = words.replace("Async", "").replace("'", "").replace('"', "")
    words = re.sub(r"collections\.abc\.Coroutine\[typing\.Any, typing\.Any, ([\w.]+)\]", r"\1", words)
    return words.replace(f"{SOURCE} | {SOURCE}", SOURCE)


def signature(function: Callable[..., Any]) -> str:
    return plain(inspect.signature(function))


def members(kind: type) -> dict[str, Any]:
    names = {name for name in vars(kind) if not name.startswith("_")} | (set(IN_BLOCKING) & set(vars(kind)))
    names |= set(IN_BLOCKING.values()) & set(vars(kind))
    names &= set(dir(kind))  # without the names of other clients, which only raise errors
    names = {name for name in names if getattr(vars(kind)[name], "__module__", "") != misused.__module__}
    return {IN_BLOCKING.get(name, name): vars(kind)[name] for name in names}


def public_interface(kind: type) -> dict[str, tuple[str, list[str]]]:
    """Return the signature and the overloads of each public member."""
    shown: dict[str, tuple[str, list[str]]] = {}
    for name, member in members(kind).items():
        function: Any = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        shown[name] = signature(function), [signature(one) for one in get_overloads(function)]
    return shown


@pytest.mark.parametrize(("sync", "other"), TWINS, ids=lambda kind: kind.__name__)
def test_both_clients_have_the_same_signatures(sync: type, other: type):
    """Classes of both clients have the same names, signatures and overloads (R46)."""
    assert public_interface(sync) == public_interface(other)


@pytest.mark.parametrize(
    ("own", "twin"), list(sync_docstrings.pairs()), ids=lambda one: getattr(one, "__name__", "property")
)
def test_the_sync_client_has_the_docstrings_of_the_async_client(own: Any, twin: Any):
    """Each docstring of the sync client is what `python -m docs.sync_docstrings` makes of that of the async client."""
    assert inspect.getdoc(own) == sync_docstrings.expected(twin)


@pytest.mark.parametrize("kind", [twin for _, twin in TWINS], ids=lambda kind: kind.__name__)
def test_calls_that_wait_are_coroutines(kind: type):
    """In the async client exactly the calls that wait for something are coroutines."""
    waiting = {name for name, member in vars(kind).items() if inspect.iscoroutinefunction(member)}
    assert {name for name in waiting if not name.startswith("_") or name.startswith("__")} == WAITS[kind.__name__]


@pytest.mark.parametrize("kind", [kind for kind, _ in TWINS], ids=lambda kind: kind.__name__)
def test_nothing_in_the_sync_client_is_a_coroutine(kind: type):
    """No public call of the sync client is a coroutine."""
    assert [name for name, member in members(kind).items() if inspect.iscoroutinefunction(member)] == []


def annotations(owner: Callable[..., Any]) -> dict[str, str]:
    """Return the annotations of a class or of the keywords of a function, as its source has them, without modules."""
    tree: Any = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    if isinstance(tree, ast.ClassDef):
        found = {
            one.target.id: one.annotation
            for one in tree.body
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        }
    else:
        found = {one.arg: one.annotation for one in tree.args.kwonlyargs}
    texts = {name: ast.unparse(kind).replace("'", "").replace("tls.", "ssl.") for name, kind in found.items()}
    return {name: text.replace("Version", "Protocol") for name, text in texts.items()}


@pytest.mark.parametrize("function", [connect, connect_async], ids=["sync", "async"])
def test_connect_takes_the_options_of_a_client(function: Callable[..., Any]):
    """The keywords of `connect` and `connect_async` are the fields of `ClientOptions`: names, types, defaults."""
    parameters = list(inspect.signature(function).parameters.values())[2:]
    options = list(inspect.signature(ClientOptions).parameters.values())
    assert [(one.name, one.default, one.kind) for one in parameters] == [
        (one.name, one.default if one.name not in ("headers", "params", "token", "proxy") else None, one.KEYWORD_ONLY)
        for one in options
    ]
    assert annotations(function) == annotations(connect)
    assert {**annotations(ClientOptions), **NARROWER} == annotations(function)


def test_from_supabase_takes_the_options_of_a_client():
    """The keywords of `from_supabase` and `from_supabase_async` are those of `connect`, except `token`."""
    for function in (from_supabase, from_supabase_async):
        keywords = inspect.signature(function).parameters["options"]
        assert keywords.kind is keywords.VAR_KEYWORD and Passed.__name__ in str(keywords.annotation)
    assert annotations(Passed) == {name: kind for name, kind in annotations(connect).items() if name != "token"}


def test_the_classes_of_both_clients_are_exported():
    """The classes of both clients are exported, and imported on first use."""
    for sync, other in TWINS:
        assert getattr(supawire, sync.__name__) is sync
        assert getattr(supawire, other.__name__) is other
    assert {"connect", "connect_async"} <= set(supawire.__all__)
