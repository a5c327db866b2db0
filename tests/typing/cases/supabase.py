"""A client of the package `supabase` is known by its shape, and the options are those of `connect` without `token`."""

from typing import Any, Protocol, assert_type

from supawire import AsyncClient, Backoff, Client, ClientOpener, from_supabase, from_supabase_async


class Url(Protocol):
    def joinpath(self, *parts: str) -> "Url": ...


class Supabase:
    """As the real one: attributes, of which the URL is no string."""

    supabase_url: Url
    supabase_key: str
    auth: Any


def blocking(client: Supabase) -> None:
    assert_type(from_supabase(client), Client)
    with from_supabase(client, heartbeat=20, backoff=Backoff(initial=0.5), on_error=print) as realtime:
        assert_type(realtime, Client)
    from_supabase(client, token="mine")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    from_supabase(client, hartbeat=20)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    from_supabase(client, heartbeat="20")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    from_supabase("https://abc.supabase.co")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def door(client: Supabase) -> None:
    assert_type(from_supabase_async(client), ClientOpener[AsyncClient])
    async with from_supabase_async(client, offline="queue") as realtime:
        assert_type(realtime, AsyncClient)
