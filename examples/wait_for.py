"""Wait a limited time for the next row that is inserted into a table, with the sync client.

SUPAWIRE_URL=… SUPAWIRE_KEY=… python examples/wait_for.py orders 30
"""

import os
import sys

from supawire import OperationTimeout, changes, connect


def wait_for(table: str, seconds: float) -> int:
    """Return the exit status: 0 if a row arrived, 1 if not."""
    with connect(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]) as client:
        channel = client.channel("db")
        rows = channel.listen(changes(table, event="INSERT"))
        channel.subscribe(wait="ready")
        print("waiting", flush=True)
        try:
            print(rows.get(timeout=seconds).record)
        except OperationTimeout:
            print(f"no row in {seconds:g} s", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: wait_for.py TABLE SECONDS")
    raise SystemExit(wait_for(sys.argv[1], float(sys.argv[2])))
