"""Names and calls of other clients raise errors that show the line to write, and that line works."""

import ast
import copy
import inspect
import pickle
import sys
import types
from collections.abc import AsyncIterator
from inspect import CO_COROUTINE
from typing import Any
from unittest import mock

import pytest

import supawire
from supawire import LocalServer, RealtimeError, StateError, connect, connect_async
from supawire._other_clients import CALLS, NAMES, Name, sync_form, wrong_channel
from supawire.testing import broadcast, delete, insert, presence, presence_join, presence_sync, update
from tests.clients.accounts import Supabase

ALICE = presence("alice", {"user": "alice"})
EVENTS: dict[str, Any] = {
    "change": update("orders", {"id": 1, "total": 2}, {"id": 1}),
    "insert": insert("orders", {"id": 1}),
    "delete": delete("orders", {"id": 1}),
    "message": broadcast("typing", {"user": "alice"}),
    "entry": ALICE,
    "presence event": presence_join(ALICE),
    "presence state": presence_sync(ALICE),
}
EACH_NAME = [(row, name) for row in NAMES for name in row.names]


def label(value: object) -> str:
    return value.where if isinstance(value, Name) else str(value)


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


@pytest.fixture(name="served", scope="module")
def _served() -> Any:
    with LocalServer() as server:
        yield server


@pytest.fixture(name="names")
def _names(served: LocalServer) -> dict[str, Any]:
    return {name: getattr(supawire, name) for name in supawire.__all__} | {
        "url": served.url,
        "key": served.anon_key,
        "token": served.token(),
        "supabase": Supabase(served.url, served.anon_key),
        "handler": lambda event: None,
    }


async def run(line: str, names: dict[str, Any]) -> Any:
    """Run a line of code, which may await at its top; return its value, or that of the variable it sets."""
    target, equals, _ = line.partition(" = ")
    sets = bool(equals) and target.isidentifier()
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(line, "<line>", "exec" if sets else "eval", flags)
    result = types.FunctionType(code, names)()
    result = await result if code.co_flags & CO_COROUTINE else result
    return names[target] if sets else result


async def check_line(line: str, names: dict[str, Any]) -> None:
    """Run a recommended line. A client that it opens is closed."""
    before = dict(names)
    result = await run(line, names)
    if hasattr(result, "close") and "client =" in line:
        closed = result.close()
        if inspect.isawaitable(closed):
            await closed
    names.clear()
    names.update(before)


@pytest.fixture(name="in_async")
async def _in_async(served: LocalServer, names: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    async with connect_async(served.url, served.anon_key) as client, client.channel("room") as channel:
        yield names | {"client": client, "channel": channel}


@pytest.fixture(name="in_sync")
def _in_sync(served: LocalServer, names: dict[str, Any]) -> Any:
    with connect(served.url, served.anon_key) as client, client.channel("room") as channel:
        yield names | {"client": client, "channel": channel}


OWN = [(row, name) for row, name in EACH_NAME if row.where in ("client", "channel")]


@pytest.mark.parametrize(("row", "name"), OWN, ids=label)
async def test_a_name_of_another_client_on_ours(
    in_async: dict[str, Any], in_sync: dict[str, Any], row: Name, name: str
):
    """A missing method of a client or channel raises an AttributeError with the line to write, on both clients."""
    for names, line in ((in_async, row.write), (in_sync, sync_form(row.write))):
        it = names[row.where]
        for spelling in {name, camel(name)} - {"from"}:
            assert not hasattr(it, spelling) and getattr(it, spelling, "none") == "none"
            assert spelling not in dir(it)
            with pytest.raises(AttributeError) as caught:
                getattr(it, spelling)
            assert isinstance(caught.value, StateError)
            assert f"has no attribute {spelling!r}. Write {line}" in str(caught.value)


LINES = {row.write: None for row in NAMES if row.where in ("client", "channel", "supawire")} | {
    right: None for _, right in CALLS
}


@pytest.mark.parametrize("line", LINES)
async def test_a_line_that_an_error_shows_works(in_async: dict[str, Any], in_sync: dict[str, Any], line: str):
    """Each recommended line runs, with the async and in its other form with the sync client."""
    for names in (in_async, in_sync):
        names["change"] = EVENTS["insert"]
        await check_line(line if names is in_async else sync_form(line), names)


EVENT_NAMES = [(row, name) for row, name in EACH_NAME if row.where in EVENTS]


@pytest.mark.parametrize(("row", "name"), EVENT_NAMES, ids=label)
def test_a_name_of_another_client_on_an_event(row: Name, name: str):
    """Reading the name as an attribute or as an item raises an error with the attribute to use, which exists."""
    it = EVENTS[row.where]
    for spelling in (name, camel(name)):
        assert not hasattr(it, spelling)
        with pytest.raises(AttributeError) as missing:
            getattr(it, spelling)
        with pytest.raises(TypeError) as item:
            it[spelling]
        for caught in (missing, item):
            assert isinstance(caught.value, RealtimeError)
            assert f"Write {row.write}" in str(caught.value)
    eval(row.write, {"change": it, "message": it, "entry": it, "event": it})


@pytest.mark.parametrize("it", EVENTS.values(), ids=EVENTS)
def test_an_event_is_no_mapping_and_copies_as_before(it: Any):
    """An event cannot be iterated, and copies, pickles, `dir` and unknown names are as for any object."""
    with pytest.raises(TypeError):
        iter(it)
    with pytest.raises(TypeError, match=r"attributes|payload"):
        it[0]
    with pytest.raises(AttributeError, match=r"^'\w+' object has no attribute 'nothing'$") as caught:
        getattr(it, "nothing")  # noqa: B009
    assert not isinstance(caught.value, StateError)
    assert copy.copy(it) == it and copy.deepcopy(it) == it
    assert pickle.loads(pickle.dumps(it)) == it


@pytest.mark.parametrize(
    ("it", "key", "line"),
    [
        (EVENTS["change"], "record", "change.record"),
        (EVENTS["change"], "commitTimestamp", "change.commit_timestamp"),
        (EVENTS["message"], "payload", "message.payload"),
        (EVENTS["entry"], "user", 'entry.payload["user"]'),
        (EVENTS["presence event"], "key", "event.key"),
        (EVENTS["presence state"], "state", "event.state"),
    ],
)
def test_an_item_that_is_an_attribute_here(it: Any, key: str, line: str):
    """An item with the name of an attribute, or of a member of a tracked payload, is answered with it."""
    with pytest.raises(TypeError, match="not subscriptable") as caught:
        it[key]
    assert f"Write {line}" in str(caught.value)


def test_a_method_in_camel_case_is_answered_with_its_name_here(in_sync: dict[str, Any]):
    """`presenceState` and the like name the method in snake_case."""
    for it, name, line in (
        (in_sync["channel"], "presenceState", "channel.presence_state"),
        (in_sync["client"], "setAuth", "client.set_auth"),
        (in_sync["client"], "removeAllChannels", "client.remove_all_channels"),
    ):
        with pytest.raises(AttributeError, match=f"Write {line}"):
            getattr(it, name)


@pytest.mark.parametrize(("row", "name"), [pair for pair in EACH_NAME if pair[0].where == "supawire"], ids=label)
def test_an_import_of_a_name_of_another_client(row: Name, name: str):
    """`from supawire import name` raises an ImportError, `supawire.name` an AttributeError; both show the line."""
    with pytest.raises(ImportError) as caught:
        exec(f"from supawire import {name}", {})
    assert isinstance(caught.value, StateError) and f"Write {row.write}" in str(caught.value)
    with pytest.raises(AttributeError) as missing:
        eval(f"supawire.{name}", {"supawire": supawire})
    assert f"Write {row.write}" in str(missing.value)
    assert not hasattr(supawire, name) and name not in dir(supawire)


def test_an_import_in_a_long_module_is_recognized():
    """The import is also recognized where its instruction needs a prefix, as the 257th name of a module does."""
    many = "".join(f"name_{number} = {number}\n" for number in range(300))
    with pytest.raises(ImportError, match="Write client = connect"):
        exec(f"{many}from supawire import create_client", {})


def test_other_missing_names_of_the_package_are_as_before():
    """An unknown name gets Python's own error, and a submodule can be imported."""
    with pytest.raises(ImportError, match="cannot import name 'nothing'") as caught:
        exec("from supawire import nothing", {})
    assert not isinstance(caught.value, StateError)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        eval("supawire.nothing", {"supawire": supawire})
    assert sys.modules["supawire.errors"] is not None


@pytest.mark.parametrize(("wrong", "right"), CALLS)
async def test_a_call_in_the_form_of_another_client(
    in_async: dict[str, Any], in_sync: dict[str, Any], wrong: str, right: str
):
    """A call in the form of another client raises an error with the right call, made from its arguments."""
    for names, line in ((in_async, wrong), (in_sync, sync_form(wrong))):
        with pytest.raises(supawire.InvalidArgumentError) as caught:
            await run(line, names)
        assert f"Write {right}" in str(caught.value)


def test_a_misspelt_keyword_gets_the_error_of_python(in_sync: dict[str, Any]):
    """A keyword that no client knows raises a TypeError that names it."""
    for call in (
        lambda: in_sync["client"].channel("room", privat=True),
        lambda: in_sync["channel"].on(supawire.broadcast(), print, bufer=1),
    ):
        with pytest.raises(TypeError, match=r"unexpected keyword argument '(privat|bufer)'"):
            call()
    with pytest.raises(supawire.InvalidArgumentError, match="takes a selector and a handler"):
        in_sync["channel"].on(supawire.broadcast(), print, print)


def test_replay_of_another_client_is_converted():
    """The start of a replay, in milliseconds in other clients, is shown in seconds."""
    config = {"private": True, "broadcast": {"replay": {"since": 1764000000000, "limit": 5}}}
    shown = str(wrong_channel("room", ({"config": config},), {}))
    assert 'client.channel("room", private=True, replay_since=1764000000.0, replay_limit=5)' in shown


def test_a_long_or_odd_argument_is_cut_and_escaped():
    """What a caller passes is shown in part, on one line, and without tokens."""
    shown = str(wrong_channel("a\nb", ({"config": {"presence": {"key": "x" * 100_000}}},), {}))
    assert "\n" not in shown and len(shown) < 1000


@pytest.mark.parametrize("kind", [supawire.AsyncClient, supawire.AsyncChannel, supawire.Client, supawire.Channel])
def test_mocks_have_only_the_real_names(kind: type):
    """A mock made from a class has its methods, and not the names of other clients."""
    made = mock.create_autospec(kind)
    assert not hasattr(made, "on_postgres_changes") and not hasattr(made, "send")
    assert callable(made.close if kind in (supawire.AsyncClient, supawire.Client) else made.subscribe)


def test_signatures_show_only_what_may_be_passed():
    """`help`, editors and mocks see neither of the parameters for calls in the form of another client."""
    for function in (
        supawire.broadcast, supawire.changes, supawire.presence, supawire.Channel.on, supawire.AsyncChannel.on,
        supawire.Channel.subscribe, supawire.AsyncChannel.subscribe,
        supawire.Client.channel, supawire.AsyncClient.channel,
    ):  # fmt: skip
        kinds = {each.kind for each in inspect.signature(function).parameters.values()}
        assert not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}, function
    made = mock.create_autospec(supawire.Client, instance=True)
    with pytest.raises(TypeError):
        made.channel("room", {"config": {}})


async def test_an_error_of_a_property_is_not_hidden(in_async: dict[str, Any]):
    """The AttributeError of a property reaches the caller unchanged."""

    class Broken(supawire.AsyncChannel):
        @property
        def state(self) -> Any:
            return getattr([], "missing")  # noqa: B009

    with pytest.raises(AttributeError, match="'list' object has no attribute 'missing'"):
        getattr(Broken.__new__(Broken), "state")  # noqa: B009
