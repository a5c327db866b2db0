"""The runner: one server, one process per client, and rounds in which the clients take turns.

A machine's speed changes within minutes by more than the clients differ, so only figures of the same round are
compared: the result of a scenario has one figure per client and round.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.frames import BLOCK
from benchmarks.peers import ROOT, command
from benchmarks.scenarios import NODE, OURS, PYTHON, SCENARIOS, Scenario

PATIENCE: Final = 60.0
"""Seconds to wait for an answer of a process."""

_WARM_UP: Final = {NODE: 6.0, PYTHON: 0.5}
"""Messages to warm up, in rounds: JavaScript is slow until it is compiled while running."""

_SHARE: Final = {PYTHON: 0.1}
"""A slower client gets fewer messages."""

_PACE: Final = 0.0003
"""Seconds between two messages, so that each wakes up its receiver."""

_ENVIRONMENT: Final = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    "PYTHONPYCACHEPREFIX": str(ROOT / "build" / "pycache"),
}
"""Imported modules are already compiled, as in an installation."""

Figures = dict[str, list[float]]
"""The figures of one client in one scenario: by measure, one per round. `cpu` and `wall`: microseconds per message."""


class Child:
    """A process that answers lines of its standard input."""

    def __init__(self, line: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=_ENVIRONMENT
        )
        self._heard = b""

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def hear(self) -> str:
        """Return its next line. Raises: RuntimeError if there is none in time."""
        output = self._process.stdout
        assert output is not None
        while b"\n" not in self._heard:
            if not select.select([output], [], [], PATIENCE)[0] or not (more := output.read(65_536)):
                raise RuntimeError(f"{self._process.args} does not answer")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        with self._process:
            pass


class Blaster(Child):
    """The benchmark server."""

    def __init__(self) -> None:
        super().__init__([sys.executable, "-m", "benchmarks.blaster"])
        self.url = f"http://127.0.0.1:{self.hear()}"

    def blast(self, topic: str, **order: Any) -> None:
        """Send frames to the client that has joined the topic; see `blaster.Peer.blast`."""
        self.tell(json.dumps({"topic": f"realtime:{topic}", **order}))


class Player:
    """One client in one scenario."""

    def __init__(self, blaster: Blaster, stack: ExitStack, name: str, client: str) -> None:
        self._blaster = blaster
        self._stack = stack
        self._name = name
        self.client = client
        self.scenario: Scenario = SCENARIOS[name]
        self.topic = f"{name}-{client.replace(' ', '-')}"
        self.figures: Figures = {}
        self._child: Child | None = None if self.scenario.fresh else stack.enter_context(self._start())

    def _start(self) -> Child:
        task = json.dumps(asdict(self.scenario.task))
        child = Child(command(self.client, self._blaster.url, self.topic, task))
        assert (said := child.hear()) == "joined", said
        return child

    def warm_up(self, messages: int) -> None:
        """Run a turn that is not measured."""
        self._turn(messages * _WARM_UP.get(self.client, 1))

    def play(self, messages: int) -> None:
        """Run and record one turn."""
        for measure, value in self._turn(messages).items():
            self.figures.setdefault(measure, []).append(round(value, 4))

    def _turn(self, messages: float) -> dict[str, float]:
        share = self.scenario.share.get(self.client, _SHARE.get(self.client, 1))
        count = 1 if self.scenario.fresh else max(2, int(messages * share) & ~1)
        with ExitStack() as turn:
            child = self._child or turn.enter_context(self._start())
            child.tell(str(count))
            assert (said := child.hear()) == "ready", said
            if self.scenario.task.does == "receive":
                task = self.scenario.task
                more = {"channels": task.channels, "bindings": task.bindings}
                self._blaster.blast(self.topic, kind=task.kind, count=count, **more)
            return {
                measure: value / count * 1e6 if measure in ("cpu", "wall") else value
                for measure, value in self._answer(child).items()
            }

    def _answer(self, child: Child) -> dict[str, float]:
        while True:
            said = json.loads(child.hear())
            if "blast" not in said:
                return said
            self._blaster.blast(said["blast"], kind=self.scenario.task.kind, count=said["count"], pace=_PACE)


def run(
    blaster: Blaster, names: list[str], clients: set[str], messages: int, rounds: int
) -> dict[str, dict[str, Figures]]:
    """Measure the scenarios of one group with the available clients."""
    messages = messages // BLOCK * BLOCK
    with ExitStack() as stack:
        players = [
            Player(blaster, stack, name, client)
            for name in names
            for client in ((OURS,) if SCENARIOS[name].ours else ()) + SCENARIOS[name].clients
            if client in clients
        ]
        for player in players:
            player.warm_up(messages)
        for number in range(rounds):
            first = number % len(players)  # so that no client always follows the same one
            for player in (*players[first:], *players[:first]):
                if number < player.scenario.rounds:
                    player.play(messages)
    return {name: {one.client: one.figures for one in players if one.scenario is SCENARIOS[name]} for name in names}
