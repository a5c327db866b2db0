"""The runner: one server, one process per client, and rounds in which each client has its turn.

A machine's speed changes within minutes by more than the clients differ, so only figures of one round are compared:
what is kept of a scenario is, per client, one figure for each round.
"""

import json
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.peers import ROOT, command
from benchmarks.scenarios import NODE, OURS, PYTHON, Scenario

PATIENCE: Final = 60.0
"""Seconds that a process may take to answer."""

_WARM_UP: Final = {NODE: 6.0, PYTHON: 0.5}
"""Messages before the first that counts, in rounds: JavaScript is compiled while it runs, and slow before."""

_SHARE: Final = {PYTHON: 0.1}
"""A slower client gets fewer messages."""


class Child:
    """A process that answers lines."""

    def __init__(self, line: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def tell(self, line: str) -> None:
        """One line more on its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Its next line. Raises `RuntimeError` when none comes."""
        output = self._process.stdout
        assert output is not None
        if not select.select([output], [], [], PATIENCE)[0] or not (line := output.readline()):
            raise RuntimeError(f"{self._process.args} does not answer")
        return line.strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        with self._process:
            pass


class Blaster(Child):
    """The server."""

    def __init__(self) -> None:
        super().__init__([sys.executable, "-m", "benchmarks.blaster"])
        self.url = f"http://127.0.0.1:{self.hear()}"

    def blast(self, topic: str, kind: str, count: int) -> None:
        """Push frames to the client that has joined the topic."""
        self.tell(json.dumps({"topic": f"realtime:{topic}", "kind": kind, "count": count}))


@dataclass
class Figures:
    """Of one client in one scenario, per round: microseconds a message, of CPU and of the clock."""

    cpu: list[float] = field(default_factory=list[float])
    wall: list[float] = field(default_factory=list[float])

    def add(self, count: int, said: dict[str, Any]) -> None:
        """One round more."""
        self.cpu.append(round(said["cpu"] / count * 1e6, 4))
        self.wall.append(round(said["wall"] / count * 1e6, 4))

    def forget(self) -> None:
        """What came so far was to get warm."""
        self.cpu.clear()
        self.wall.clear()


def run(
    blaster: Blaster, name: str, scenario: Scenario, clients: set[str], messages: int, rounds: int
) -> dict[str, Figures]:
    """Measure one scenario, with those of its clients that are there."""
    taking_part = [OURS, *(client for client in scenario.clients if client in clients)]
    figures = {client: Figures() for client in taking_part}
    with ExitStack() as children:
        turns: dict[str, Callable[[float], None]] = {}
        for client in taking_part:
            topic = f"{name}-{len(turns)}"
            child = children.enter_context(Child(command(client, blaster.url, topic, name)))
            assert child.hear() == "joined"
            turns[client] = partial(_turn, blaster, child, topic, scenario.kind, figures[client])
        for client, turn in turns.items():
            turn(messages * _WARM_UP.get(client, 1))
            figures[client].forget()
        for number in range(rounds):
            first = number % len(taking_part)  # nobody always has his turn after the same neighbour's noise
            for client in (*taking_part[first:], *taking_part[:first]):
                turns[client](messages * _SHARE.get(client, 1))
    return figures


def _turn(blaster: Blaster, child: Child, topic: str, kind: str, figures: Figures, messages: float) -> None:
    """Let one client receive so many messages."""
    child.tell(str(int(messages)))
    assert child.hear() == "ready"
    blaster.blast(topic, kind, int(messages))
    figures.add(int(messages), json.loads(child.hear()))
