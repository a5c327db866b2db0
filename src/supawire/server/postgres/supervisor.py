"""A program that keeps one temporary PostgreSQL: it starts it, watches over it, and leaves nothing behind.

`Cluster` runs it as a process of its own, by its path and without the rest of this library. Its standard input is a
pipe that ends when the parent ends, whichever way: then PostgreSQL is stopped and its folder removed. Its first line is
what is wanted, as JSON; each byte after it is an order (`ORDERS`). Standard output gets one line of JSON for each
state: what to connect to, or an error.

Started as root it becomes the given user first, since PostgreSQL refuses to run as root. Everything it imports is
imported before that, for the user may not be able to read it.
"""

import codecs
import ctypes
import fcntl
import json
import os
import pwd
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Final, NoReturn

PR_SET_PDEATHSIG: Final = 1
POLL_INTERVAL: Final = 0.5
"""Seconds between two looks at the parent, which may live on in name only: a fork of it can hold the pipe."""
STARTING: Final = 60.0
STOPPING: Final = 5.0
PORTS: Final = 10
"""Tries to find a port: between finding a free one and listening, somebody else may take it."""
IN_USE: Final = "could not bind"
LINES: Final = 15
UNUSED: Final = 60 * 24 * 3600.0
"""Seconds after which a data folder that was made once is not worth its 40 MB."""
FRESH: Final = 60.0
"""Seconds for which a folder may have no lock yet."""
LONGEST_SOCKET: Final = 90
"""Bytes of the folder of a Unix socket; the path of the socket itself may have about 100."""
PREFIX: Final = "supawire-postgres-"
NOT_A_LINK: Final = os.O_NOFOLLOW | os.O_CLOEXEC
"""In a folder that anybody may write, a name may be a link to a file of somebody else."""
LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class StartupError(Exception):
    """PostgreSQL could not be started; the text is for people."""


def drop_privileges(name: str) -> None:
    """Be this user for good."""
    codecs.lookup("idna")  # sockets want it
    user = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ.update(HOME="/", USER=name, LOGNAME=name)


def die_with_parent() -> None:
    """Runs in PostgreSQL's process before it starts: when this supervisor is killed, the kernel stops PostgreSQL."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


class PostgresProcess:
    """One data folder and its server."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self._bin: Final = Path(wish["bin"])
        self._wish: Final = wish
        self.folder: Final = Path(tempfile.mkdtemp(prefix=PREFIX, dir=wish["folder"]))
        self._data: Final = self.folder / "data"
        self._log: Final = self.folder / "log"
        self._lock: Final = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | NOT_A_LINK, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._sockets: Final = self.folder if len(os.fsencode(self.folder)) <= LONGEST_SOCKET else None
        self._process: subprocess.Popen[bytes] | None = None
        self._template: Path | None = None
        self.port: int = int(wish["port"])
        self.password: str = ""

    def prepare(self) -> None:
        """Make the data folder: a copy of the one that was made once, where there is a folder to keep it in."""
        cache = self._wish["cache"]
        if cache is None:
            self.password = self._init(self.folder)
        else:
            template = self._template = Path(cache) / self._wish["recipe"]
            if not template.is_dir():
                self._make(template)
            os.utime(template)
            shutil.copytree(template / "data", self._data)
            self.password = (template / "password").read_text()
        settings = {**self._wish["settings"], "unix_socket_directories": str(self._sockets or "")}
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        (self._data / "postgresql.conf").write_text("".join(lines))

    def _make(self, template: Path) -> None:
        """Make it under another name first, so that it is there entirely or not at all; others may do the same."""
        new = Path(tempfile.mkdtemp(prefix="new-", dir=template.parent))
        try:
            password = self._init(new)
            (new / "password").write_text(password)
            new.rename(template)
            _forget_old(template.parent)
        except OSError:
            if not template.is_dir():  # else somebody was faster
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _init(self, where: Path) -> str:
        password = os.urandom(24).hex()  # `secrets` would bring 4 MB with it
        words = where / "words"
        words.write_text(password)
        command = [self._bin / "initdb", "-D", where / "data", f"--pwfile={words}", *self._wish["initdb"]]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=where, check=False)  # noqa: S603
        words.unlink()
        if done.returncode:
            raise StartupError(f"initdb failed: {_last(done.stderr + done.stdout)}")
        return password

    def start(self) -> None:
        """Start PostgreSQL and wait until it takes connections."""
        wanted = self.port
        for _ in range(PORTS):
            self.port = wanted or _free_port()
            self._launch()
            if self._wait():
                return
            if wanted or IN_USE not in self._log.read_text(errors="replace"):
                break
        made_from = f"\n(its data folder is a copy of {self._template})" if self._template else ""
        raise StartupError(f"PostgreSQL did not start: {_last(self._log.read_text(errors='replace'))}{made_from}")

    def _launch(self) -> None:
        command = [self._bin / "postgres", "-D", self._data, "-p", str(self.port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._data,
                preexec_fn=die_with_parent,  # noqa: PLW1509  we have one thread
            )

    def _wait(self) -> bool:
        """Wait for the word of the server itself, in its file of state."""
        state = self._data / "postmaster.pid"
        until = time.monotonic() + STARTING
        while self.runs:
            try:
                lines = state.read_text().splitlines()
            except FileNotFoundError:
                lines = []
            if len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready":
                return True
            if time.monotonic() > until:
                self.stop(signal.SIGQUIT)
            time.sleep(0.005)
        return False

    @property
    def pid(self) -> int | None:
        """The process of the server."""
        return None if self._process is None else self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the server is there."""
        return self._process is not None and self._process.poll() is None

    def stop(self, how: int) -> None:
        """Stop the server: SIGINT ends sessions and writes everything, SIGQUIT drops all."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (how, signal.SIGQUIT, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(number)
                try:
                    process.wait(STOPPING)
                except subprocess.TimeoutExpired:
                    continue
            return

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def report(self) -> dict[str, Any]:
        """What to connect to."""
        return {
            "port": self.port,
            "password": self.password,
            "folder": str(self.folder),
            "sockets": None if self._sockets is None else str(self._sockets),
            "pid": self.pid,
        }


def _forget_old(cache: Path) -> None:
    """Remove what was made for a PostgreSQL that nobody has used for long."""
    for made in cache.iterdir():
        if time.time() - made.stat().st_mtime > UNUSED:
            shutil.rmtree(made, ignore_errors=True)


def _last(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LINES:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sweep(folder: Path) -> None:
    """Remove what a supervisor left that was killed itself: its lock went with it."""
    for left in folder.glob(f"{PREFIX}*"):
        try:
            state = left.lstat()
            ours = stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid()
            if not ours or time.time() - state.st_mtime < FRESH:
                continue
            lock = os.open(left / "lock", os.O_RDWR | os.O_NONBLOCK | NOT_A_LINK)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:  # it is in use
            continue
        finally:
            os.close(lock)


def send_state(state: dict[str, Any]) -> None:
    """Tell the parent."""
    sys.stdout.write(json.dumps(state) + "\n")
    sys.stdout.flush()


def down(keeper: PostgresProcess) -> None:
    """Stop PostgreSQL as an administrator does, keeping its data."""
    keeper.stop(signal.SIGINT)


def crash(keeper: PostgresProcess) -> None:
    """Stop PostgreSQL as a crash does."""
    keeper.stop(signal.SIGQUIT)


def up(keeper: PostgresProcess) -> None:
    """Start it again on the same port."""
    keeper.start()


ORDERS: Final = {b"d": down, b"c": crash, b"u": up}


def supervise(keeper: PostgresProcess, parent: int) -> None:
    """Do what the parent orders, until it ends or PostgreSQL does."""
    wanted = True
    while os.getppid() == parent and (keeper.runs or not wanted):
        readable, _, _ = select.select([0], [], [], POLL_INTERVAL)
        if not readable:
            continue
        order = os.read(0, 1)
        if not order:
            return
        ORDERS[order](keeper)
        wanted = order == b"u"
        send_state(keeper.report())


def quit_(number: int, frame: object) -> NoReturn:
    """End in order."""
    del number, frame
    raise SystemExit(0)


def _first_line() -> bytes:
    """What is wanted; orders may follow it, and are not read yet."""
    with open(0, "rb", buffering=0, closefd=False) as orders:
        return orders.readline()


def main(wish: dict[str, Any]) -> None:
    """Start, watch, leave nothing behind."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, quit_)
    if wish["user"] is not None:
        drop_privileges(wish["user"])
    os.umask(0o077)
    os.environ["LC_ALL"] = "C"  # the words of PostgreSQL that we look for
    sweep(Path(wish["folder"]))
    keeper = PostgresProcess(wish)
    try:
        keeper.prepare()
        keeper.start()
        send_state(keeper.report())
        supervise(keeper, wish["parent"])
    finally:
        keeper.stop(signal.SIGQUIT)
        keeper.remove()


def run() -> None:
    """Do what the first line wants; whatever goes wrong, the parent is told."""
    try:
        main(json.loads(_first_line()))
    except (StartupError, OSError) as error:
        send_state({"error": str(error)})
    except Exception:  # noqa: BLE001  whatever it is, the parent is the one to tell
        send_state({"error": traceback.format_exc()})


if __name__ == "__main__":
    run()
