"""`supawire mcp`: a server of the Model Context Protocol on stdin and stdout, for coding agents."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Annotated

from cyclopts import Parameter

from supawire.cli.connection import Connect, NoServerError
from supawire.errors import InvalidArgumentError
from supawire.options import Secret


def mcp(
    *,
    allow_writes: Annotated[
        bool,
        Parameter(negative=(), show_default=False, help="Let agents send messages to the server, not only read."),
    ] = False,
    database_url: Annotated[
        str | None,
        Parameter(
            env_var=("SUPAWIRE_DATABASE_URL", "SUPABASE_DB_URL"),
            help="The database of the project, which the tool doctor reads.",
        ),
    ] = None,
    connect: Connect = Connect(),
) -> int:
    """Offer tools to a coding agent over stdin and stdout: listen, send, presence, doctor, explain errors, serve.

    The agent starts this command. Without a server, the tools work with the local server that the tool serve starts.
    """
    if find_spec("mcp") is None:
        raise InvalidArgumentError("the command mcp needs the extra `mcp`", hint="Run pip install 'supawire[mcp]'.")
    try:
        target = connect.target()
    except NoServerError:
        target = None
    from supawire.cli.mcp.tools import create_server

    server = create_server(
        target,
        allow_writes=allow_writes,
        database_url=Secret(database_url) if database_url else None,
        connect_timeout=connect.timeout,
    )
    with _input_that_signals_end():
        server.run("stdio")
    return 0


@contextmanager
def _input_that_signals_end() -> Generator[None]:
    """Let stdin end at Ctrl-C and SIGTERM while the block runs, and raise KeyboardInterrupt after it.

    The server reads stdin in a thread, which only the end of the input ends. Therefore another thread, which the
    program does not wait for, copies stdin into a socket that can be ended.
    """
    source, target = socket.socketpair()
    interrupted = False

    def copy() -> None:
        with suppress(OSError):  # the target has ended
            while data := os.read(0, 65_536):
                target.sendall(data)
        end()

    def end() -> None:
        with suppress(OSError):  # it has ended already
            target.shutdown(socket.SHUT_WR)

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        end()

    stdin, handler = sys.stdin, signal.getsignal(signal.SIGINT)
    with source, target, source.makefile("r", encoding="utf-8", errors="replace") as copied:
        sys.stdin = copied
        signal.signal(signal.SIGINT, interrupt)
        threading.Thread(target=copy, name="supawire-mcp-input", daemon=True).start()
        try:
            yield
        finally:
            sys.stdin = stdin
            signal.signal(signal.SIGINT, handler)
    if interrupted:
        raise KeyboardInterrupt
