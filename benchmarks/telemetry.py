"""What telemetry costs per message: `python -m benchmarks.telemetry` (needs opentelemetry-sdk).

A plain handler receives a block of broadcasts or changes in memory, without telemetry and with it. Each figure is the
CPU time of the smallest of many short, interleaved turns.
"""

import argparse
import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from benchmarks.clients.readers import payload_read, record_read
from benchmarks.frames import EVENT, TABLE, plain
from benchmarks.inmemory import URL, Memory
from benchmarks.lanes import TOPIC, Count, Turn, fed
from supawire import Limits, broadcast, changes, connect_async
from supawire.telemetry import Telemetry


def make(**options: Any) -> Callable[[], Telemetry]:
    """Return a function that makes a telemetry with an SDK whose data goes nowhere."""

    def made() -> Telemetry:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

        share = options.pop("sampled", 1.0)
        return Telemetry(
            tracer_provider=TracerProvider(TraceIdRatioBased(share)),
            meter_provider=MeterProvider([InMemoryMetricReader()]),
            **options,
        )

    return made


KINDS: Final[dict[str, Callable[[], Telemetry | None]]] = {
    "without": lambda: None,
    "metrics": make(traces=False),
    "metrics, and spans of which 1 % are sampled": make(sampled=0.01),
    "metrics and spans": make(),
}


async def measure(seconds: float) -> dict[tuple[str, str], float]:
    """Return the microseconds per message, by telemetry and kind of message."""
    turns: dict[tuple[str, str], Turn] = {}
    async with AsyncExitStack() as stack:
        for name, telemetry in KINDS.items():
            for kind, selector, read in (
                ("broadcast", broadcast(EVENT), payload_read),
                ("change", changes(TABLE), record_read),
            ):
                memory = Memory()
                client = await stack.enter_async_context(
                    connect_async(URL, "key", transport=memory, limits=Limits.off(), telemetry=telemetry())
                )
                channel = client.channel("lane")
                channel.on(selector, read(Count()))
                await channel.subscribe()
                turns[name, kind] = fed(memory, plain(kind, "2.0.0", TOPIC))
        best = dict.fromkeys(turns, float("inf"))
        until = time.monotonic() + seconds
        gc.collect()
        gc.disable()
        try:
            while time.monotonic() < until:
                for key, turn in turns.items():
                    best[key] = min(best[key], await turn())
                gc.collect(0)
        finally:
            gc.enable()
    return {key: 1e6 * value for key, value in best.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.telemetry", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    found = asyncio.run(measure(parser.parse_args().seconds))
    for name in KINDS:
        print(f"| {name} | {found[name, 'broadcast']:.1f} µs | {found[name, 'change']:.1f} µs |")


if __name__ == "__main__":
    main()
