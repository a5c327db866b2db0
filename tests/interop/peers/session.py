"""A story with the real package `supabase`: who signs in there, and whom the Realtime server then takes us for.

Run by the interpreter that has it, with our sources on its path: `session.py sync blocking`, `sync async`,
`async async`: the kind of its client, and the door of ours; `async blocking` is refused. Auth is a function here, in
the place of HTTP; Realtime is our local server.
Prints one line of JSON for each part of the story.
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

PATIENCE = 15.0
USER = {"app_metadata": {}, "user_metadata": {}, "aud": "authenticated", "created_at": "2026-01-05T10:11:12Z"}


class Auth:
    """The project's Auth: gives tokens that live so long, and counts how often each user's was refreshed."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self.lives = 3600

    def __call__(self, request: Any) -> Any:
        if request.url.path.endswith("/logout"):
            return httpx.Response(204)
        body = json.loads(request.content)
        user, number = str(body.get("email", "")).partition("@")[0], 0
        if request.url.params["grant_type"] == "refresh_token":
            user, number = body["refresh_token"].rsplit("/", 1)
        number = int(number) + 1
        lives = self.lives if number == 1 else 3600
        return httpx.Response(200, json={
            "access_token": self._server.token(sub=f"{user}/{number}", expires_in=lives),
            "refresh_token": f"{user}/{number}", "expires_in": lives, "expires_at": int(time.time()) + lives,
            "token_type": "bearer", "user": {"id": user, **USER},
        })  # fmt: skip


class Story:
    """What both kinds of clients go through; `do` performs a call of the package, whichever kind it is."""

    def __init__(self, server: LocalServer, kind: str, door: str) -> None:
        self.server, self.kind, self.door = server, kind, door
        self.auth = Auth(server)
        self.users: list[str | None] = []

        @server.policy
        def let_in(claims: Any, topic: str, extension: str, action: str) -> bool:
            if self.users[-1:] != [claims.get("sub")]:
                self.users.append(claims.get("sub"))
            return True

        assert let_in

    async def client(self, **options: Any) -> Any:
        """A client of the package."""
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
        """Somebody signs in."""
        await self.do(client.auth.sign_in_with_password, {"email": f"{user}@example.com", "password": "secret"})

    async def open(self, client: Any) -> Any:
        """A client of ours."""
        if self.door == "async":
            return await from_supabase_async(client)
        return await asyncio.to_thread(from_supabase, client)

    async def ours(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call ours."""
        return await call(*args) if self.door == "async" else await asyncio.to_thread(call, *args)

    async def until(self, user: str | None) -> None:
        """Wait until the server takes us for this user."""
        deadline = time.monotonic() + PATIENCE
        while self.users[-1:] != [user]:
            assert time.monotonic() < deadline, f"still {self.users}, not {user}"
            await asyncio.sleep(0.005)

    async def join(self, realtime: Any) -> Any:
        """Be in a private room."""
        room: AsyncChannel = realtime.channel("room", private=True)
        await self.ours(room.subscribe)

    def tell(self, part: str, **what: Any) -> None:
        """One line."""
        print(json.dumps({"part": part, **what}), flush=True)
        self.users.clear()

    async def a_day(self) -> None:
        """In, refreshed, somebody else, out; then closed."""
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
        self.tell("a day", users=self.users, left=len(client.auth._state_change_emitters) - before)
        await self.sign_in(client, "carol")

    async def nearly_over(self) -> None:
        """A session that is about to end, in a client that does not refresh by itself."""
        self.auth.lives = 5
        client = await self.client(auto_refresh_token=False)
        await self.sign_in(client, "alice")
        realtime = await self.open(client)
        await self.join(realtime)
        await self.ours(realtime.close)
        self.tell("nearly over", users=self.users)

    async def a_header(self) -> None:
        """A client that a server made for the user of one request."""
        token = self.server.token(sub="dave")
        client = await self.client(headers={"Authorization": f"Bearer {token}"})
        realtime = await self.open(client)
        await self.join(realtime)
        await self.sign_in(client, "erin")
        await self.until("erin/1")
        await self.ours(realtime.close)
        self.tell("a header", users=self.users)

    async def refusals(self) -> None:
        """What is said of a client that the door cannot ask."""
        client = await self.client()
        try:
            opened = await self.open(client)
        except InvalidArgumentError as error:
            self.tell("refused", error=error.message, left=len(client.auth._state_change_emitters))
        else:
            await self.ours(opened.close)


async def main(kind: str, door: str) -> None:
    """Tell the story."""
    with LocalServer() as server:
        story = Story(server, kind, door)
        if (kind, door) == ("async", "blocking"):
            await story.refusals()
            return
        await story.a_day()
        await story.nearly_over()
        await story.a_header()


asyncio.run(main(*sys.argv[1:]))
