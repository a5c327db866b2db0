"""Runs the server that the judge compares: strict, with the policies and rows of the judge's scenarios.

`python -m tests.conformance.server LEVEL` prints one line of JSON and runs until SIGTERM: `port` is the port of the
server. For `memory`, `sql` is a port that receives statements from `sql.py`; for `postgres`, `database` is the URL.
"""

import asyncio
import json
import sys
from typing import Any, Final

from supawire.server import HubOptions, ServerLimits, Timings, serve
from supawire.server.app import App

from .database import Database, policy
from .judge import SECRET

STRICT: Final[dict[str, Any]] = {
    "secret": SECRET,
    "limits": ServerLimits.self_hosted(),
    "timings": Timings.strict(),
}


async def _run_sql(database: Database, app: App, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    text = (await reader.read()).decode()
    try:
        database.run(text)
    except ValueError as error:
        writer.write(str(error).encode())
    else:
        writer.write(b"ok")
    app.pump()
    writer.close()
    await writer.wait_closed()


async def memory() -> None:
    """Run the server without a database: statements are emulated, and the policies are a function."""
    listening: asyncio.Future[App] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        options = HubOptions(**STRICT, policy=policy)
        running = tasks.create_task(serve(options, port=0, on_ready=listening.set_result))
        app = await listening
        database = Database(app.hub, app.now)
        sql = await asyncio.start_server(lambda r, w: _run_sql(database, app, r, w), "127.0.0.1", 0)
        print(json.dumps({"port": app.port, "sql": sql.sockets[0].getsockname()[1]}), flush=True)
        await running
        sql.close()


async def postgres() -> None:
    """Run the server with PostgreSQL, where the judge creates its tables and policies."""
    from supawire.server.postgres.backend import PostgresBackend

    level = PostgresBackend()

    def report(app: App) -> None:
        print(json.dumps({"port": app.port, "database": level.url}), flush=True)

    await serve(HubOptions(**STRICT, database=True), port=0, on_ready=report, level=level)


if __name__ == "__main__":
    asyncio.run({"memory": memory, "postgres": postgres}[sys.argv[1]]())
