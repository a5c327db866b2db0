"""Broadcasts, presence and row changes with the sync client.

SUPAWIRE_URL=… SUPAWIRE_KEY=… python examples/plain_script.py alice
"""

import os
import sys
import time
from typing import Any

from supawire import Broadcast, Insert, broadcast, changes, connect


def main(name: str) -> None:
    """Send a broadcast, track presence, and print the next new user."""
    with connect(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"], on_error=print) as client:
        room = client.channel("room:lobby", echo=True, presence_key=name)

        @room.on(broadcast("typing"))
        def typing(message: Broadcast[dict[str, str]]) -> None:
            print(message.payload["user"], "is typing", flush=True)

        users = room.listen(changes("users", event="INSERT"))  # listeners come before subscribe()
        room.subscribe(wait="ready")
        room.broadcast("typing", {"user": name})
        room.track({"online_at": int(time.time())})
        for change in users:
            show(change)
            break
        print("here:", *room.presence_state(), flush=True)
        room.untrack()
        room.unsubscribe()


def show(change: Insert[dict[str, Any]]) -> None:
    """Print an inserted row."""
    print("new user:", change.record, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: plain_script.py NAME")
    main(sys.argv[1])
