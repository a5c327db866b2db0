"""A session with the real package `supabase`: users sign in there, and the Realtime server records who joins.

Run by an interpreter that has the package, with our sources on its path: `session.py sync blocking`, `sync async`,
`async async`: the kind of its client, and the kind of ours; `async blocking` is refused. Auth is a function instead of
an HTTP server; Realtime is our local server. Prints one line of JSON for each part of the session.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx  # pyright: ignore[reportMissingImports]
from supabase import (  # pyright: ignore[reportMissingImports]
    AsyncClientOptions,
    ClientOptions,
    acreate_client,
    create_client,
)

from supawire import AsyncChannel, InvalidArgumentError, from_supabase, from_supabase_async
from supawire.server import LocalServer

TIMEOUT = 15.0
USER = {"app_metadata": {}, "user_metadata": {}, "aud": "authenticated", "created_at": "2026-01-05T10:11:12Z"}


class Auth:
    """The project's Auth: returns tokens with this lifetime, and counts the refreshes of each user."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self.lifetime = 3600

    def __call__(self, request: Any) -> Any:
        if request.url.path.endswith("/logout"):
            return httpx.Response(204)
        body = json.loads(request.content)
        user, number = str(body.get("email", "")).partition("@")[0], 0
        if request.url.params["grant_type"] == "refresh_token":
            user, number = body["refresh_token"].rsplit("/", 1)
        number = int(number) + 1
        lifetime = self.lifetime if number == 1 else 3600
        return httpx.Response(200, json={
            "access_token": self._server.token(sub=f"{user}/{number}", expires_in=lifetime),
            "refresh_token": f"{user}/{number}", "expires_in": lifetime, "expires_at": int(time.time()) + lifetime,
            "token_type": "bearer", "user": {"id": user, **USER},
        })  # fmt: skip


class Session:
    """The same calls with both kinds of clients; `do` runs a call of the package for either kind."""

    def __init__(self, server: LocalServer, kind: str, our_kind: str) -> None:
        self.server, self.kind, self.our_kind = server, kind, our_kind
        self.auth = Auth(server)
        self.users: list[str | None] = []

        @server.policy
        def allow(claims: Any, topic: str, extension: str, action: str) -> bool:
            if self.users[-1:] != [claims.get("sub")]:
                self.users.append(claims.get("sub"))
            return True

        assert allow

    async def client(self, **options: Any) -> Any:
        """Create a client of the package."""
        where = self.server.url, self.server.anon_key
        if self.kind == "async":
            http = httpx.AsyncClient(transport=httpx.MockTransport(self.auth))
            return await acreate_client(*where, AsyncClientOptions(httpx_client=http, **options))
        http = httpx.Client(transport=httpx.MockTransport(self.auth))
        return create_client(*where, ClientOptions(httpx_client=http, **options))

    async def do(self, call: Callable[..., Any], *args: Any) -> None:
        """Call the package."""
        if self.kind == "async":
            await call(*args)
        else:
            await asyncio.to_thread(call, *args)

    async def sign_in(self, client: Any, user: str) -> None:
        """Sign a user in."""
        await self.do(client.auth.sign_in_with_password, {"email": f"{user}@example.com", "password": "secret"})

    async def open(self, client: Any) -> Any:
        """Create a client of ours."""
        if self.our_kind == "async":
            return await from_supabase_async(client)
        return await asyncio.to_thread(from_supabase, client)

    async def ours(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call our client."""
        return await call(*args) if self.our_kind == "async" else await asyncio.to_thread(call, *args)

    async def until(self, user: str | None) -> None:
        """Wait until the server records this user."""
        deadline = time.monotonic() + TIMEOUT
        while self.users[-1:] != [user]:
            assert time.monotonic() < deadline, f"still {self.users}, not {user}"
            await asyncio.sleep(0.005)

    async def join(self, realtime: Any) -> Any:
        """Join a private channel."""
        room: AsyncChannel = realtime.channel("room", private=True)
        await self.ours(room.subscribe)

    def report(self, part: str, **values: Any) -> None:
        """Print one line."""
        print(json.dumps({"part": part, **values}), flush=True)
        self.users.clear()

    async def sign_in_and_out(self) -> None:
        """Sign in, refresh, sign in as another user, sign out; then close."""
        client = await self.client()
        before = len(client.auth._state_change_emitters)
        await self.sign_in(client, "alice")
        realtime = await self.open(client)
        await self.join(realtime)
        await self.do(client.auth.refresh_session)
        await self.until("alice/2")
        await self.sign_in(client, "bob")
        await self.until("bob/1")
        await self.do(client.auth.sign_out)
        await self.until(None)
        await self.ours(realtime.close)
        self.report("in and out", users=self.users, left=len(client.auth._state_change_emitters) - before)
        await self.sign_in(client, "carol")

    async def nearly_expired(self) -> None:
        """Join with a session that is about to expire, in a client that does not refresh automatically."""
        self.auth.lifetime = 5
        client = await self.client(auto_refresh_token=False)
        await self.sign_in(client, "alice")
        realtime = await self.open(client)
        await self.join(realtime)
        await self.ours(realtime.close)
        self.report("nearly expired", users=self.users)

    async def a_header(self) -> None:
        """Join with a client that has the token of one request in a header."""
        token = self.server.token(sub="dave")
        client = await self.client(headers={"Authorization": f"Bearer {token}"})
        realtime = await self.open(client)
        await self.join(realtime)
        await self.sign_in(client, "erin")
        await self.until("erin/1")
        await self.ours(realtime.close)
        self.report("a header", users=self.users)

    async def refusals(self) -> None:
        """Print the error for an async client given to the sync function."""
        client = await self.client()
        try:
            opened = await self.open(client)
        except InvalidArgumentError as error:
            self.report("refused", error=error.message, left=len(client.auth._state_change_emitters))
        else:
            await self.ours(opened.close)


async def main(kind: str, our_kind: str) -> None:
    """Run the session."""
    with LocalServer() as server:
        session = Session(server, kind, our_kind)
        if (kind, our_kind) == ("async", "blocking"):
            await session.refusals()
            return
        await session.sign_in_and_out()
        await session.nearly_expired()
        await session.a_header()


asyncio.run(main(*sys.argv[1:]))
