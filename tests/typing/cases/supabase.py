"""A client of the package `supabase` is recognised by its attributes; the options are those of `connect` without
`token`."""

from typing import Any, Protocol, assert_type

from supawire import AsyncClient, Backoff, Client, ClientOpener, from_supabase, from_supabase_async


class Url(Protocol):
    def joinpath(self, *parts: str) -> "Url": ...


class Supabase:
    """A client with the attributes of the real one, the URL of which is not a string."""

    supabase_url: Url
    supabase_key: str
    auth: Any


def with_the_sync_client(client: Supabase) -> None:
    assert_type(from_supabase(client), Client)
    with from_supabase(client, heartbeat=20, backoff=Backoff(initial=0.5), on_error=print) as realtime:
        assert_type(realtime, Client)
    from_supabase(client, token="mine")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    from_supabase(client, hartbeat=20)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    from_supabase(client, heartbeat="20")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    from_supabase("https://abc.supabase.co")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def with_the_async_client(client: Supabase) -> None:
    assert_type(from_supabase_async(client), ClientOpener[AsyncClient])
    async with from_supabase_async(client, offline="queue") as realtime:
        assert_type(realtime, AsyncClient)
