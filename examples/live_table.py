"""Keep a copy of a table in memory and print how it changes, with the sync client; rows are fetched from PostgREST.

SUPAWIRE_URL=… SUPAWIRE_KEY=… python examples/live_table.py orders
"""

import json
import os
import sys
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from supawire import Resynced, RowDeleted, RowInserted, RowUpdated, connect

URL, KEY = os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]
REST = os.environ.get("SUPAWIRE_REST", f"{URL}/rest/v1")


def follow(table: str) -> None:
    """Print the changes of a table until Ctrl-C."""

    def get(query: str) -> list[dict[str, Any]]:
        request = Request(f"{REST}/{quote(table)}?{query}", headers={"apikey": KEY})  # noqa: S310  it is your URL
        with urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def fetch() -> list[dict[str, Any]]:
        return get("select=*")

    def fetch_row(key: dict[str, Any]) -> dict[str, Any] | None:
        found = get(f"select=*&id=eq.{quote(str(key['id']))}")
        return found[0] if found else None

    with (
        connect(URL, KEY) as client,
        client.mirror(table, key="id", fetch=fetch, fetch_row=fetch_row, plain=True) as rows,
    ):
        for event in rows.listen():
            match event:
                case Resynced(reason=reason, changes=changes):
                    print(f"{reason}: {len(rows)} rows, {len(changes)} changes", flush=True)
                case RowInserted(row=row):
                    print("new", row, flush=True)
                case RowUpdated(row=row, old=old):
                    print("changed", {name: value for name, value in row.items() if value != old.get(name)}, flush=True)
                case RowDeleted(key=key):
                    print("deleted", key, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: live_table.py TABLE")
    try:
        follow(sys.argv[1])
    except KeyboardInterrupt:
        raise SystemExit(130) from None
