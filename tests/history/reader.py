"""The process that is killed: it reads messages, and records each together with the cursor in one transaction."""

import asyncio
import json
import os
import sqlite3
import sys

from supawire import Cursor, Gap, broadcast, connect_async
from supawire.history import DatabaseHistory, SqliteCursors

TOPIC = "restarts"
NAME = "reader"
SETTINGS = "SUPAWIRE_TEST_READER"
"""Environment variable with the addresses and the files."""


async def read(url: str, key: str, token: str, database: str, records: str, deliveries: str) -> None:
    """Read until killed. Write each delivered message to `deliveries`, each handled one to `records`."""
    SqliteCursors(records).close()  # creates the table of cursors
    connection = sqlite3.connect(records, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.execute("create table if not exists handled (number integer primary key autoincrement, message integer)")
    row = connection.execute("select cursor from supawire_cursors where name = ?", (NAME,)).fetchone()
    begin = Cursor(TOPIC, 0) if row is None else Cursor.parse(row[0])
    log = os.open(deliveries, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with DatabaseHistory(database) as history:
        async with connect_async(url, key, token=token, history=history, timeout=60, open_timeout=None) as client:
            async for message in client.channel(TOPIC, private=True).listen(broadcast(), from_=begin):
                if isinstance(message, Gap):
                    sys.exit(f"a gap: {message}")
                assert message.cursor is not None
                os.write(log, b"%d\n" % message.payload["n"])
                connection.execute("begin immediate")
                connection.execute("insert into handled (message) values (?)", (message.payload["n"],))
                connection.execute(*SqliteCursors.statement(NAME, message.cursor))
                connection.execute("commit")


if __name__ == "__main__":
    asyncio.run(read(**json.loads(os.environ[SETTINGS])))
