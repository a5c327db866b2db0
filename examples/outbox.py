"""Messages that survive restarts: store an order while offline, and send it at the next start.

    python examples/outbox.py --offline     # stores an order
    python examples/outbox.py               # stores another one, and sends both

URL and key are read from SUPAWIRE_URL and SUPAWIRE_KEY, as `supawire serve --env-file` writes them.
"""

import argparse
import os

from supawire import SqliteOutbox, connect


def main() -> None:
    """Add an order, and send what the outbox has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", default="outbox.db")
    parser.add_argument("--offline", action="store_true")
    given = parser.parse_args()
    with SqliteOutbox(given.file) as store:
        store.add("orders", "paid", {"by": os.getpid()})
        print("stored:", store.counts().pending)
        if not given.offline:
            url, key = os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]
            with connect(url, key) as client, client.outbox(store) as outbox:
                outbox.flush()
                print("sent:", outbox.stats().sent)


if __name__ == "__main__":
    main()
