"""A private room, its database and our client, with both clients."""

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
    """The kind of client that the scenario runs with."""
    return ClientApi(request.param)


def ids(events: list[Any]) -> list[int]:
    return [event.payload["record"]["id"] for event in events]


async def test_a_private_room_lives_on_its_database(api: ClientApi, database: str):
    """A member gets rows as messages, those of its absence too, and is out when it is no member any more (R29, R44)."""
    async with LocalServer(database=database) as server:
        await asyncio.to_thread(server.sql, SCHEMA)
        tokens = iter([server.token(sub="ada"), server.token(sub="ada", n=2)])
        async with api.client(server, token=next(tokens)) as client:
            room = await client.channel(ROOM, private=True, ack=True, replication_ready=True)
            heard, away = await room.listen(broadcast("note")), await room.listen(gaps())
            await room.subscribe()
            assert (await room.broadcast("hello", {"n": 1})).acked
            server.sql("insert into public.notes values (1, 'room:1', 'first'), (2, 'room:2', 'not here')")
            first = await heard.next()
            assert isinstance(first, Broadcast) and not first.replayed
            assert first.payload["record"] == {"id": 1, "room": "room:1", "body": "first"}
            assert first.payload["operation"] == "INSERT" and first.id == first.payload["id"]

            server.refuse_connections()
            server.drop_connections()
            await until(lambda: room.state is not ChannelState.JOINED)
            server.sql("insert into public.notes select n, 'room:1', 'missed' from generate_series(3, 5) n")
            server.accept_connections()
            missed = await heard.take(3)
            assert ids(missed) == [3, 4, 5] and all(event.replayed for event in missed)
            gap = await away.next()
            assert isinstance(gap, Gap) and gap.verdict == "complete" and gap.replayed == 3
            server.sql("insert into public.notes values (6, 'room:1', 'live again')")
            assert ids([await heard.next()]) == [6]

            server.sql("delete from public.members where name = 'ada'")
            await client.set_auth(next(tokens))
            await until(lambda: room.state is ChannelState.FAILED)
            with pytest.raises(JoinDeniedError):
                await heard.next()


async def test_who_may_not_hear_or_speak_is_told_what_the_server_tells(api: ClientApi, database: str):
    """An outsider is refused at the join; who may only hear is told nothing, or an error where there is one (R29)."""
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
