"""Save the changes of a table in an SQLite file, one transaction for up to 100 of them, with the sync client.

SUPAWIRE_URL=… SUPAWIRE_KEY=… python examples/save_changes.py orders changes.db
"""

import json
import os
import sqlite3
import sys
from contextlib import closing

from supawire import Change, Delete, Gap, changes, connect, gaps

URL, KEY = os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]


def row_of(event: Change | Gap) -> tuple[str, str]:
    """Return what is saved of an event: a gap too, because changes may be missing there."""
    if isinstance(event, Gap):
        return "GAP", event.reason
    row = event.old_record if isinstance(event, Delete) else event.record
    return event.type, json.dumps(row, default=str)


def save(table: str, path: str) -> None:
    """Save changes until Ctrl-C."""
    with closing(sqlite3.connect(path)) as database, connect(URL, KEY) as client:
        database.execute("create table if not exists changes (type text, row text)")
        channel = client.channel("save-changes")
        stream = channel.listen(changes(table), gaps())
        channel.subscribe(wait="ready")
        print("saving", flush=True)
        for batch in stream.batches(max=100, within=0.2):
            rows = [row_of(event) for event in batch]
            with database:  # one transaction
                database.executemany("insert into changes values (?, ?)", rows)
            print(f"{len(rows)} saved", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: save_changes.py TABLE FILE")
    try:
        save(*sys.argv[1:])
    except KeyboardInterrupt:
        raise SystemExit(130) from None
