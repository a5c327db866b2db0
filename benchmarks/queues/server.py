"""The local server in a process of its own, so that its CPU time is not that of the program that measures."""

import multiprocessing
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from supawire.server import LocalServer


def serve(pipe: "Connection[Any, Any]", database: str) -> None:
    """Run the local server until the pipe says something."""
    with LocalServer(database=database, prepare=True) as server:
        pipe.send((server.url, server.service_key))
        pipe.recv()


@contextmanager
def local_server(database: str) -> Generator[tuple[str, str]]:
    """Run the local server in a process of its own; provides its URL and a key."""
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(theirs, database))
    process.start()
    try:
        yield pipe.recv()
    finally:
        pipe.send(None)
        process.join()
