"""A private channel, its database and our clients, async and sync."""

import asyncio
from typing import Any

import pytest

from supawire import (
    Broadcast,
    ChannelState,
    Gap,
    JoinDeniedError,
    LocalServer,
    OperationTimeout,
    PushError,
    broadcast,
    gaps,
)
from tests.clients.client_api import ClientApi, until

pytestmark = pytest.mark.slow

ROOM = "room:1"
SCHEMA = """
    create table public.members (room text, name text, speaks bool, primary key (room, name));
    alter table public.members enable row level security;
    create policy own on public.members for select to authenticated using (name = auth.jwt() ->> 'sub');
    create policy hear on realtime.messages for select to authenticated using (exists (
      select from public.members where room = realtime.topic() and name = auth.jwt() ->> 'sub'));
    create policy speak on realtime.messages for insert to authenticated with check (exists (
      select from public.members where room = realtime.topic() and name = auth.jwt() ->> 'sub' and speaks));
    create table public.notes (id int primary key, room text, body text);
    create function public.tell() returns trigger language plpgsql security definer as $$
    begin
      perform realtime.broadcast_changes(new.room, 'note', tg_op, tg_table_name, tg_table_schema, new, old);
      return null;
    end $$;
    create trigger tell after insert on public.notes for each row execute function public.tell();
    insert into public.members values ('room:1', 'ada', true), ('room:1', 'mute', false);
"""


@pytest.fixture(params=["async", "sync"])
def api(request: pytest.FixtureRequest) -> ClientApi:
    """The kind of client that the scenario uses."""
    return ClientApi(request.param)


def ids(events: list[Any]) -> list[int]:
    return [event.payload["record"]["id"] for event in events]


async def test_a_private_channel_receives_rows_as_messages(api: ClientApi, database: str):
    """A member receives rows as messages, also those of the time offline, until its membership ends (R29, R44)."""
    async with LocalServer(database=database) as server:
        await asyncio.to_thread(server.sql, SCHEMA)
        tokens = iter([server.token(sub="ada"), server.token(sub="ada", n=2)])
        async with api.client(server, token=next(tokens)) as client:
            room = await client.channel(ROOM, private=True, ack=True, replication_ready=True)
            notes, away = await room.listen(broadcast("note")), await room.listen(gaps())
            await room.subscribe()
            assert (await room.broadcast("hello", {"n": 1})).acked
            server.sql("insert into public.notes values (1, 'room:1', 'first'), (2, 'room:2', 'not here')")
            first = await notes.next()
            assert isinstance(first, Broadcast) and not first.replayed
            assert first.payload["record"] == {"id": 1, "room": "room:1", "body": "first"}
            assert first.payload["operation"] == "INSERT" and first.id == first.payload["id"]

            server.refuse_connections()
            server.drop_connections()
            await until(lambda: room.state is not ChannelState.JOINED)
            server.sql("insert into public.notes select n, 'room:1', 'missed' from generate_series(3, 5) n")
            server.accept_connections()
            missed = await notes.take(3)
            assert ids(missed) == [3, 4, 5] and all(event.replayed for event in missed)
            gap = await away.next()
            assert isinstance(gap, Gap) and gap.verdict == "complete" and gap.replayed == 3
            server.sql("insert into public.notes values (6, 'room:1', 'live again')")
            assert ids([await notes.next()]) == [6]

            server.sql("delete from public.members where name = 'ada'")
            await client.set_auth(next(tokens))
            await until(lambda: room.state is ChannelState.FAILED)
            with pytest.raises(JoinDeniedError):
                await notes.next()


async def test_missing_permissions_have_the_texts_of_the_server(api: ClientApi, database: str):
    """A join without permission is refused; a reader that sends gets no reply, or the error of the server (R29)."""
    async with LocalServer(database=database) as server:
        await asyncio.to_thread(server.sql, SCHEMA)
        async with api.client(server, token=server.token(sub="eve")) as eve:
            with pytest.raises(JoinDeniedError, match="You do not have permissions to read"):
                await (await eve.channel(ROOM, private=True)).subscribe()
        async with api.client(server, token=server.token(sub="mute")) as mute:
            room = await mute.channel(ROOM, private=True, ack=True)
            await room.subscribe()
            with pytest.raises(OperationTimeout):
                await room.broadcast("hello", {}, timeout=0.5)
            with pytest.raises(PushError):
                await room.track({"n": 1})
