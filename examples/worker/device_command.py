"""Pass commands from rows to devices and write the answers back: `supawire worker run device_command:app`.

Needs the table of `TABLES` and SUPAWIRE_URL, SUPAWIRE_KEY, SUPAWIRE_DATABASE_URL. `python device_command.py NAME` is a
device. The commands of one device are executed one after the other, in the order of their ids. A device may get a
command again, for example when its answer was lost, and remembers the last one.
"""

import asyncio
import os
import sys

from supawire import broadcast, col, connect_async
from supawire.worker import Job, Worker

TABLES = """
create table commands (
  id bigint primary key generated always as identity,
  device text not null,
  command text not null,
  answer text,
  status text not null default 'pending'
);
alter publication supabase_realtime add table commands;
"""
URL, KEY = os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]

app = Worker(URL, KEY, database=os.environ.get("SUPAWIRE_DATABASE_URL"))


@app.job(
    "commands",
    where=col("status") == "pending",
    claim={"status": "sent"},
    group="device",
    concurrency=8,
    timeout=30,
)
async def execute(job: Job) -> None:
    """Send one command and wait for its answer. A device that is away is asked again with the next attempt."""
    async with connect_async(URL, KEY) as client:
        channel = client.channel(f"device:{job.row['device']}")
        answers = channel.listen(broadcast("answer"))
        await channel.subscribe()
        await channel.broadcast("command", {"id": job.key, "command": job.row["command"]})
        async for event in answers:
            if event.payload["id"] == job.key:
                job.write(answer=event.payload["answer"])
                return


async def be_a_device(name: str) -> None:
    """Execute commands until Ctrl-C."""
    last: dict[str, object] = {"id": None}
    async with connect_async(URL, KEY) as client:
        channel = client.channel(f"device:{name}")
        commands = channel.listen(broadcast("command"))
        await channel.subscribe()
        print("ready", flush=True)
        async for event in commands:
            if event.payload["id"] != last["id"]:
                print("executes", event.payload["command"], flush=True)
                last = {"id": event.payload["id"], "answer": f"{event.payload['command']}: ok"}
            await channel.broadcast("answer", last)


if __name__ == "__main__":
    asyncio.run(be_a_device(sys.argv[1]))
