"""Workers that are forked, as Celery's and gunicorn's are: each process has a client of its own.

SUPAWIRE_URL=… SUPAWIRE_KEY=… python examples/prefork_workers.py 6

The parent listens for results while its workers send them. A client does not survive a fork: in a child its calls raise
StateError. So `start` opens one in each worker when the worker begins, which in Celery is the signal
`worker_process_init`, and in gunicorn the hook `post_fork`; its goodbye is said when the worker ends.
"""

import multiprocessing
import os
import sys
from multiprocessing.util import Finalize

from supawire import Channel, broadcast, connect

jobs: Channel | None = None


def start() -> None:
    """The start hook of a worker."""
    global jobs  # noqa: PLW0603  one for each process
    client = connect(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"])
    Finalize(None, client.close, exitpriority=1)  # a worker of multiprocessing runs these at its end, and not atexit's
    jobs = client.channel("jobs", ack=True)
    jobs.subscribe()


def work(number: int) -> bool:
    """One task: say what came of it. True when the server has it."""
    assert jobs is not None
    return jobs.broadcast("done", {"task": number, "result": number * number}).acked


def main(count: int) -> None:
    """Give out so many tasks, and print their results as they come."""
    with connect(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]) as client:
        channel = client.channel("jobs")
        results = channel.listen(broadcast("done"))
        channel.subscribe()
        pool = multiprocessing.get_context("fork").Pool(3, start)
        told = pool.map_async(work, range(count))
        for _ in range(count):
            print(results.get(timeout=30).payload, flush=True)
        print("confirmed:", all(told.get()), flush=True)
        pool.close()
        pool.join()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: prefork_workers.py COUNT")
    main(int(sys.argv[1]))
