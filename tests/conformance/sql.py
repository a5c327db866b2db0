"""Sends SQL from stdin to `tests.conformance.server`: `python sql.py PORT`, for the judge's `--sql-command`."""

import socket
import sys


def main(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(sys.stdin.buffer.read())
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
    if answer != "ok":
        print(answer, file=sys.stderr)
    return answer != "ok"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
