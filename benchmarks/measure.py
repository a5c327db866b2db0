"""The runner: one server, one process per client, and rounds in which the clients take turns.

A machine's speed changes within minutes by more than the clients differ, so only figures of the same round are
compared: the result of a scenario has one figure per client and round.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.frames import BLOCK
from benchmarks.peers import ROOT, command
from benchmarks.scenarios import FAST, NODE, OURS, PYTHON, SCENARIOS, TCP, TLS, Scenario

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

VARIANTS: Final[dict[str, dict[str, Any]]] = {
    FAST: {"fast": True},
    "queue": {"reading": "queue"},
    "step": {"reading": "step"},
    "task": {"reading": "task"},
    "queue, fast": {"fast": True},
    "step, fast": {"reading": "step", "fast": True},
    "task, fast": {"reading": "task", "fast": True},
}
"""Clients that are supawire with other options of its transport."""

Figures = dict[str, list[float]]
"""The figures of one client in one scenario: by measure, one per round. `cpu` and `wall`: microseconds per message."""


class Child:
    """A process that answers lines of its standard input."""

    def __init__(self, line: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            line,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**_ENVIRONMENT, **(environment or {})},
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
    """The benchmark server. Over TLS it has a certificate that only its clients trust."""

    def __init__(self, carrier: str = TCP) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.carrier = carrier
        self.trust: dict[str, str] = {}
        """The environment in which a client trusts the certificate."""
        certificates = self._certify(Path(self._folder.name)) if carrier == TLS else []
        super().__init__([sys.executable, "-m", "benchmarks.blaster", *certificates])
        self.url = f"{'https' if carrier == TLS else 'http'}://127.0.0.1:{self.hear()}"

    def _certify(self, folder: Path) -> list[str]:
        """Write a certificate of this machine and its authority; returns the file with certificate and key."""
        import trustme

        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "authority.pem")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        self.trust = dict.fromkeys(("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"), str(folder / "authority.pem"))
        return [str(folder / "server.pem")]

    def blast(self, topic: str, **order: Any) -> None:
        """Send frames to the client that has joined the topic; see `blaster.Peer.blast`."""
        self.tell(json.dumps({"topic": f"realtime:{topic}", **order}))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._folder.cleanup()


class Player:
    """One client in one scenario."""

    def __init__(self, blaster: Blaster, stack: ExitStack, name: str, client: str) -> None:
        self._blaster = blaster
        self._stack = stack
        self.name = name
        self.client = client
        self.scenario: Scenario = SCENARIOS[name]
        self.carrier = blaster.carrier
        self.topic = f"{name}-{client.replace(' ', '-')}"
        self.figures: Figures = {}
        self._child: Child | None = None if self.scenario.fresh else stack.enter_context(self._start())

    def _start(self) -> Child:
        task = json.dumps(asdict(replace(self.scenario.task, **VARIANTS.get(self.client, {}))))
        child = Child(command(self.client, self._blaster.url, self.topic, task), self._blaster.trust)
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
        client = OURS if self.client in VARIANTS else self.client
        share = self.scenario.share.get(client, _SHARE.get(client, 1))
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


def take_turns(players: Sequence[Player], messages: int, rounds: int) -> None:
    """Warm up all players, then let each play these rounds in turn."""
    for player in players:
        player.warm_up(messages)
    for number in range(rounds):
        first = number % len(players)  # so that no client always follows the same one
        for player in (*players[first:], *players[:first]):
            if number < player.scenario.rounds:
                player.play(messages)


def run(
    blasters: Sequence[Blaster], names: list[str], clients: set[str], messages: int, rounds: int
) -> dict[str, dict[str, dict[str, Figures]]]:
    """Measure the scenarios of one group with the available clients.

    Returns the figures by carrier, scenario and client.
    """
    messages = messages // BLOCK * BLOCK
    with ExitStack() as stack:
        players = [
            Player(blaster, stack, name, client)
            for name in names
            for blaster in blasters
            if blaster.carrier in SCENARIOS[name].carriers
            for client in ((OURS,) if SCENARIOS[name].ours else ()) + SCENARIOS[name].clients
            if client in clients
        ]
        take_turns(players, messages, rounds)
    found: dict[str, dict[str, dict[str, Figures]]] = {blaster.carrier: {} for blaster in blasters}
    for one in players:
        found[one.carrier].setdefault(one.name, {})[one.client] = one.figures
    return found
