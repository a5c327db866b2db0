"""A temporary PostgreSQL cluster on this machine, removed when this process ends.

A separate process, `supervisor.py`, does the work and outlives this process for as long as the clean-up takes.
"""

import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from supawire.errors import StateError
from supawire.server.postgres import binaries
from supawire.server.postgres.binaries import Installation, find

ROLE: Final = "postgres"
DATABASE: Final = "postgres"
SUPERVISOR: Final = Path(__file__).with_name("supervisor.py")
PASSFILE: Final = "pgpass"
"""Name of the password file, in libpq's format."""
STOP_TIMEOUT: Final = 20.0
"""Seconds that a supervisor may take to clean up; more than the sum of its own timeouts."""
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    # required for change events and messages
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_slot_wal_keep_size": "512MB",
    "timezone": "UTC",
    # the data need not survive a crash of the machine
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    # little memory, few processes
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",
    "max_worker_processes": "2",
    "max_parallel_workers": "0",
    "max_logical_replication_workers": "0",
    "autovacuum_max_workers": "1",
    "min_wal_size": "32MB",
    "max_wal_size": "128MB",
    "checkpoint_timeout": "30min",
    "jit": "off",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "lc_messages": "C",
}
SINCE_18: Final = {"io_method": "sync"}
ERROR_HINTS: Final = {
    "No space left": "Free some space, or set TMPDIR to another folder.",
    "Permission denied": "Set TMPDIR to a folder that the user who runs PostgreSQL can write, such as /tmp.",
    "is a copy of": "If that copy is damaged, remove it: the next start creates a new one.",
}
"""Hints by a text in the error; the first match is used."""
PASSED_VARIABLES: Final = frozenset(
    {"PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"}
)
"""Environment variables passed to PostgreSQL. SQL can read its environment, so others, with their secrets, are not."""
INITDB: Final = (
    *(f"--username={ROLE}", "--auth=scram-sha-256", "--encoding=UTF8"),
    *("--no-sync", "--no-instructions", "--wal-segsize=4"),
)
BUILTIN: Final = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
"""From version 17 on: the same collation and case rules on every machine."""


@dataclass(frozen=True, slots=True)
class ClusterState:
    """A running cluster, as reported by its supervisor."""

    port: int
    folder: Path
    sockets: Path | None
    pid: int
    password: str = field(repr=False)


class Cluster:
    """A temporary PostgreSQL with one superuser role.

        with Cluster() as cluster:
            psycopg.connect(cluster.url)

    Several clusters may run at once. However this process ends, the server is stopped and its folder is removed.
    Args: bin: the folder of `postgres` and `initdb`; searched for when omitted. port: 0 uses a free one. settings: of
    PostgreSQL, in addition to `SETTINGS`.
    Raises: StateError, with PostgreSQL's message, when PostgreSQL is not installed or cannot start.
    """

    def __init__(self, bin: Path | None = None, port: int = 0, settings: Mapping[str, str] | None = None) -> None:
        self._bin = bin
        self._port = port
        self._settings = settings or {}
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._running: ClusterState | None = None
        self._pid = 0
        self._programs: Path | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Cluster(port={self._running.port})" if self._running else "Cluster(not running)"

    # --- lifecycle ---

    def start(self) -> Self:
        """Start the server. Returns when it accepts connections."""
        if self._supervisor is not None:
            raise StateError("this cluster is already running; call stop() first, or create another one")
        user = binaries.substitute_user()
        found = binaries.executable_for(find(self._bin), user)
        self._programs = found.bin
        self._pid = os.getpid()
        self._supervisor = _start_supervisor()
        try:
            self._send(json.dumps(_supervisor_settings(found, user, self._port, self._settings)).encode() + b"\n")
            self._running = self._read_state()
            self._set_password()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and remove its folder. Does nothing when it is not running, or in a forked process."""
        supervisor = self._supervisor
        if supervisor is None or os.getpid() != self._pid:
            return
        self._supervisor, self._running = None, None
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        supervisor.stdin.close()
        try:
            supervisor.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
        supervisor.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def down(self, *, crash: bool = False) -> None:
        """Stop the server but keep its data, until `up`. With `crash` all connections are dropped at once."""
        self._send_order(b"c" if crash else b"d")

    def up(self) -> None:
        """Start the server again after `down`, on the same port."""
        self._send_order(b"u")

    @property
    def is_running(self) -> bool:
        """Whether the supervisor is running; it ends when PostgreSQL ends unexpectedly."""
        return self._supervisor is not None and self._supervisor.poll() is None

    @property
    def supervisor_pid(self) -> int:
        """Process id of the supervisor."""
        if self._supervisor is None:
            raise StateError("the cluster has not been started")
        return self._supervisor.pid

    # --- properties ---

    @property
    def url(self) -> str:
        """URL for the superuser role, over TCP."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Return the URL of another database of this cluster."""
        return f"postgresql://{ROLE}:{self._state.password}@127.0.0.1:{self._state.port}/{database}"

    @property
    def shown_url(self) -> str:
        """URL over TCP without the password; libpq finds the password in a file that only this user can read."""
        now = self._state
        return f"postgresql://{ROLE}@127.0.0.1:{now.port}/{DATABASE}?passfile={now.folder / PASSFILE}"

    def socket_url(self, database: str = DATABASE) -> str:
        """Return a URL that uses the Unix socket where there is one, else TCP."""
        now = self._state
        if now.sockets is None:
            return self.url_of(database)
        return f"postgresql://{ROLE}:{now.password}@/{database}?host={now.sockets}&port={now.port}"

    @property
    def programs(self) -> Path:
        """The folder of psql and the other client programs of the same version."""
        if self._programs is None:
            raise StateError("the cluster has not been started")
        return self._programs

    @property
    def folder(self) -> Path:
        """The temporary folder that contains the data folder."""
        return self._state.folder

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._state.pid

    @property
    def _state(self) -> ClusterState:
        if self._running is None:
            raise StateError("the cluster is not running; use it inside `with Cluster() as cluster:`")
        return self._running

    # --- the supervisor ---

    def _send_order(self, order: bytes) -> None:
        with self._lock:
            password = self._state.password
            self._send(order)
            self._running = replace(self._read_state(), password=password)

    def _send(self, words: bytes) -> None:
        assert self._supervisor is not None
        assert self._supervisor.stdin is not None
        try:
            self._supervisor.stdin.write(words)
        except BrokenPipeError as error:
            raise StateError("the embedded PostgreSQL has ended") from error

    def _read_state(self) -> ClusterState:
        """Return the next state that the supervisor reports. Raises: StateError with the supervisor's error."""
        assert self._supervisor is not None
        assert self._supervisor.stdout is not None
        line = self._supervisor.stdout.readline()
        state: dict[str, Any] = json.loads(line) if line else {"error": "the process that starts it has ended"}
        if "error" in state:
            raise StateError(f"the embedded PostgreSQL could not be started: {state['error']}", hint=_hint(state))
        sockets = state["sockets"]
        return ClusterState(
            state["port"],
            Path(state["folder"]),
            None if sockets is None else Path(sockets),
            state["pid"] or 0,
            state["password"],
        )

    def _set_password(self) -> None:
        """Set a new password, because the data folder is a copy and has the password of the original."""
        import psycopg

        now = self._state
        password = secrets.token_urlsafe(32)
        with psycopg.connect(self.socket_url(), autocommit=True) as connection:
            connection.pgconn.change_password(ROLE.encode(), password.encode())
        number = os.open(now.folder / PASSFILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w") as file:
            file.write(f"*:*:*:{ROLE}:{password}\n")
        self._running = replace(now, password=password)


def _supervisor_settings(
    found: Installation, user: str | None, port: int, settings: Mapping[str, str]
) -> dict[str, Any]:
    """Return the settings for the supervisor."""
    initdb = [*INITDB, *(BUILTIN if found.major >= 17 else (f"--locale={_libc_locale()}",))]
    recipe = hashlib.sha256("\n".join([str(found.bin), *initdb]).encode()).hexdigest()[:12]
    cache = binaries.cache_for(user)
    return {
        "bin": str(found.bin),
        "cache": None if cache is None else str(cache),
        "folder": tempfile.gettempdir(),
        "initdb": initdb,
        "parent": os.getpid(),
        "port": port,
        "recipe": f"{found.version}-{recipe}",
        "settings": {**SETTINGS, **(SINCE_18 if found.major >= 18 else {}), **settings},
        "user": user,
    }


def _libc_locale() -> str:
    return "C.UTF-8" if sys.platform == "linux" else "C"


def _start_supervisor() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", str(SUPERVISOR)],
        bufsize=0,  # so that close() does not retry an order that could not be written
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: value for name, value in os.environ.items() if name in PASSED_VARIABLES},
        start_new_session=True,  # this process handles Ctrl-C; the supervisor notices our end by the closed pipe
    )


def _hint(state: dict[str, Any]) -> str | None:
    return next((hint for words, hint in ERROR_HINTS.items() if words in state["error"]), None)
