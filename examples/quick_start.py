"""Every call of a channel, one per line, with the sync client; docs/from-the-original.md explains each.

    supawire serve --env-file dev.env      # in one terminal
    set -a; . dev.env; set +a              # in another one
    python examples/quick_start.py

It waits for a new row of `users`: insert one, or send the request that `supawire serve` prints.
"""

import os
from threading import Event
from typing import Any

from supawire import Broadcast, Insert, PresenceEvent, PresenceSync, broadcast, changes, connect, presence

typed, present, inserted = Event(), Event(), Event()


def new_user(change: Insert[dict[str, Any]]) -> None:
    """Print an inserted row."""
    print("new user:", change.record, flush=True)
    inserted.set()


def typing(message: Broadcast[dict[str, str]]) -> None:
    """Print who is typing."""
    print(message.payload["user"], "is typing", flush=True)
    typed.set()


def here(event: PresenceEvent) -> None:
    """Print who is present."""
    if isinstance(event, PresenceSync):
        print("here:", *event.state, flush=True)
        if "alice" in event.state:
            present.set()


client = connect(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"], on_error=print)

room = client.channel("room:lobby", echo=True, presence_key="alice")
room.on(changes("users", schema="public", event="INSERT"), new_user)
room.on(broadcast("typing"), typing)
room.on(presence(), here)
room.subscribe(wait="ready")

room.broadcast("typing", {"user": "alice"})
typed.wait()
room.track({"status": "online"})
present.wait()  # the server confirms first and informs the clients afterwards
print("state:", {key: [one.payload for one in ones] for key, ones in room.presence_state().items()}, flush=True)

inserted.wait()

client.set_auth(os.environ.get("SUPAWIRE_TOKEN"))  # a user's token; if it is not set, the key is used
room.untrack()
room.unsubscribe()
client.close()
