"""The fixtures of the pytest plugin, tested in separate runs of pytest."""

from importlib.metadata import entry_points
from typing import Protocol

import pytest

pytest_plugins = ["pytester"]

OURS = ("-p", "supawire.testing.plugin")
ASYNCIO = ("-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function")

BLOCKING = """
    import pytest
    from supawire import JoinError, broadcast
    from supawire.server import ServerLimits


    def test_a_server_and_a_client(realtime_server, realtime_client, realtime_key):
        assert realtime_key == realtime_server.anon_key
        room = realtime_client.channel("room")
        received = room.listen(broadcast())
        room.subscribe()
        realtime_server.broadcast("room", "said", "hello")
        assert next(received).payload == "hello"
        assert [frame.event for frame in realtime_server.frames] == ["phx_join"]


    seen = []


    @pytest.mark.parametrize("turn", [1, 2])
    def test_each_test_has_its_own(realtime_server, realtime_client, turn):
        assert realtime_server.frames == []
        realtime_client.channel("room").subscribe()
        realtime_server.reject_join("*", "IncreaseSubscriptionConnectionPool: none is left")
        seen.append(realtime_server)
        assert len({server.secret for server in seen}) == turn


    class TestOfAnOwner:
        @pytest.fixture
        def realtime_options(self):
            return {"limits": ServerLimits(channels=1)}

        @pytest.fixture
        def realtime_client_options(self, realtime_server):
            return {"token": realtime_server.token(sub="alice"), "timeout": 5}

        def test_options_are_those_of_the_test(self, realtime_client):
            realtime_client.channel("club", private=True).subscribe()
            with pytest.raises(JoinError, match="ChannelRateLimitReached"):
                realtime_client.channel("more").subscribe()


    @pytest.mark.parametrize("realtime_options", [{"secret": "a secret of forty characters or even more"}])
    def test_parametrize_sets_them_too(realtime_client, realtime_server, realtime_options):
        assert realtime_server.secret == realtime_options["secret"]
"""

ASYNC = """
    import asyncio

    import pytest

    from supawire import AsyncClient, broadcast

    clients = []


    @pytest.fixture
    def anyio_backend():
        return "asyncio"


    {mark}
    async def test_an_async_client(realtime_async_client, realtime_server):
        assert isinstance(realtime_async_client, AsyncClient)
        clients.append(realtime_async_client)
        room = realtime_async_client.channel("room", echo=True)
        received = room.listen(broadcast())
        await room.subscribe()
        await room.broadcast("said", "hello")
        assert (await anext(received)).payload == "hello"
        assert [frame.event for frame in realtime_server.frames] == ["phx_join", "broadcast"]


    def test_it_was_closed():
        assert [client.state.value for client in clients] == ["closed"]
"""


class Run(Protocol):
    def __call__(self, text: str, *options: str, process: bool = True) -> pytest.RunResult: ...


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run this text as a test module with these plugins only; a warning is an error."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(text: str, *options: str, process: bool = True) -> pytest.RunResult:
        pytester.makepyfile(text)
        ignored = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # of older versions
        arguments = ("-W", "error", "-W", ignored, "-p", "no:cacheprovider", *options)
        return pytester.runpytest_subprocess(*arguments) if process else pytester.runpytest_inprocess(*arguments)

    return run


def test_each_test_gets_a_server_and_clients(run: Run):
    """Server, key and sync client are new in each test, and use the options that the test sets."""
    run(BLOCKING, *OURS).assert_outcomes(passed=5)


POSTGRES = """
    import pytest
    from supawire import changes


    @pytest.fixture(scope="session")
    def realtime_schema():
        return '''
            create table orders (id bigint primary key generated always as identity, total numeric);
            alter publication supabase_realtime add table orders;
        '''


    @pytest.mark.parametrize("turn", [1, 2])
    def test_rows_of_a_test_are_its_own(realtime_pg_server, realtime_client, turn):
        rows = realtime_client.channel("db").listen(changes("orders"))
        realtime_client.channel("db").subscribe(wait="ready")
        realtime_pg_server.sql("insert into orders (total) values (%s)", turn)
        assert next(rows).record == {"id": 1, "total": turn}


    def test_nothing_stays(realtime_postgres):
        import psycopg
        with psycopg.connect(realtime_postgres) as connection:
            names = connection.execute("select datname from pg_database where datname like 'supawire_test%'").fetchall()
        assert len(names) == 1  # what databases are copied from
"""


@pytest.mark.slow  # the test starts a PostgreSQL server
def test_each_test_gets_a_database(run: Run):
    """A test on PostgreSQL has a new database with the user's tables, a server on it, and a client."""
    pytest.importorskip("psycopg", reason="not run: psycopg belongs to the extra postgres")
    run(POSTGRES, *OURS, "-v").assert_outcomes(passed=3)


@pytest.mark.slow  # each run is a process, since pytest within pytest would import supawire twice
@pytest.mark.parametrize(
    ("options", "mark"),
    [
        (("-p", "anyio"), "@pytest.mark.anyio"),
        (("-p", "anyio", "-o", "anyio_mode=auto"), ""),
        (ASYNCIO, "@pytest.mark.asyncio"),
        ((*ASYNCIO, "-o", "asyncio_mode=auto"), ""),
        (("-p", "anyio", *ASYNCIO), "@pytest.mark.asyncio"),
        (("-p", "anyio", *ASYNCIO), "@pytest.mark.anyio"),
    ],
    ids=["anyio", "anyio-auto", "asyncio", "asyncio-auto", "both, asyncio", "both, anyio"],
)
def test_the_async_client_uses_the_loop_of_the_test(run: Run, options: tuple[str, ...], mark: str):
    """Under anyio and pytest-asyncio, in each of their modes, the client is open in the test and closed after it."""
    run(ASYNC.format(mark=mark), *OURS, *options).assert_outcomes(passed=2)


def test_without_an_async_plugin_the_error_names_the_plugins(run: Run):
    """Without a plugin for async tests, the error names the plugins and the fixture for sync tests."""
    result = run("def test_it(realtime_async_client): pass", *OURS, process=False)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*requires a test run by anyio or pytest-asyncio; use realtime_client in other tests"])


def test_runs_under_other_event_loops_are_skipped(run: Run):
    """The reason of the skip says how to deselect such runs."""
    text = """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "trio"

        def test_it(anyio_backend, realtime_async_client):
            raise AssertionError
    """
    result = run(text, *OURS, "-p", "anyio", "-rs", process=False)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*override the fixture anyio_backend to return 'asyncio'*"])


@pytest.mark.parametrize(
    ("fixture", "absent", "extra"),
    [("realtime_server", "jwt", "server"), ("realtime_pg_server", "psycopg", "postgres")],
)
def test_a_missing_extra_is_named(run: Run, fixture: str, absent: str, extra: str):
    """A server whose extra is not installed is an error that says what to install."""
    text = f"""
        import sys
        sys.modules["{absent}"] = None

        def test_it({fixture}):
            raise AssertionError
    """
    result = run(text, *OURS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*supawire[[]{extra}]*"])


def test_unused_fixtures_import_nothing(run: Run):
    """With the plugin loaded and unused, neither client nor server is imported, and there is no warning (R47)."""
    text = """
        import sys

        def test_it():
            heavy = ("aiohttp", "jwt", "psycopg", "supawire.aio", "supawire.server", "supawire.sync")
            assert [name for name in heavy if name in sys.modules] == []
            assert "supawire.testing.plugin" in sys.modules
    """
    run(text, *OURS, "--strict-markers", "--strict-config").assert_outcomes(passed=1)


def test_the_plugin_is_registered_as_an_entry_point():
    """The entry point has the name by which the plugin can be disabled."""
    found = {entry.name: entry.value for entry in entry_points(group="pytest11") if entry.name == "supawire"}
    assert found == {"supawire": "supawire.testing.plugin"}


@pytest.mark.slow  # the test starts two processes with all installed plugins
def test_the_plugin_can_be_disabled(pytester: pytest.Pytester):
    """The fixtures are available beside any other plugin, and `-p no:supawire` removes them."""
    pytester.makepyfile("def test_it(realtime_client): realtime_client.channel('room').subscribe()")
    options = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:randomly")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)
    result = pytester.runpytest_subprocess(*options, "-p", "no:supawire")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'realtime_client' not found"])


def test_fixtures_are_documented(run: Run):
    """`pytest --fixtures` shows each public fixture with a line about it, and no private one."""
    lines = run("", *OURS, "--fixtures", process=False).outlines
    shown = [line for line in lines if line.startswith(("realtime_", "_realtime"))]
    assert sorted(line.split()[0] for line in shown) == [
        "realtime_any_server",
        "realtime_async_client",
        "realtime_client",
        "realtime_client_options",
        "realtime_key",
        "realtime_options",
        "realtime_pg_server",
        "realtime_postgres",
        "realtime_schema",
        "realtime_server",
    ]
    assert not any("no docstring available" in line for line in lines)
