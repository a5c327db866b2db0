"""Read stored messages, and continue with the next one at the next start.

    python examples/history.py --messages 2

URL and key are read from SUPAWIRE_URL and SUPAWIRE_KEY, a token that may read the topic from SUPAWIRE_TOKEN, as
`supawire serve --env-file` writes them. With the URL of the database in DATABASE_URL more than 25 missed messages are
read.
"""

import argparse
import os

from supawire import Gap, broadcast, connect
from supawire.history import DatabaseHistory, SqliteCursors


def main() -> None:
    """Print messages until there were enough."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=10)
    parser.add_argument("--file", default="cursors.db")
    given = parser.parse_args()
    database = os.environ.get("DATABASE_URL")
    history = DatabaseHistory(database) if database else None
    url, key, token = (os.environ[name] for name in ("SUPAWIRE_URL", "SUPAWIRE_KEY", "SUPAWIRE_TOKEN"))
    with (
        connect(url, key, token=token, history=history) as client,
        SqliteCursors(given.file) as store,
        client.channel("orders", private=True).listen(broadcast(), from_=store) as messages,
    ):
        for message in messages:
            if isinstance(message, Gap):
                print("messages may be missing", message.verdict, flush=True)
                continue
            print(message.event, message.payload, flush=True)
            if messages.count == given.messages:
                messages.commit()
                break


if __name__ == "__main__":
    main()
