"""A TCP proxy between clients and a server that changes frames on their way to the clients."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

Tamper = Callable[[bytes], list[bytes]]
"""Takes the payload of one frame and returns the payloads that go on: none, it, or others."""

END_OF_HEAD = b"\r\n\r\n"


class Proxy:
    """A proxy on a free port. HTTP and WebSocket handshakes are not changed."""

    def __init__(self, port: int, tamper: Tamper) -> None:
        self._target = port
        self._tamper = tamper
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """Return the URL of the proxy."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open.append(self._listener)
        self._start(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):  # already closed by the other side
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _start(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._open += [client, server]
            self._start(self._forward, client, server, lambda data: data)
            self._start(self._forward, server, client, Frames(self._tamper))

    def _forward(self, source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes]) -> None:
        try:
            while data := source.recv(65_536):
                sink.sendall(change(data))
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return  # one of the connections is closed


class Frames:
    """Splits the server's bytes into frames and changes those after the response head."""

    def __init__(self, tamper: Tamper) -> None:
        self._tamper = tamper
        self._head = True
        self._rest = b""

    def __call__(self, data: bytes) -> bytes:
        self._rest += data
        out = b""
        if self._head:
            head, end, rest = self._rest.partition(END_OF_HEAD)
            if not end or b" 101 " not in head.partition(b"\r\n")[0]:
                out, self._rest = self._rest, b""
                return out
            out, self._rest, self._head = head + end, rest, False
        while (frame := self._next_frame()) is not None:
            first, payload = frame
            payloads = [payload] if first & 0x08 else self._tamper(payload)  # control frames are not changed
            out += b"".join(bytes([first]) + _length(len(each)) + each for each in payloads)
        return out

    def _next_frame(self) -> tuple[int, bytes] | None:
        """Return the first byte and the payload of the next complete frame."""
        if len(self._rest) < 2:
            return None
        size, start = self._rest[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(self._rest[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(self._rest[2:10], "big"), 10
        if len(self._rest) < start + size:
            return None
        frame = self._rest[0], self._rest[start : start + size]
        self._rest = self._rest[start + size :]
        return frame


def _length(size: int) -> bytes:
    if size < 126:
        return bytes([size])
    return b"\x7e" + size.to_bytes(2, "big") if size < 65_536 else b"\x7f" + size.to_bytes(8, "big")
