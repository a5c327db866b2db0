"""Pauses and resumes reading under load, again and again: `python -m tests.transport.pausing --cycles 10000`.

A server in its own process sends numbered frames of different sizes as fast as they are read. After each resumption
more frames must arrive within `PATIENCE` seconds, all in order, and at most one while reading is paused. `--plain` is
without TLS, `--slow` without aiofastnet. SUPAWIRE_TEST_LOOP selects the event loop, as for the tests.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from supawire.options import Endpoint
from supawire.transport import Connection, OpenRequest
from supawire.transport.websocket import Reading, WebSocketTransport
from tests.faults.misbehaver import BINARY, TEXT, Misbehaver, Wire
from tests.loops import LOOPS, chosen

PATIENCE: Final = 20.0
SIZES: Final = (0, 10, 100, 200, 200, 200, 700, 3_000, 20_000, 90_000)
"""Bytes of padding after the number, which are taken in turn."""


async def flood(wire: Wire) -> None:
    """Accept the upgrade, then send numbered frames until the client closes."""
    await wire.upgrade()
    number = 0
    while not wire.is_closing():
        for _ in range(50):
            padding = bytes(SIZES[number % len(SIZES)])
            wire.send(b"%d " % number + padding, BINARY if number % 3 else TEXT)
            number += 1
        await wire.drain()
        await asyncio.sleep(0)


@dataclass
class Numbers:
    """A sink that checks the order of the frames, and that there is at most one while reading is paused."""

    max_batch: int = 256
    next: int = 0
    since_pause: int | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def frame(self, data: bytes, binary: bool, /) -> None:
        number, _, padding = data.partition(b" ")
        assert int(number) == self.next, f"frame {number!r} instead of {self.next}"
        assert len(padding) == SIZES[self.next % len(SIZES)]
        self.next += 1
        if self.since_pause is not None:
            self.since_pause += 1
            assert self.since_pause <= 1, "a frame was passed although reading is paused"
        self.arrived.set()

    def batch_done(self) -> None: ...

    async def reach(self, number: int) -> None:
        """Wait until this frame has arrived. Raises: TimeoutError if none arrives for too long."""
        while self.next <= number:
            self.arrived.clear()
            async with asyncio.timeout(PATIENCE):
                await self.arrived.wait()


async def pause_and_resume(connection: Connection, cycles: int, seed: int) -> Numbers:
    """Read from a server that floods, with this many pauses; return what was seen. Raises: TimeoutError at a stall."""
    numbers, luck = Numbers(), random.Random(seed)
    run = asyncio.ensure_future(connection.run(numbers))
    try:
        for _ in range(cycles):
            await numbers.reach(numbers.next + luck.choice((0, 1, 10, 300)))
            assert not run.done(), run.result()
            connection.pause_reading()
            numbers.since_pause = 0
            await asyncio.sleep(luck.choice((0, 0, 0.0005, 0.003)))
            connection.write(b"[]", False)
            numbers.since_pause = None
            connection.resume_reading()
    finally:
        connection.abort()
        await run
    return numbers


async def connect(url: str, tls: Any, *, fast: bool, reading: Reading) -> Connection:
    """Open a connection to the server."""
    return await WebSocketTransport(fast=fast, reading=reading).open(OpenRequest(Endpoint.of(url, "key"), ssl=tls))


async def serve(certificate: str) -> None:
    """Serve until standard input ends, and print the URL."""
    import ssl

    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    async with Misbehaver(flood, tls=tls) as server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.readline)


def measure(runner: asyncio.Runner, options: argparse.Namespace) -> None:
    """Start the server, run the cycles, and print what was seen."""
    import ssl

    import trustme

    with TemporaryDirectory() as folder:
        certificate, tls = "", None
        if not options.plain:
            authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            authority.configure_trust(tls)
            certificate = str(Path(folder) / "server.pem")
            authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        command = [sys.executable, "-m", "tests.transport.pausing", "--serve", certificate]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin is not None and server.stdout is not None
            url = server.stdout.readline().strip()
            began = time.perf_counter()
            opening = connect(url, tls, fast=not options.slow, reading=Reading(options.reading))
            connection: Any = runner.run(opening)
            numbers = runner.run(pause_and_resume(connection, options.cycles, options.seed))
            took = time.perf_counter() - began
            server.stdin.close()
    way = f"{connection.name}, {options.reading}, {chosen()}"
    print(f"{options.cycles:,} cycles, {numbers.next:,} frames in {took:.0f} s by {way}: none stalled")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.transport.pausing", description=__doc__)
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--reading", default=Reading.QUEUE, choices=list(Reading))
    parser.add_argument("--serve")
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve))
        return
    with asyncio.Runner(loop_factory=LOOPS.get(chosen())) as runner:
        measure(runner, options)


if __name__ == "__main__":
    main()
