"""The inspector of a server with a database."""

import json

from supawire import changes, connect_async
from supawire.server import LocalServer
from tests.server.inspector.inspector_client import looking


async def test_rows_of_the_database_are_shown(database: str) -> None:
    """A row that is written is one line, with how many channels were told; rows cannot be made up here."""
    async with LocalServer(database=database, inspector=True) as server, looking(server.url) as eye:
        assert eye.about["level"] == "PostgreSQL"
        server.sql("create table notes (id int primary key, body text)")
        server.sql("alter publication supabase_realtime add table notes")
        async with (
            connect_async(server.url, server.anon_key) as one,
            connect_async(server.url, server.anon_key) as two,
        ):
            for client in (one, two):
                client.channel("notes").on(changes("notes"), lambda _: None)
                await client.channel("notes").subscribe(wait="ready")
            server.sql("insert into notes values (1, 'hello')")
            await eye.until(lambda: sum(it["receivers"] for it in eye.changes) == 2)
            for line in eye.changes:
                assert (line["table"], line["type"]) == ("public.notes", "INSERT")
                assert json.loads(line["record"]) == {"id": 1, "body": "hello"}
            answer = await eye.order(do="emit", type="INSERT", table="notes", record={"id": 2})
            assert "database" in answer["error"]
