"""`supawire bench`: measure a server. Suites, tests and figures have the names of Supabase's realtime-check."""

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from cyclopts import Parameter
from rich.progress import Progress

from supawire.cli import FAILURE, SUCCESS
from supawire.cli.arguments import Duration
from supawire.cli.connection import Connect, Target, open_client
from supawire.cli.output import JsonFlag, Output, make_console, shown
from supawire.errors import InvalidArgumentError, RealtimeError
from supawire.options import Limits, check_count, check_number
from supawire.selectors import broadcast, presence

if TYPE_CHECKING:
    from supawire.aio.client import AsyncClient

CONNECTS: Final = 5
DELIVERY_SLO: Final = 99.0
"""Percent of the messages that must be delivered; with less a test has failed."""
SETTLE: Final = 5.0
"""Seconds to wait for deliveries after the last message."""
REMOTE_WAIT: Final = 2.0
"""Seconds between two tests of a server that is not on this machine, so that they do not share a rate limit."""
EVENT: Final = "load"


class Metric(NamedTuple):
    """A figure of a test."""

    label: str
    value: float
    unit: str


class Load(NamedTuple):
    """How much the tests send."""

    messages: int
    clients: int
    rate: float
    padding: int


Test: TypeAlias = "Callable[[_Bench], Awaitable[list[Metric]]]"


def bench(
    url: Annotated[str | None, Parameter(help="The project's URL; if omitted, that of --url and the like.")] = None,
    /,
    *,
    messages: Annotated[int, Parameter(help="Messages of each test.")] = 20,
    clients: Annotated[int, Parameter(help="Clients that receive, or are present.")] = 10,
    rate: Annotated[float, Parameter(help="Messages a second at most; 0 is without pauses.")] = 20.0,
    size: Annotated[int, Parameter(help="Bytes that each payload is padded with.")] = 0,
    wait: Annotated[
        Duration | None,
        Parameter(help="Time between two tests; if omitted, 2s, or none for a server on this machine."),
    ] = None,
    test: Annotated[
        tuple[str, ...],
        Parameter(negative=(), show_default=False, help="Only tests whose suite or name contains this text."),
    ] = (),
    json: JsonFlag = False,
    connect: Connect = Connect(),
) -> int:
    """Measure a server: connecting, joining, round trips, throughput, fan-out and presence.

    The defaults stay below the limits of the free plan. Topics have random names, so that nobody else receives the
    messages. A test fails if less than 99 % of its messages arrive.
    """
    check_count("--messages", messages, maximum=100_000)
    check_count("--clients", clients, maximum=1000)
    check_number("--rate", rate, minimum=0, maximum=100_000)
    check_count("--size", size, minimum=0, maximum=2_000_000)
    chosen = [each for each in TESTS if not test or any(text in f"{each[0]} / {each[1]}" for text in test)]
    if not chosen:
        names = ", ".join(f"{suite} / {name}" for suite, name, _ in TESTS)
        raise InvalidArgumentError(f"--test {shown(', '.join(test), 100)}: there is no such test; there are {names}")
    if url is not None and connect.url is not None:
        raise InvalidArgumentError("the URL is given twice; leave out --url")
    target = (connect if url is None else replace(connect, url=url)).target()
    pause = wait if wait is not None else 0.0 if _is_local(target.url) else REMOTE_WAIT
    load = Load(messages, clients, rate, size)
    return asyncio.run(_run(chosen, _Bench(target, connect.timeout, load), pause, Output(json=json)))


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")


async def _run(tests: "list[tuple[str, str, Test]]", bench: "_Bench", pause: float, output: Output) -> int:
    await bench.warm_up()
    failed = 0
    started = time.perf_counter()
    notes = make_console(stderr=True)
    with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
        task = progress.add_task("", total=len(tests))
        for number, (suite, name, measure) in enumerate(tests):
            progress.update(task, description=f"{suite} / {name}")
            if number:
                await asyncio.sleep(pause)
            failed += not await _measure(suite, name, measure, bench, output)
            progress.advance(task)
    seconds = time.perf_counter() - started
    if not output.json:
        output.line(f"{len(tests) - failed} passed, {failed} failed in {seconds:.1f} s")
    return FAILURE if failed else SUCCESS


async def _measure(suite: str, name: str, measure: Test, bench: "_Bench", output: Output) -> bool:
    """Run one test and print its figures. Return whether it passed."""
    started = time.perf_counter()
    metrics: list[Metric] = []
    error: str | None = None
    try:
        metrics = await measure(bench)
        delivered = next((metric.value for metric in metrics if metric.label == "delivered"), 100.0)
        if delivered < DELIVERY_SLO:
            error = f"{delivered:.1f} % delivered, less than {DELIVERY_SLO:g} %"
    except RealtimeError as raised:
        error = str(raised)
    seconds = time.perf_counter() - started
    if output.json:
        slis = {metric.label: {"value": round(metric.value, 3), "unit": metric.unit} for metric in metrics}
        fields = {
            "suite": suite,
            "name": name,
            "passed": error is None,
            "durationMs": round(1000 * seconds),
            "slis": slis,
        }
        output.record(fields | ({"error": error} if error else {}))
    else:
        figures = "  ".join(f"{metric.label} {_figure(metric)}" for metric in metrics)
        verdict = ("FAIL", "red") if error else ("PASS", "green")
        output.line(verdict, f"  {suite} / {name}  {figures}", (f"  {shown(error)}" if error else "", "red"))
    return error is None


def _figure(metric: Metric) -> str:
    return f"{metric.value:.{0 if metric.value >= 100 else 1}f} {metric.unit}"


def percentiles(latencies: list[float]) -> list[Metric]:
    """Return p50, p95 and p99 of latencies in seconds, by the nearest rank."""
    ordered = sorted(latencies)
    ranks = {name: max(0, math.ceil(len(ordered) * share) - 1) for name, share in _SHARES.items()}
    return [Metric(name, 1000 * ordered[rank] if ordered else 0.0, "ms") for name, rank in ranks.items()]


_SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class _Deliveries:
    """When messages were sent, and how long each delivery took."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._sent_at: dict[Any, float] = {}
        self._first: float | None = None
        self._last = 0.0
        self._complete = asyncio.Event()
        self.latencies: list[float] = []

    def send(self, key: Any) -> None:
        """Record that a message is sent now."""
        now = time.perf_counter()
        self._sent_at[key] = now
        if self._first is None:
            self._first = now

    def arrive(self, key: Any) -> None:
        """Record that a message has arrived now; a message of someone else is ignored."""
        sent_at = self._sent_at.get(key)
        if sent_at is None:
            return
        self._last = time.perf_counter()
        self.latencies.append(self._last - sent_at)
        if len(self.latencies) >= self._expected:
            self._complete.set()

    async def metrics(self) -> list[Metric]:
        """Wait until everything has arrived, or `SETTLE` seconds, and return the figures."""
        try:
            async with asyncio.timeout(SETTLE):
                await self._complete.wait()
        except TimeoutError:
            pass
        delivered = Metric("delivered", 100 * len(self.latencies) / self._expected, "%")
        seconds = self._last - (self._first or 0.0)
        rate = Metric(
            "throughput", len(self.latencies) / seconds if self.latencies and seconds > 0 else 0.0, "events/s"
        )
        return [delivered, *percentiles(self.latencies), rate]


class _Bench:
    """The tests. Each one opens clients of its own."""

    def __init__(self, target: Target, timeout: float, load: Load) -> None:
        self._target = target
        self._timeout = timeout
        self._load = load

    async def _client(self, stack: AsyncExitStack) -> "AsyncClient":
        return await stack.enter_async_context(
            open_client(self._target, self._timeout, limits=Limits(presence_calls=None))
        )

    async def warm_up(self) -> None:
        """Open a client once, so that imports are not measured and a server that is not there ends the command."""
        async with AsyncExitStack() as stack:
            await self._client(stack)

    async def connect(self) -> list[Metric]:
        """Measure opening a connection and joining its first channel."""
        latencies: list[float] = []
        for _ in range(CONNECTS):
            async with AsyncExitStack() as stack:
                started = time.perf_counter()
                client = await self._client(stack)
                await client.channel(_topic()).subscribe()
                latencies.append(time.perf_counter() - started)
        return percentiles(latencies)

    async def join(self) -> list[Metric]:
        """Measure joins of channels, one after another."""
        latencies: list[float] = []
        async with AsyncExitStack() as stack:
            client = await self._client(stack)
            for _ in range(min(self._load.messages, 50)):
                started = time.perf_counter()
                await client.channel(_topic()).subscribe()
                latencies.append(time.perf_counter() - started)
        return percentiles(latencies)

    async def ping(self) -> list[Metric]:
        """Measure heartbeats."""
        async with AsyncExitStack() as stack:
            client = await self._client(stack)
            return percentiles([await client.ping() for _ in range(self._load.messages)])

    async def round_trip(self) -> list[Metric]:
        """Measure messages that the sender itself receives."""
        return await self._broadcast(receivers=0)

    async def fan_out(self) -> list[Metric]:
        """Measure messages that many clients receive."""
        return await self._broadcast(receivers=self._load.clients)

    async def _broadcast(self, receivers: int) -> list[Metric]:
        topic, deliveries = _topic(), _Deliveries(self._load.messages * max(1, receivers))
        async with AsyncExitStack() as stack:
            sender = (await self._client(stack)).channel(topic, echo=receivers == 0)
            channels = (
                [sender] if receivers == 0 else [(await self._client(stack)).channel(topic) for _ in range(receivers)]
            )
            for channel in channels:
                channel.on(broadcast(EVENT), lambda event: deliveries.arrive(event.payload.get("seq")))
            await asyncio.gather(*(channel.subscribe() for channel in {*channels, sender}))
            for number in range(self._load.messages):
                await self._pace(number)
                deliveries.send(number)
                await sender.broadcast(EVENT, self._payload(number))
            return await deliveries.metrics()

    async def publish(self) -> list[Metric]:
        """Measure messages by HTTP, which a client receives over its socket."""
        topic, deliveries = _topic(), _Deliveries(self._load.messages)
        async with AsyncExitStack() as stack:
            client = await self._client(stack)
            channel = client.channel(topic)
            channel.on(broadcast(EVENT), lambda event: deliveries.arrive(event.payload.get("seq")))
            await channel.subscribe()
            for number in range(self._load.messages):
                await self._pace(number)
                deliveries.send(number)
                await client.publish(topic, EVENT, self._payload(number))
            return await deliveries.metrics()

    async def presence(self) -> list[Metric]:
        """Measure how soon one client sees that others have joined."""
        topic, deliveries = _topic(), _Deliveries(self._load.clients)
        async with AsyncExitStack() as stack:
            observer = (await self._client(stack)).channel(topic)
            observer.on(presence(), lambda event: deliveries.arrive(getattr(event, "key", None)))
            await observer.subscribe()
            for number in range(self._load.clients):
                client = await self._client(stack)
                channel = client.channel(topic, presence_key=f"client-{number}")
                await channel.subscribe()
                await self._pace(number)
                deliveries.send(f"client-{number}")
                await channel.track({"key": f"client-{number}"})
            return await deliveries.metrics()

    def _payload(self, number: int) -> dict[str, Any]:
        padding = {"padding": "x" * self._load.padding} if self._load.padding else {}
        return {"seq": number, **padding}

    async def _pace(self, number: int) -> None:
        """Wait so long that the rate is not exceeded."""
        if self._load.rate and number:
            await asyncio.sleep(1 / self._load.rate)


def _topic() -> str:
    return f"topic:{secrets.token_hex(8)}"


TESTS: "Final[list[tuple[str, str, Test]]]" = [
    ("connection", "first connect latency", _Bench.connect),
    ("connection", "channel join latency", _Bench.join),
    ("connection", "heartbeat round trip", _Bench.ping),
    ("load-broadcast", "broadcast self throughput", _Bench.round_trip),
    ("load-broadcast", "broadcast fan-out throughput", _Bench.fan_out),
    ("load-broadcast", "broadcast API endpoint throughput", _Bench.publish),
    ("load-presence", "presence join throughput", _Bench.presence),
]
