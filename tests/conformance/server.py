"""The server that is judged: memory level, strict, with the rights and rows of the judge's scenarios.

`python -m tests.conformance.server` prints one line of JSON with its ports and runs until SIGTERM: `port` is the
server's, `sql` takes statements from `sql.py`.
"""

import asyncio
import json

from supawire.server import HubOptions, ServerLimits, Timings, serve
from supawire.server.app import App

from .database import Database, policy
from .judge import SECRET


async def _take_sql(database: Database, app: App, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


async def main() -> None:
    options = HubOptions(secret=SECRET, limits=ServerLimits.self_hosted(), timings=Timings.strict(), policy=policy)
    listening: asyncio.Future[App] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(serve(options, port=0, on_ready=listening.set_result))
        app = await listening
        database = Database(app.hub, app.now)
        sql = await asyncio.start_server(lambda r, w: _take_sql(database, app, r, w), "127.0.0.1", 0)
        print(json.dumps({"port": app.port, "sql": sql.sockets[0].getsockname()[1]}), flush=True)
        await running
        sql.close()


if __name__ == "__main__":
    asyncio.run(main())
