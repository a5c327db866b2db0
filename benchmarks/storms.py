"""Simulate many clients whose server restarts, and print what the server sees: `python -m benchmarks.storms`.

Every client is a complete session of the core, and the server is the hub of the local server; both run in memory
under a virtual clock (`supawire.testing.linked`). With `--write` the curves are kept in storms.json for the page
docs/scale.md; with `--clients` another number of clients is simulated.

The hub answers at once. A real server does not, so `Site` gives it a capacity: handshakes and joins are processed one
after another, in the order in which they arrive, also for clients that have given up in the meantime.
"""

import argparse
import gc
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from supawire.core.connection import Cause
from supawire.core.outbox import OutgoingBroadcast
from supawire.core.token import Tokens
from supawire.events import ChannelState, Instant
from supawire.options import Backoff, Limits, Secret, SessionOptions
from supawire.server.hub_options import HubOptions, Timings
from supawire.server.limits import ServerLimits
from supawire.server.tokens import sign
from supawire.testing.linked import SECRET, LinkedClient, Wire, World

KEPT: Final = Path(__file__).resolve().parent / "storms.json"
"""The recorded curves that the page shows."""

CLIENTS: Final = 10_000
CAPACITY: Final = 500.0
"""Handshakes and joins that the simulated server processes per second. An assumption, not a measured figure."""

LIFETIME: Final = 3600.0
"""Seconds for which a token is valid."""

PLANS: Final = {
    # the server's limits, and how many clients may be connected
    "free": (ServerLimits(joins=100, messages=100), 200),
    "pro": (ServerLimits(joins=500, messages=500), 500),
    "team": (ServerLimits(joins=2500, messages=2500), 10_000),
}
"""The rates of the hosted plans, from docs/protocol.md, Limits."""

BUDGETED: Final = 200
"""The most clients that send in the simulation of message budgets; the share of each follows from their number."""

JOIN_RATES: Final = {"no limit": None, "50 joins per second": 50.0, "5 joins per second": 5.0}
"""The limits of each client that are compared for clients with many channels."""

ROOM: Final = 10
"""Clients in one room."""


class Site(World):
    """A world that counts what reaches the server in each second, and whose server has a capacity."""

    def __init__(self, limits: ServerLimits | None) -> None:
        options = HubOptions(secret=SECRET, limits=limits or ServerLimits(), timings=Timings.strict())
        super().__init__(seed=15, hub=options)
        self.capacity: float | None = None
        self.counts: dict[str, Counter[int]] = {}
        self.began = 0.0
        self._free_at = 0.0

    def count(self, what: str) -> None:
        """Count an event in the present second of the measurement."""
        self.counts.setdefault(what, Counter())[int(self.clock.now.mono - self.began)] += 1

    def measure(self) -> None:
        """Forget what was counted; the measurement begins now."""
        self.counts.clear()
        self.began = self.clock.now.mono

    def _waiting(self) -> float:
        """Take the next place in the server's queue; return the seconds until this request has been processed."""
        if self.capacity is None:
            return 0.0
        now = self.clock.now.mono
        self._free_at = max(self._free_at, now) + 1 / self.capacity
        return self._free_at - now

    def connect(self, client: LinkedClient, generation: int) -> None:
        """Let the attempt wait for the server."""
        self.count("connects")
        begin = super().connect
        self.later(self.clock.now.mono + self._waiting(), lambda: begin(client, generation))

    def up(self, wire: Wire, data: bytes, binary: bool) -> None:
        """Let a join, and what follows it on its connection, wait for the server."""
        if not binary and b'"phx_join"' in data:
            self.count("joins")
            wire.up_at = max(wire.up_at, self.clock.now.mono + self._waiting())
        super().up(wire, data, binary)

    def joined(self) -> int:
        """Return how many channels of all clients are joined."""
        return sum(
            channel.state is ChannelState.JOINED
            for client in self.clients
            for channel in client.session.channels.values()
        )


class Member(LinkedClient):
    """A client of a site, which counts its failures."""

    def __init__(self, world: Site, options: SessionOptions, seed: int) -> None:
        super().__init__(world, options, seed=seed)
        self.site = world
        self.keep_history = False

    def fail(self, generation: int, cause: Cause) -> None:
        """Count a refused attempt."""
        self.site.count("refused")
        super().fail(generation, cause)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated: how many clients, with how many channels each, and their options."""

    clients: int
    options: SessionOptions
    channels: int = 1
    capacity: float | None = None
    limits: ServerLimits | None = None


def begin(client: LinkedClient, topics: list[str]) -> None:
    """Connect a client and join its channels."""
    client.call(client.session.open)
    for topic in topics:
        client.call(client.session.join, topic)


def site(setting: Setting, provide: Callable[[Site], str] | None = None) -> Site:
    """Return a site whose clients have been joined for a while; they came one after another."""
    world = Site(setting.limits)
    for number in range(setting.clients):
        client = Member(world, setting.options, seed=number)
        if provide is not None:
            client.provide = lambda: provide(world)
        topics = [client.channel(f"room-{channel}-{number // ROOM}") for channel in range(setting.channels)]
        world.later(number / 500, partial(begin, client, topics))
    world.run_for(setting.clients / 500 + 10)
    for _ in range(20):
        if world.joined() == setting.clients * setting.channels:
            break
        world.run_for(10)
    else:
        raise AssertionError("not all channels were joined before the storm")
    world.capacity = setting.capacity
    world.measure()
    return world


def per_second(world: Site, what: str, seconds: int) -> list[int]:
    """Return how often it was counted in each second."""
    counts = world.counts.get(what, Counter())
    return [counts[second] for second in range(seconds)]


def restart(setting: Setting, seconds: int) -> dict[str, Any]:
    """Restart the server at second 0; return attempts and joins per second, and the share of joined channels."""
    world = site(setting)
    world.restart()
    every = setting.clients * setting.channels
    joined = run(world, seconds, every)
    return {
        "connects": per_second(world, "connects", seconds),
        "joins": per_second(world, "joins", seconds),
        "refused": sum(per_second(world, "refused", seconds)),
        "joined": joined,
        "most": after(joined, 0.9),
        "all": after(joined, 1.0),
    }


def run(world: Site, seconds: int, channels: int) -> list[float]:
    """Let time pass; return the share of joined channels at the end of each second."""
    joined: list[float] = []
    for second in range(1, seconds + 1):
        world.later(world.began + second, lambda: joined.append(round(world.joined() / channels, 4)))
    world.run_for(seconds)
    return joined


def after(shares: list[float], share: float) -> int | None:
    """Return the number of seconds after which so many channels were joined again, and stayed so until the end."""
    below = [second for second, value in enumerate(shares, 1) if value < share]
    last = below[-1] if below else 0
    return None if last == len(shares) else last + 1


class Middle(random.Random):
    """Draws no random numbers: `uniform` returns the middle, as for clients that do not spread out."""

    def uniform(self, a: float, b: float) -> float:
        """Return the middle of the range."""
        return (a + b) / 2


def refresh(clients: int, *, spread: bool) -> list[int]:
    """Return the calls of the token provider in each minute of an hour, when all tokens were issued together.

    The rest of the client is not needed for this: the calls follow from `Tokens.refresh_in` alone.
    """
    token = Secret(sign({"role": "authenticated", "exp": int(LIFETIME)}, SECRET))
    minutes: Counter[int] = Counter()
    for number in range(clients):
        source = random.Random(number) if spread else Middle()
        tokens = Tokens(token, has_provider=True, random=source)
        wait = tokens.refresh_in(Instant(0.0, 0.0))
        assert wait is not None
        minutes[int(wait // 60)] += 1
    return [minutes[minute] for minute in range(60)]


def fetches(clients: int, seconds: int) -> list[int]:
    """Return the calls of the token provider per second after a restart, when each client has a provider."""

    def provide(world: Site) -> str:
        world.count("tokens")
        return world.token(expires_in=LIFETIME)

    world = site(Setting(clients, SessionOptions(has_token_provider=True)), provide)
    world.restart()
    world.run_for(seconds)
    return per_second(world, "tokens", seconds)


def budget(plan: str, rate: float, *, seconds: int = 60, clients: int | None = None) -> dict[str, Any]:
    """Let each client of a plan send `rate` messages per second for a while; return what the server did."""
    limits, most = PLANS[plan]
    count = clients or most
    world = site(Setting(count, SessionOptions(limits=Limits(messages_per_second=None)), limits=limits))
    message = OutgoingBroadcast("cursor", b'{"x":1}')

    def send(client: LinkedClient, topic: str) -> None:
        if client.session.channels[topic].state is ChannelState.JOINED:
            client.call(client.session.broadcast, topic, message)

    for number, client in enumerate(world.clients):
        topic = next(iter(client.session.channels))
        for step in range(int(seconds * rate)):
            at = world.began + (step + number / count) / rate
            world.later(at, lambda c=client, t=topic: send(c, t))
    joined = run(world, seconds, count)
    return {"asked": round(rate * count * ROOM, 1), "joined": joined, "least": min(joined)}


BACKOFFS: Final = {
    "exactly 1.5 s": Backoff(jitter=0.0),
    "up to 1.5 s, the default": Backoff(),
    "up to 20 s": Backoff(initial=20.0),
}
"""The ways to reconnect that are compared, by the wait before the first attempt."""


def storms(clients: int = CLIENTS, seconds: int = 100, capacity: float = CAPACITY) -> dict[str, Any]:
    """Return the curves of a restart for each way to reconnect."""
    found: dict[str, Any] = {}
    for name, backoff in BACKOFFS.items():
        began = time.process_time()
        setting = Setting(clients, SessionOptions(backoff=backoff), capacity=capacity)
        found[name] = restart(setting, seconds)
        show(f"restart, {name}", found[name], began)
    return found


def paced(clients: int, channels: int, seconds: int, capacity: float) -> dict[str, Any]:
    """Return the curves of a restart of clients with many channels, by the limit of joins of each client."""
    found: dict[str, Any] = {}
    for name, rate in JOIN_RATES.items():
        began = time.process_time()
        options = SessionOptions(limits=Limits(joins_per_second=rate))
        setting = Setting(clients, options, channels, capacity, PLANS["pro"][0])
        found[name] = restart(setting, seconds)
        show(f"joins, {name}", found[name], began)
    return found


def show(name: str, result: dict[str, Any], began: float) -> None:
    """Print one result in a line."""
    connects, joins = result["connects"], result["joins"]
    print(
        f"{name}: {max(connects)} attempts in the worst second, {sum(connects)} in all, {sum(joins)} joins, "
        f"90 % after {result['most']} s, all after {result['all']} s, {time.process_time() - began:.0f} s of CPU",
        flush=True,
    )
    gc.collect()


def kept() -> dict[str, Any]:
    """Return the recorded curves."""
    return json.loads(KEPT.read_text(encoding="utf-8"))


def main() -> None:
    """Run everything, print it and, with `--write`, keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storms", description=__doc__)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--only", choices=("restart", "joins", "tokens", "budgets"), nargs="*")
    parser.add_argument("--write", action="store_true", help="keep the figures for the page")
    options = parser.parse_args()
    count: int = options.clients
    capacity = CAPACITY * count / CLIENTS
    wanted = options.only or ("restart", "joins", "tokens", "budgets")
    found: dict[str, Any] = {}
    if "restart" in wanted:
        found["restart"] = storms(count, 100, capacity)
    if "joins" in wanted:
        found["joins"] = paced(max(1, count // 100), 100, 60, capacity)
    if "tokens" in wanted:
        found["tokens"] = {"together": refresh(count, spread=False), "spread": refresh(count, spread=True)}
        found["fetches"] = fetches(count // 10, 20)
        print("tokens", max(found["tokens"]["together"]), max(found["tokens"]["spread"]), found["fetches"])
    if "budgets" in wanted:
        found["budgets"] = {}
        for plan, (limits, most) in PLANS.items():
            clients = min(most, BUDGETED)
            share = (limits.messages or 0) / (clients * ROOM)
            results = {f"{times:g}": budget(plan, share * times, clients=clients) for times in (0.9, 2)}
            found["budgets"][plan] = {"clients": clients, "share": share, "results": results}
            print(plan, clients, round(share, 4), {name: one["least"] for name, one in results.items()}, flush=True)
    print(f"{time.process_time():.0f} s of CPU")
    if options.write:
        before = kept() if KEPT.exists() else {}
        KEPT.write_text(json.dumps(before | found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
