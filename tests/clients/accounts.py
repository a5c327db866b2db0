"""A client of the package `supabase`, as much of it as is used; `tests/interop` holds the same against the real one.

Events are told at once, to everybody, on the thread where they happen, and what a listener raises comes out there.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Listener = Callable[[str, Any], None]


class Auth:
    """Its client of Auth; a session is stored, and asked for the package refreshes it."""

    def __init__(self) -> None:
        self.session: Any = None
        self.listeners: dict[int, Listener] = {}
        self.asked = 0
        self.error: Exception | None = None

    def on_auth_state_change(self, callback: Listener) -> Any:
        number = len(self.listeners)
        self.listeners[number] = callback
        return SimpleNamespace(id=number, callback=callback, unsubscribe=lambda: self.listeners.pop(number))

    def get_session(self) -> Any:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.session

    def become(self, event: str, token: str | None) -> None:
        """Somebody signs in or out, or the token is another one now."""
        self.session = None if token is None else SimpleNamespace(access_token=token)
        for listener in list(self.listeners.values()):
            listener(event, self.session)


class AsyncAuth(Auth):
    """The same of an async client: the session is awaited."""

    async def get_session(self) -> Any:
        return super().get_session()


class Supabase:
    """A client, whose URL is an object that prints with a slash at its end."""

    def __init__(self, url: str, key: str, *, waits: bool = False) -> None:
        self.supabase_url = _Url(url + "/")
        self.supabase_key = key
        self.auth: Auth = AsyncAuth() if waits else Auth()
        self.options = SimpleNamespace(headers={"apiKey": key, "Authorization": f"Bearer {key}"})


class _Url:
    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text
