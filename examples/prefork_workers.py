"""Forked workers, as in Celery and gunicorn: each process has its own client.

SUPAWIRE_URL=… SUPAWIRE_KEY=… python examples/prefork_workers.py 6

The parent listens for results while its workers send them. A client cannot be used after a fork: in a child its calls
raise StateError. So `start` opens one in each worker when the worker starts (in Celery this is the signal
`worker_process_init`, in gunicorn the hook `post_fork`), and it is closed when the worker ends.
"""

import multiprocessing
import os
import sys
from multiprocessing.util import Finalize

from supawire import Channel, broadcast, connect

jobs: Channel | None = None


def start() -> None:
    """Open the client of this worker; the start hook of the pool."""
    global jobs  # noqa: PLW0603  one for each process
    client = connect(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"])
    Finalize(None, client.close, exitpriority=1)  # multiprocessing workers run these at exit, but not atexit functions
    jobs = client.channel("jobs", ack=True)
    jobs.subscribe()


def work(number: int) -> bool:
    """Execute one task and send its result. Returns whether the server has confirmed the message."""
    assert jobs is not None
    return jobs.broadcast("done", {"task": number, "result": number * number}).acked


def main(count: int) -> None:
    """Start `count` tasks and print their results as they arrive."""
    with connect(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]) as client:
        channel = client.channel("jobs")
        results = channel.listen(broadcast("done"))
        channel.subscribe()
        pool = multiprocessing.get_context("fork").Pool(3, start)
        confirmed = pool.map_async(work, range(count))
        for _ in range(count):
            print(results.get(timeout=30).payload, flush=True)
        print("confirmed:", all(confirmed.get()), flush=True)
        pool.close()
        pool.join()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: prefork_workers.py COUNT")
    main(int(sys.argv[1]))
