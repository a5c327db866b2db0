"""Servers of brokers for tests, on 127.0.0.1, which can be killed and started again with the same data."""

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.conftest import find_needed


def unused_port() -> int:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        return int(used.getsockname()[1])


class BrokerProcess:
    """A program that listens on a port."""

    program: str
    scheme: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = unused_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Start the program and wait until it accepts connections."""
        path = find_needed(self.program)
        self.process = subprocess.Popen(
            [path, *self.command()], cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(400):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.025)
            else:
                return
        raise RuntimeError(f"{self.program} does not start")

    def kill(self) -> None:
        """Kill the program with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class RedisProcess(BrokerProcess):
    """A Redis that writes each command to disk before it answers."""

    program = "redis-server"
    scheme = "redis"

    def command(self) -> list[str]:
        return [
            "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--save", "",
            "--appendonly", "yes", "--appendfsync", "always",
        ]  # fmt: skip


class NatsProcess(BrokerProcess):
    """A NATS server with JetStream."""

    program = "nats-server"
    scheme = "nats"

    def command(self) -> list[str]:
        return ["-js", "-sd", str(self.folder / "jetstream"), "-a", "127.0.0.1", "-p", str(self.port)]
