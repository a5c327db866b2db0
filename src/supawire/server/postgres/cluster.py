"""A PostgreSQL of our own: in a temporary folder, on this machine alone, gone when we are gone.

`supervisor.py`, a process of its own, does the work and outlives us for as long as it takes to clean up.
"""

import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from supawire.errors import StateError
from supawire.server.postgres import binaries
from supawire.server.postgres.binaries import Installation, find

ROLE: Final = "postgres"
DATABASE: Final = "postgres"
SUPERVISOR: Final = Path(__file__).with_name("supervisor.py")
WORDS: Final = "pgpass"
"""A file of passwords, of the kind that libpq reads."""
ENDING: Final = 20.0
"""Seconds that a supervisor has to clean up, more than it takes when everything goes wrong."""
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    # what the level needs
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_slot_wal_keep_size": "512MB",
    "timezone": "UTC",
    # it lives as long as its folder: nothing has to outlast a crash of the machine
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
HINTS: Final = {
    "No space left": "Make room, or set TMPDIR to a folder elsewhere.",
    "Permission denied": "Set TMPDIR to a folder that the user who runs PostgreSQL can write, such as /tmp.",
    "is a copy of": "If that copy is damaged, remove it: the next start makes it anew.",
}
"""What helps, by words of the error; the first one counts."""
KEPT_VARIABLES: Final = frozenset(
    {"PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"}
)
"""What PostgreSQL inherits: its SQL can read the environment, where passwords of other programs may be."""
INITDB: Final = (
    *(f"--username={ROLE}", "--auth=scram-sha-256", "--encoding=UTF8"),
    *("--no-sync", "--no-instructions", "--wal-segsize=4"),
)
BUILTIN: Final = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
"""Since 17: the same order and case rules on every machine."""


@dataclass(frozen=True, slots=True)
class Running:
    """A running cluster, as its supervisor tells it."""

    port: int
    folder: Path
    sockets: Path | None
    pid: int
    password: str = field(repr=False)


class Cluster:
    """A temporary PostgreSQL with one role that may do everything.

        with Cluster() as cluster:
            psycopg.connect(cluster.url)

    Several may run at once. Killed in whatever way, this process leaves neither a server nor a folder behind.
    Args: bin: the folder of `postgres` and `initdb`, found when left out. port: 0 takes a free one.
    Raises: StateError when there is no PostgreSQL or it cannot run, with its own words.
    """

    def __init__(self, bin: Path | None = None, port: int = 0) -> None:
        self._bin = bin
        self._port = port
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._running: Running | None = None
        self._pid = 0
        self._programs: Path | None = None
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"Cluster(port={self._running.port})" if self._running else "Cluster(not running)"

    # --- life ---

    def start(self) -> Self:
        """Start it. Returns when it takes connections."""
        if self._supervisor is not None:
            raise StateError("this cluster runs already; stop() it first, or make another one")
        user = binaries.stand_in()
        found = binaries.reachable(find(self._bin), user)
        self._programs = found.bin
        self._pid = os.getpid()
        self._supervisor = _watched()
        try:
            self._say(json.dumps(_wish(found, user, self._port)).encode() + b"\n")
            self._running = self._told()
            self._set_password()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it and remove its folder. Nothing happens when it does not run, or in a fork of the process."""
        supervisor = self._supervisor
        if supervisor is None or os.getpid() != self._pid:
            return
        self._supervisor, self._running = None, None
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        supervisor.stdin.close()
        try:
            supervisor.wait(ENDING)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
        supervisor.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def down(self, *, crash: bool = False) -> None:
        """Stop the server and keep its data, until `up`. `crash` drops all at once, as when it is killed."""
        self._order(b"c" if crash else b"d")

    def up(self) -> None:
        """Start it again after `down`, on the same port."""
        self._order(b"u")

    @property
    def lives(self) -> bool:
        """Whether its supervisor is there; it ends when PostgreSQL ends without being told to."""
        return self._supervisor is not None and self._supervisor.poll() is None

    # --- what it is ---

    @property
    def url(self) -> str:
        """For the role that may do everything, by TCP."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The same for another database of it."""
        return f"postgresql://{ROLE}:{self._now.password}@127.0.0.1:{self._now.port}/{database}"

    @property
    def shown_url(self) -> str:
        """By TCP and without the password, which libpq finds in a file that only we can read."""
        now = self._now
        return f"postgresql://{ROLE}@127.0.0.1:{now.port}/{DATABASE}?passfile={now.folder / WORDS}"

    def socket_url(self, database: str = DATABASE) -> str:
        """By its Unix socket, where there is one; else by TCP."""
        now = self._now
        if now.sockets is None:
            return self.url_of(database)
        return f"postgresql://{ROLE}:{now.password}@/{database}?host={now.sockets}&port={now.port}"

    @property
    def programs(self) -> Path:
        """Where psql and its like are, those of the same version."""
        if self._programs is None:
            raise StateError("the cluster has not been started")
        return self._programs

    @property
    def folder(self) -> Path:
        """Where it lives."""
        return self._now.folder

    @property
    def pid(self) -> int:
        """The process of the server."""
        return self._now.pid

    @property
    def _now(self) -> Running:
        if self._running is None:
            raise StateError("the cluster does not run; use it inside `with Cluster() as cluster:`")
        return self._running

    # --- the supervisor ---

    def _order(self, order: bytes) -> None:
        with self._turn:
            password = self._now.password
            self._say(order)
            self._running = replace(self._told(), password=password)

    def _say(self, words: bytes) -> None:
        assert self._supervisor is not None
        assert self._supervisor.stdin is not None
        try:
            self._supervisor.stdin.write(words)
        except BrokenPipeError as error:
            raise StateError("the embedded PostgreSQL has ended") from error

    def _told(self) -> Running:
        """The next word of the supervisor. Raises: StateError with what went wrong."""
        assert self._supervisor is not None
        assert self._supervisor.stdout is not None
        line = self._supervisor.stdout.readline()
        state: dict[str, Any] = json.loads(line) if line else {"error": "the process that starts it has ended"}
        if "error" in state:
            raise StateError(f"the embedded PostgreSQL could not be started: {state['error']}", hint=_hint(state))
        sockets = state["sockets"]
        return Running(
            state["port"],
            Path(state["folder"]),
            None if sockets is None else Path(sockets),
            state["pid"] or 0,
            state["password"],
        )

    def _set_password(self) -> None:
        """The folder was copied, its password with it; from now on this cluster has one of its own."""
        import psycopg

        now = self._now
        password = secrets.token_urlsafe(32)
        with psycopg.connect(self.socket_url(), autocommit=True) as connection:
            connection.pgconn.change_password(ROLE.encode(), password.encode())
        number = os.open(now.folder / WORDS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w") as file:
            file.write(f"*:*:*:{ROLE}:{password}\n")
        self._running = replace(now, password=password)


def _wish(found: Installation, user: str | None, port: int) -> dict[str, Any]:
    """What the supervisor is asked for."""
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
        "settings": SETTINGS | (SINCE_18 if found.major >= 18 else {}),
        "user": user,
    }


def _libc_locale() -> str:
    return "C.UTF-8" if sys.platform == "linux" else "C"


def _watched() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", str(SUPERVISOR)],
        bufsize=0,  # an order that could not be written is not tried again by close()
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: value for name, value in os.environ.items() if name in KEPT_VARIABLES},
        start_new_session=True,  # Ctrl-C is ours; it hears of our end by its pipe
    )


def _hint(state: dict[str, Any]) -> str | None:
    return next((hint for words, hint in HINTS.items() if words in state["error"]), None)
