"""Hand the changes of a table on to a Redis stream: python bridge.py TABLE [REDIS_URL]

Needs the extra `bridge`, SUPAWIRE_URL, a service key in SUPAWIRE_KEY, and SUPAWIRE_DATABASE_URL. Start it twice: the
second process waits, and takes over when the first one ends. Read the stream with `redis-cli xrange supawire - +`.
"""

import logging
import os
import sys

from supawire.bridge import Bridge, BridgeMessage, PostgresCheckpoint, RedisStreams


def bury(message: BridgeMessage, reason: str) -> None:
    """Keep a message that Redis does not take."""
    print("not handed on:", message.key, reason)


def main(table: str, redis: str = "redis://localhost") -> None:
    """Run until SIGTERM or Ctrl-C."""
    logging.basicConfig(level="INFO")
    database = os.environ["SUPAWIRE_DATABASE_URL"]
    bridge = Bridge(
        os.environ["SUPAWIRE_URL"],
        os.environ["SUPAWIRE_KEY"],
        to=RedisStreams(redis, max_length=100_000),
        checkpoint=PostgresCheckpoint(database),
        database=database,
        dead_letter=bury,
    )
    bridge.table(table)
    bridge.run()
    print("handed on:", bridge.stats().stored)


if __name__ == "__main__":
    main(*sys.argv[1:])
