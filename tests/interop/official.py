"""The official clients in separate processes, controlled by lines of JSON; `peers/` has their programs."""

import asyncio
import json
import queue
import subprocess
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

PEERS: Final = Path(__file__).resolve().parent / "peers"
TIMEOUT: Final = 15.0
"""Seconds until an answer or event counts as missing."""


class Process:
    """One official client library in a process; it may have many clients."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, cwd=PEERS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._numbers = count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._clients: dict[int, Peer] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "id" in message:
                self._answers.pop(message["id"]).put(message)
            elif message["client"] in self._clients:
                self._clients[message["client"]].events.put(message)

    def client(self) -> "Peer":
        """Create another client, which is not connected yet."""
        number = next(self._numbers)
        self._clients[number] = Peer(self, number)
        return self._clients[number]

    def request(self, name: str, **arguments: Any) -> Any:
        """Send a command and return its result. Raises AssertionError with the peer's error."""
        number = next(self._numbers)
        answer: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._answers[number] = answer
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": name, **arguments}) + "\n")
        self._process.stdin.flush()
        result = answer.get(timeout=TIMEOUT)
        assert "error" not in result, f"{name}: {result['error']}"
        return result["ok"]

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=5)
        self._process.stdout.close()


class Peer:
    """One client of an official library."""

    def __init__(self, process: Process, number: int) -> None:
        self._process = process
        self._number = number
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._skipped: list[dict[str, Any]] = []

    async def request(self, name: str, **arguments: Any) -> Any:
        """Send a command of `peers/` and return its result."""
        return await asyncio.to_thread(self._process.request, name, client=self._number, **arguments)

    async def open(self, url: str, key: str, vsn: str) -> None:
        """Connect, or prepare to connect with the first channel."""
        await self.request("open", url=f"{url}/realtime/v1".replace("http", "ws", 1), key=key, vsn=vsn)

    async def join(
        self,
        topic: str,
        *,
        private: bool = False,
        echo: bool = False,
        ack: bool = False,
        presence: str | None = None,
        changes: tuple[dict[str, Any], ...] = (),
        replay: dict[str, int] | None = None,
    ) -> str:
        """Subscribe to a channel and return the status, `SUBSCRIBED` on success. `presence` is the key."""
        broadcast: dict[str, Any] = {"self": echo, "ack": ack}
        if replay is not None:
            broadcast["replay"] = replay
        options = {
            "private": private,
            "broadcast": broadcast,
            "presence": {"key": presence or "", "enabled": presence is not None},
        }
        status = await self.request("join", topic=topic, options=options, changes=list(changes))
        await self.next("status")
        return status

    async def next(self, on: str, matches: Callable[[dict[str, Any]], bool] = lambda event: True) -> dict[str, Any]:
        """Return the next event of this kind that matches; others are kept for later."""
        for place, event in enumerate(self._skipped):
            if event["on"] == on and matches(event):
                return self._skipped.pop(place)
        while True:
            event = await asyncio.to_thread(self._get, on)
            if event["on"] == on and matches(event):
                return event
            self._skipped.append(event)

    def discard(self) -> None:
        """Discard the events so far."""
        self._skipped.clear()
        while not self.events.empty():
            self.events.get_nowait()

    def _get(self, on: str) -> dict[str, Any]:
        try:
            return self.events.get(timeout=TIMEOUT)
        except queue.Empty:
            raise AssertionError(f"no {on} arrived; received: {self._skipped}") from None

    async def message(self) -> Any:
        """Return event and payload of the next broadcast."""
        event = await self.next("broadcast")
        return event["event"], event["payload"]
