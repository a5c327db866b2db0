"""Both clients have the same names, signatures and docstrings, apart from `async`."""

import inspect
from collections.abc import Callable
from typing import Any, get_overloads

import pytest

import supawire
from supawire import (
    AsyncChannel,
    AsyncClient,
    AsyncMirror,
    AsyncQueuedSent,
    AsyncStream,
    Channel,
    Client,
    ClientOptions,
    Mirror,
    QueuedSent,
    Stream,
    connect,
    connect_async,
)
from supawire._validation import misused

TWINS = [
    (Client, AsyncClient), (Channel, AsyncChannel), (Stream, AsyncStream), (QueuedSent, AsyncQueuedSent),
    (Mirror, AsyncMirror),
]  # fmt: skip

IN_BLOCKING = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__", "__anext__": "__next__"}

WAITS = {
    "AsyncClient": {"ping", "publish", "publish_many", "set_auth", "remove_channel", "remove_all_channels", "drain",
                    "close", "wait_closed", "__aenter__", "__aexit__"},
    "AsyncChannel": {"subscribe", "ready", "unsubscribe", "broadcast", "track", "untrack", "set_auth", "__aenter__",
                     "__aexit__"},
    "AsyncStream": {"get", "__anext__", "__aenter__", "__aexit__"},
    "AsyncQueuedSent": {"wait"},
    "AsyncMirror": {"ready", "close", "__aenter__", "__aexit__"},
}  # fmt: skip
"""The coroutine functions of the async client; everything else is a plain call in both clients."""


def plain(text: object) -> str:
    """An annotation or a signature with the names of the sync client."""
    words = str(text).replace("supawire.aio", "supawire").replace("supawire.sync", "supawire")
    return words.replace("Async", "").replace("'", "").replace('"', "")


def signature(function: Callable[..., Any]) -> str:
    return plain(inspect.signature(function))


def members(kind: type) -> dict[str, Any]:
    names = {name for name in vars(kind) if not name.startswith("_")} | (set(IN_BLOCKING) & set(vars(kind)))
    names |= set(IN_BLOCKING.values()) & set(vars(kind))
    names = {name for name in names if getattr(vars(kind)[name], "__module__", "") != misused.__module__}
    return {IN_BLOCKING.get(name, name): vars(kind)[name] for name in names}


def face(kind: type) -> dict[str, tuple[str, str, list[str]]]:
    """What users see: per name its signature or type, the first line of its docstring, and its overloads."""
    shown: dict[str, tuple[str, str, list[str]]] = {}
    for name, member in members(kind).items():
        function: Any = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        promise = (inspect.getdoc(function) or "").partition("\n")[0]
        overloads = [signature(one) for one in get_overloads(function)]
        shown[name] = signature(function), plain(promise), overloads
    return shown


@pytest.mark.parametrize(("sync", "other"), TWINS, ids=lambda kind: kind.__name__)
def test_both_clients_have_the_same_signatures(sync: type, other: type):
    """Classes of both clients have the same names, signatures, overloads and first docstring lines."""
    assert face(sync) == face(other)


@pytest.mark.parametrize(
    "kind", [AsyncClient, AsyncChannel, AsyncStream, AsyncQueuedSent, AsyncMirror], ids=lambda kind: kind.__name__
)
def test_what_waits_is_a_coroutine(kind: type):
    """In the async client exactly the calls that wait for something are coroutines."""
    waiting = {name for name, member in vars(kind).items() if inspect.iscoroutinefunction(member)}
    assert {name for name in waiting if not name.startswith("_") or name.startswith("__")} == WAITS[kind.__name__]


@pytest.mark.parametrize("kind", [kind for kind, _ in TWINS], ids=lambda kind: kind.__name__)
def test_nothing_in_the_sync_client_is_a_coroutine(kind: type):
    """No public call of the sync client is a coroutine."""
    assert [name for name, member in members(kind).items() if inspect.iscoroutinefunction(member)] == []


def test_both_ways_to_connect_take_the_same_options():
    """`connect` and `connect_async` have the same parameters, and those are the fields of `ClientOptions`."""
    sync, other = inspect.signature(connect), inspect.signature(connect_async)
    assert sync.parameters == other.parameters
    options = list(inspect.signature(ClientOptions).parameters.values())
    assert [*sync.parameters][2:] == [option.name for option in options]
    assert [one.default for one in sync.parameters.values()][2:] == [
        option.default if option.name not in ("headers", "params", "token", "proxy") else None for option in options
    ]


def test_the_classes_of_both_clients_are_exported():
    """The classes of both clients are exported, and imported on first use."""
    for sync, other in TWINS:
        assert getattr(supawire, sync.__name__) is sync
        assert getattr(supawire, other.__name__) is other
    assert {"connect", "connect_async"} <= set(supawire.__all__)
