"""`supawire mcp`, with the client of the official package: in memory, and over stdin and stdout of the program."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters

from supawire.cli import run
from supawire.cli.connection import Target
from supawire.cli.mcp.explain import explain
from supawire.cli.mcp.tools import MAX_RESULT, create_server
from supawire.options import Secret
from supawire.server import LocalServer
from tests.cli.conftest import DEADLINE, ENVIRONMENT, SCRIPT

TOOLS = ["listen_once", "send", "presence", "doctor", "explain_error", "serve"]


def target_of(server: LocalServer, token: str | None = None) -> Target:
    return Target(server.url, Secret(server.anon_key), Secret(token) if token else None)


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool that succeeds, and return its result."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


async def error_of(client: Client, tool: str, **arguments: Any) -> str:
    """Call a tool that fails, and return the text for the agent."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    return "".join(getattr(part, "text", "") for part in result.content)


async def repeat(action: Callable[[], Awaitable[object]], waiting: asyncio.Task[dict[str, Any]]) -> dict[str, Any]:
    """Repeat an action until the call that waits for its effect has returned, and return its result."""
    while not waiting.done():
        await action()
        await asyncio.wait([waiting], timeout=0.01)
    return await waiting


async def test_each_tool_describes_itself():
    """There are six tools; each has a description, and only those that change something are not read-only."""
    async with Client(create_server()) as client:
        tools = (await client.list_tools()).tools
    assert [tool.name for tool in tools] == TOOLS
    assert all(tool.description for tool in tools)
    changing = [tool.name for tool in tools if not (tool.annotations and tool.annotations.read_only_hint)]
    assert changing == ["send", "serve"]


async def test_an_agent_can_work_with_a_local_server():
    """serve starts a server; what send sends arrives at listen_once; presence is empty; doctor finds nothing wrong."""
    async with Client(create_server()) as client:
        served = await call(client, "serve")
        assert served == await call(client, "serve")
        assert served.keys() == {"url", "publishable_key"}
        waiting = asyncio.create_task(call(client, "listen_once", topic="room", local=True, private=True))
        message = {"topic": "room", "event": "hi", "payload": {"n": 1}, "local": True, "private": True}
        (event,) = (await repeat(lambda: call(client, "send", **message), waiting))["events"]
        assert (event["kind"], event["event"], event["payload"]) == ("broadcast", "hi", {"n": 1})
        assert await call(client, "presence", topic="room", local=True) == {"present": []}
        report = await call(client, "doctor", topic="room", local=True)
        assert (report["healthy"], report["problems"]) == (True, [])


async def test_sending_needs_permission():
    """Without --allow-writes, send to the given server is refused and nothing is sent; with it, it is confirmed."""
    async with LocalServer() as server:
        async with Client(create_server(target_of(server))) as client:
            assert "--allow-writes" in await error_of(client, "send", topic="room", event="hi")
        assert server.frames == []
        async with Client(create_server(target_of(server), allow_writes=True)) as client:
            assert (await call(client, "send", topic="room", event="hi"))["confirmed"] is True


async def test_changes_of_a_table_are_returned():
    """listen_once with a table returns when the row has changed, with the values of the row."""
    async with LocalServer() as server, Client(create_server(target_of(server))) as client:
        waiting = asyncio.create_task(call(client, "listen_once", topic="db", table="orders", event="INSERT"))
        emit = partial(server.emit, "INSERT", "orders", record={"id": 1})
        (event,) = (await repeat(lambda: asyncio.to_thread(emit), waiting))["events"]
        assert (event["type"], event["table"], event["record"]) == ("INSERT", "orders", {"id": 1})


async def test_who_is_present_is_returned():
    """presence returns each key with its payloads."""
    from supawire import connect_async

    async with LocalServer() as server, connect_async(server.url, server.anon_key) as other:
        channel = other.channel("room", presence_key="alice")
        await channel.subscribe()
        await channel.track({"name": "Alice"})
        async with Client(create_server(target_of(server))) as client:
            (entry,) = (await call(client, "presence", topic="room"))["present"]
        assert (entry["key"], entry["entries"][0]["payload"]) == ("alice", {"name": "Alice"})


async def test_results_contain_no_secrets():
    """A token inside a message is hidden, and serve returns secret keys only when asked."""
    async with Client(create_server()) as client:
        hidden = await call(client, "serve")
        shown = await call(client, "serve", show_keys=True)
        secrets = {shown[name] for name in ("anon_key", "service_key", "secret_key", "jwt_secret")}
        assert not secrets & set(hidden.values())
        waiting = asyncio.create_task(call(client, "listen_once", topic="room", local=True))
        message = {"topic": "room", "event": "hi", "payload": {"t": shown["service_key"]}, "local": True}
        result = await repeat(lambda: call(client, "send", **message), waiting)
        assert shown["service_key"] not in str(result)
        assert result["events"][0]["payload"] == {"t": "***"}


async def test_results_are_bounded():
    """Events beyond the size of a result are counted and left out."""
    async with LocalServer() as server, Client(create_server(target_of(server))) as client:
        waiting = asyncio.create_task(call(client, "listen_once", topic="room", count=3))
        send = partial(server.broadcast, "room", "big", {"text": "x" * (MAX_RESULT * 3 // 5)})
        result = await repeat(lambda: asyncio.to_thread(send), waiting)
        assert (len(result["events"]), result["omitted"], result["complete"]) == (1, 2, True)


async def test_nothing_arrives_in_time():
    """The result has no events and says what to do."""
    async with LocalServer() as server, Client(create_server(target_of(server))) as client:
        result = await call(client, "listen_once", topic="room", timeout=0.2)
        assert (result["events"], result["complete"]) == ([], False)
        assert "call doctor" in result["advice"]


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("listen_once", {"topic": "room", "private": True}, "Unauthorized"),
        ("listen_once", {"topic": "room", "timeout": 1000}, "timeout"),
        ("listen_once", {"topic": "room", "count": 1000}, "count"),
        ("listen_once", {"topic": "room", "filter": "id=eq.1"}, "Give table"),
        ("listen_once", {"topic": "room", "table": "t", "filter": "id"}, "has no '='"),
        ("listen_once", {"topic": "", "table": "t"}, "topic"),
        ("presence", {"topic": "room", "local": True}, "Call serve first"),
        ("doctor", {"table": "*"}, "one table"),
        ("send", {"topic": "room", "event": "x", "payload": {"a": "x" * 200_000}}, "larger than"),
        ("nothing", {}, "nothing"),
    ],
)
async def test_a_wrong_call_says_what_to_do(tool: str, arguments: dict[str, Any], expected: str):
    """The error has the reason in text, and the server continues to answer."""
    async with LocalServer() as server, Client(create_server(target_of(server), allow_writes=True)) as client:
        assert expected in await error_of(client, tool, **arguments)
        assert (await call(client, "explain_error", error="1009"))["explanations"]


async def test_without_a_server_the_tools_say_how_to_give_one():
    """Tools that need a server name the environment variables and the tool serve."""
    async with Client(create_server()) as client:
        for tool, arguments in (("listen_once", {"topic": "room"}), ("presence", {"topic": "room"}), ("doctor", {})):
            text = await error_of(client, tool, **arguments)
            assert "SUPABASE_URL" in text and "Call serve" in text


async def test_doctor_names_problem_and_remedy():
    """A key of another server is found by doctor; the key is not in the result."""
    async with LocalServer() as server:
        key = LocalServer().anon_key
        async with Client(create_server(Target(server.url, Secret(key)))) as client:
            report = await call(client, "doctor")
    assert report["healthy"] is False
    assert [problem["name"] for problem in report["problems"]] == ["handshake-refused"]
    assert "same project" in report["problems"][0]["remedy"]
    assert key not in str(report)


@pytest.mark.parametrize(
    ("text", "meaning", "advice"),
    [
        ("Unauthorized: You do not have permissions to read", "a refused join", "policy"),
        ("JoinError: PrivateOnly", "a refused join", "private=True"),
        ("WebSocket handshake failed: 404", "a refused WebSocket handshake", "project's URL"),
        ("closed with code 1009", "a WebSocket close code", "limit"),
        ("Too many messages per second", "a system message of a channel", "slowly"),
        ("payload_size_exceeded", "an error reply to a push", "less data"),
        ("HTTP 413", "an HTTP answer", "less data"),
    ],
)
def test_errors_are_explained(text: str, meaning: str, advice: str):
    """The explanation has the meaning and the advice of the error table."""
    found = [one for one in explain(text) if one["meaning"] == meaning]
    assert found and advice in found[0]["advice"]


def test_an_exception_is_explained_by_its_class():
    """The name of an exception gives its documentation; unknown texts give nothing; long ones are cut."""
    assert explain("SlowConsumerError")[0]["docs"].endswith("#slowconsumererror")
    assert explain("the weather is nice") == []
    assert explain("x" * 100_000 + "PrivateOnly") == []


@pytest.mark.slow
async def test_the_program_speaks_over_stdin_and_stdout(tmp_path: Any):
    """The official client starts the program, which takes the server from the environment and ends with its input."""
    async with LocalServer() as server:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SUPA", "COV_"))}
        program = StdioServerParameters(
            command=sys.executable,
            args=["-m", "supawire.cli", "mcp", "--allow-writes"],
            env={**environment, "SUPABASE_URL": server.url, "SUPABASE_KEY": server.anon_key},
            cwd=tmp_path,
        )
        async with Client(program) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
            assert (await call(client, "send", topic="room", event="hi"))["confirmed"] is True
            assert (await call(client, "serve"))["url"] != server.url
            assert (await call(client, "doctor"))["healthy"] is True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither of these signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_program_while_its_input_is_open(number: int, code: int):
    """The exit code is that of the signal, although the agent has not closed stdin."""
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    with subprocess.Popen(
        [SCRIPT, "mcp", "--url", "http://127.0.0.1:1", "--key", "k"],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        watchdog = threading.Timer(DEADLINE, process.kill)
        watchdog.start()
        process.stdin.write(f"{json.dumps(request)}\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(number)
        assert process.stderr.read() == "supawire: interrupted\n"
        assert process.wait() == code
        watchdog.cancel()


async def test_one_time_limit_is_for_all_steps_of_a_call():
    """Two answers that each arrive within the limit, and together do not, are too late."""
    async with LocalServer() as server, Client(create_server(target_of(server), allow_writes=True)) as client:
        server.delay_replies(0.6)
        assert "Call doctor" in await error_of(client, "send", topic="room", event="hi", timeout=1.0)


def test_the_extra_is_named_if_it_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Without the package the exit code is 2, and one line has the command that installs it."""
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert run(["mcp"]) == 2
    assert "pip install 'supawire[mcp]'" in capsys.readouterr().err
