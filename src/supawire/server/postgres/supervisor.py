"""A program that supervises one temporary PostgreSQL: starts it, monitors it and removes all its files.

`Cluster` runs it as a separate process, by its path and without importing the rest of this library. Its standard input
is a pipe that is closed when the parent ends for any reason; then PostgreSQL is stopped and its folder removed. The
first line of input contains the settings as JSON; each byte after it is an order (see `supervise`). Standard output
gets one line of JSON per state: the connection data, or an error.

When started as root it first switches to the given user, since PostgreSQL refuses to run as root. All modules are
imported before that, because the user may not be able to read them.
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
"""Seconds between two checks of the parent: a fork of it can hold the pipe open after it has ended."""
START_TIMEOUT: Final = 60.0
SIGNAL_TIMEOUT: Final = 5.0
MAX_PORT_ATTEMPTS: Final = 10
"""Attempts to find a port: another process may take a free port before PostgreSQL listens on it."""
PORT_IN_USE: Final = "could not bind"
MAX_LOG_LINES: Final = 15
MAX_UNUSED_AGE: Final = 60 * 24 * 3600.0
"""Seconds after which an unused prepared data folder, of about 40 MB, is removed."""
MIN_SWEEP_AGE: Final = 60.0
"""Seconds for which a new folder may have no lock yet."""
MAX_SOCKET_FOLDER: Final = 90
"""Maximum bytes of a Unix socket's folder; the path of the socket is limited to about 100."""
PREFIX: Final = "supawire-postgres-"
NOT_A_LINK: Final = os.O_NOFOLLOW | os.O_CLOEXEC
"""In a folder that every user may write to, a name may be a symbolic link to another user's file."""
LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class StartupError(Exception):
    """PostgreSQL could not be started; the text is shown to users."""


def drop_privileges(name: str) -> None:
    """Switch to this user permanently."""
    codecs.lookup("idna")  # loaded now because sockets need it later
    user = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ.update(HOME="/", USER=name, LOGNAME=name)


def die_with_parent() -> None:
    """Ask the kernel to stop PostgreSQL when this supervisor is killed. Runs in PostgreSQL's process before exec."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


class PostgresProcess:
    """One data folder and its server."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._bin: Final = Path(settings["bin"])
        self._settings: Final = settings
        self.folder: Final = Path(tempfile.mkdtemp(prefix=PREFIX, dir=settings["folder"]))
        self._data: Final = self.folder / "data"
        self._log: Final = self.folder / "log"
        self._lock: Final = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | NOT_A_LINK, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._sockets: Final = self.folder if len(os.fsencode(self.folder)) <= MAX_SOCKET_FOLDER else None
        self._process: subprocess.Popen[bytes] | None = None
        self._template: Path | None = None
        self.port: int = int(settings["port"])
        self.password: str = ""

    def prepare(self) -> None:
        """Create the data folder; copied from a prepared one if there is a cache folder."""
        cache = self._settings["cache"]
        if cache is None:
            self.password = self._run_initdb(self.folder)
        else:
            template = self._template = Path(cache) / self._settings["recipe"]
            if not template.is_dir():
                self._create_template(template)
            os.utime(template)
            shutil.copytree(template / "data", self._data)
            self.password = (template / "password").read_text()
        options = {**self._settings["settings"], "unix_socket_directories": str(self._sockets or "")}
        lines = [f"{name} = '{value}'\n" for name, value in options.items()]
        (self._data / "postgresql.conf").write_text("".join(lines))

    def _create_template(self, template: Path) -> None:
        """Create the prepared data folder under a temporary name and rename it, for safety with other processes."""
        new = Path(tempfile.mkdtemp(prefix="new-", dir=template.parent))
        try:
            password = self._run_initdb(new)
            (new / "password").write_text(password)
            new.rename(template)
            _remove_unused_templates(template.parent)
        except OSError:
            if not template.is_dir():  # another process has created it meanwhile
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _run_initdb(self, where: Path) -> str:
        password = os.urandom(24).hex()  # importing `secrets` would cost 4 MB of memory
        password_file = where / "password-file"
        password_file.write_text(password)
        command = [self._bin / "initdb", "-D", where / "data", f"--pwfile={password_file}", *self._settings["initdb"]]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=where, check=False)  # noqa: S603
        password_file.unlink()
        if done.returncode:
            raise StartupError(f"initdb failed: {_last_lines(done.stderr + done.stdout)}")
        return password

    def start(self) -> None:
        """Start PostgreSQL and wait until it accepts connections."""
        wanted = self.port
        for _ in range(MAX_PORT_ATTEMPTS):
            self.port = wanted or _free_port()
            self._launch()
            if self._wait():
                return
            if wanted or PORT_IN_USE not in self._log.read_text(errors="replace"):
                break
        made_from = f"\n(its data folder is a copy of {self._template})" if self._template else ""
        raise StartupError(f"PostgreSQL did not start: {_last_lines(self._log.read_text(errors='replace'))}{made_from}")

    def _launch(self) -> None:
        command = [self._bin / "postgres", "-D", self._data, "-p", str(self.port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._data,
                preexec_fn=die_with_parent,  # noqa: PLW1509  this process has one thread
            )

    def _wait(self) -> bool:
        """Wait until the server reports in its status file that it is ready."""
        state = self._data / "postmaster.pid"
        until = time.monotonic() + START_TIMEOUT
        while self.is_running:
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
        """Process id of the server."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server is running."""
        return self._process is not None and self._process.poll() is None

    def stop(self, how: int) -> None:
        """Stop the server with a signal: SIGINT ends sessions and writes all data, SIGQUIT stops immediately."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (how, signal.SIGQUIT, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(number)
                try:
                    process.wait(SIGNAL_TIMEOUT)
                except subprocess.TimeoutExpired:
                    continue
            return

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def report(self) -> dict[str, Any]:
        """Return the connection data."""
        return {
            "port": self.port,
            "password": self.password,
            "folder": str(self.folder),
            "sockets": None if self._sockets is None else str(self._sockets),
            "pid": self.pid,
        }


def _remove_unused_templates(cache: Path) -> None:
    """Remove prepared data folders that have not been used for long."""
    for made in cache.iterdir():
        if time.time() - made.stat().st_mtime > MAX_UNUSED_AGE:
            shutil.rmtree(made, ignore_errors=True)


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-MAX_LOG_LINES:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sweep(folder: Path) -> None:
    """Remove folders of supervisors that were killed; their locks were released with them."""
    for left in folder.glob(f"{PREFIX}*"):
        try:
            state = left.lstat()
            ours = stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid()
            if not ours or time.time() - state.st_mtime < MIN_SWEEP_AGE:
                continue
            lock = os.open(left / "lock", os.O_RDWR | os.O_NONBLOCK | NOT_A_LINK)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:  # the folder is in use
            continue
        finally:
            os.close(lock)


def send_state(state: dict[str, Any]) -> None:
    """Send a state to the parent."""
    sys.stdout.write(json.dumps(state) + "\n")
    sys.stdout.flush()


def supervise(postgres: PostgresProcess, parent: int) -> None:
    """Execute the parent's orders until the parent or PostgreSQL ends."""
    wanted = True
    while os.getppid() == parent and (postgres.is_running or not wanted):
        readable, _, _ = select.select([0], [], [], POLL_INTERVAL)
        if not readable:
            continue
        order = os.read(0, 1)
        if not order:
            return
        match order:
            case b"d":  # stop regularly, and keep the data
                postgres.stop(signal.SIGINT)
            case b"c":  # stop as in a crash
                postgres.stop(signal.SIGQUIT)
            case _:  # b"u": start again on the same port
                postgres.start()
        wanted = order == b"u"
        send_state(postgres.report())


def quit_(number: int, frame: object) -> NoReturn:
    """Exit with clean-up."""
    del number, frame
    raise SystemExit(0)


def _first_line() -> bytes:
    """Return the first line of input, without reading the orders that may follow it."""
    with open(0, "rb", buffering=0, closefd=False) as orders:
        return orders.readline()


def main(settings: dict[str, Any]) -> None:
    """Start PostgreSQL, supervise it, and clean up."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, quit_)
    if settings["user"] is not None:
        drop_privileges(settings["user"])
    os.umask(0o077)
    os.environ["LC_ALL"] = "C"  # so that PostgreSQL's messages are in English
    sweep(Path(settings["folder"]))
    postgres = PostgresProcess(settings)
    try:
        postgres.prepare()
        postgres.start()
        send_state(postgres.report())
        supervise(postgres, settings["parent"])
    finally:
        postgres.stop(signal.SIGQUIT)
        postgres.remove()


def run() -> None:
    """Run with the settings of the first line; any error is sent to the parent."""
    try:
        main(json.loads(_first_line()))
    except (StartupError, OSError) as error:
        send_state({"error": str(error)})
    except Exception:  # noqa: BLE001  every error is reported to the parent
        send_state({"error": traceback.format_exc()})


if __name__ == "__main__":
    run()
