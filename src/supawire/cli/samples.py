"""What `supawire serve` gives to paste: clients, and what makes something happen."""

from typing import Final

TALK: Final = """\
import asyncio, os, supawire

URL, KEY = "{url}", os.environ["{key}"]

async def main():
    async with supawire.connect_async(URL, KEY) as client:
        room = client.channel("room:lobby", echo=True)
        typing = room.listen(supawire.broadcast("typing"))
        async with room:
            await room.broadcast("typing", {{"user": "alice"}})
            async for message in typing:
                print(message.event, message.payload)

asyncio.run(main())"""

WATCH: Final = """\
import asyncio, os, supawire

URL, KEY = "{url}", os.environ["{key}"]

async def main():
    async with supawire.connect_async(URL, KEY) as client:
        room = client.channel("todos")
        rows = room.listen(supawire.changes("todos"))
        async with room:
            async for change in rows:
                print(change)

asyncio.run(main())"""

WATCH_IN_JAVASCRIPT: Final = """\
import {{ createClient }} from "@supabase/supabase-js"

const supabase = createClient("{url}", process.env.{key})
const todos = {{ event: "*", schema: "public", table: "todos" }}

supabase
  .channel("todos")
  .on("postgres_changes", todos, (change) => console.log(change))
  .subscribe((status) => console.log(status))"""

EMIT: Final = """\
curl -X POST {url}/dev/emit \\
  -H "Authorization: Bearer ${key}" \\
  -d '{{"type": "INSERT", "table": "users", "record": {{"id": 1}}}}'"""

PSQL: Final = '{psql} "{database}"'

TABLE: Final = """\
create table todos (id bigint generated always as identity primary key, body text);
alter publication supabase_realtime add table todos;
{grant}insert into todos (body) values ('hello');"""

GRANT: Final = "grant select on todos to anon, authenticated;\n"
"""What a given database wants; an embedded one lets the roles of clients read every table."""
