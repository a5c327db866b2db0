"""The parts of a client of the package `supabase` that are used; `tests/interop` runs the same tests with the real one.

Listeners are called at once, on the thread of the change, and their exceptions are raised there.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Listener = Callable[[str, Any], None]


class Auth:
    """The `auth` of the client: it stores a session, which `get_session` refreshes as in the package."""

    def __init__(self) -> None:
        self.session: Any = None
        self.listeners: dict[int, Listener] = {}
        self.session_reads = 0
        self.error: Exception | None = None

    def on_auth_state_change(self, callback: Listener) -> Any:
        number = len(self.listeners)
        self.listeners[number] = callback
        return SimpleNamespace(id=number, callback=callback, unsubscribe=lambda: self.listeners.pop(number))

    def get_session(self) -> Any:
        self.session_reads += 1
        if self.error is not None:
            raise self.error
        return self.session

    def become(self, event: str, token: str | None) -> None:
        """Change the session, as by a sign-in, a sign-out or a refreshed token, and notify the listeners."""
        self.session = None if token is None else SimpleNamespace(access_token=token)
        for listener in list(self.listeners.values()):
            listener(event, self.session)


class AsyncAuth(Auth):
    """The `auth` of an async client, with an async `get_session`."""

    async def get_session(self) -> Any:
        return super().get_session()


class Supabase:
    """A client whose URL is an object that prints with a slash at its end."""

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
