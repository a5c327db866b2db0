"""Requests to PostgREST: calls of functions, and reading and updating rows. Answers are JSON as bytes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from supawire._display import brief, printable
from supawire._validation import Secret, check_text
from supawire._values.encode import to_wire
from supawire.errors import InvalidArgumentError, RealtimeError

TIMEOUT: Final = 30.0
MAX_ANSWER: Final = 64_000_000
"""Maximum bytes of an answer."""
_SUFFIX: Final = "/realtime/v1/api"
_RETRYABLE: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_NEW_KEY: Final = "sb_"
"""The beginning of keys that are not JWTs; the gateway replaces them by a token, so they are sent as `apikey` only."""


class RestError(RealtimeError):
    """PostgREST refused a request, or cannot be reached (`retryable`).

    `status`: of the response, None without one. `sqlstate`: PostgreSQL's code or one of PostgREST, such as "PGRST202".
    """

    def __init__(self, message: str, *, status: int | None, sqlstate: str | None, retryable: bool) -> None:
        super().__init__(message, retryable=retryable)
        self.status: Final = status
        self.sqlstate: Final = sqlstate


class _Refusal(Struct):
    """The body of an error."""

    code: str | None = None
    message: str | None = None


class RestSettings(Struct, frozen=True):
    """Where PostgREST is, and as whom it is used. token: None if the key is one. columns: without functions."""

    url: str
    key: Secret
    token: Secret | None
    columns: bool


class RestClient:
    """Sends requests to one PostgREST.

    Its connections belong to the event loop that makes the first request.
    """

    def __init__(self, settings: RestSettings) -> None:
        self._url: Final = settings.url
        self._key: Final = settings.key
        self._token: Final = settings.key if settings.token is None else settings.token
        self._session: aiohttp.ClientSession | None = None
        self.requests: int = 0
        """How many requests were sent."""

    def __repr__(self) -> str:
        return f"RestClient({self._url!r})"

    async def call(self, function: str, arguments: Mapping[str, Any]) -> bytes:
        """Call a function. Raises: RestError."""
        body = msgspec.json.encode({name: to_wire(value) for name, value in arguments.items()})
        return await self._request("POST", f"rpc/{quote(function, safe='')}", body)

    async def select(self, table: str, query: Sequence[tuple[str, str]]) -> bytes:
        """Return rows. query: filters and options as in PostgREST's URLs. Raises: RestError."""
        return await self._request("GET", f"{quote(table, safe='')}?{urlencode(query)}", None)

    async def update(self, table: str, query: Sequence[tuple[str, str]], values: Mapping[str, Any]) -> bytes:
        """Update the rows that match the filters, and return them. Raises: RestError."""
        body = msgspec.json.encode({name: to_wire(value) for name, value in values.items()})
        return await self._request("PATCH", f"{quote(table, safe='')}?{urlencode(query)}", body)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        self.requests += 1
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT), trust_env=True)
        failure: RestError
        try:
            async with self._session.request(
                method,
                URL(f"{self._url}/{path}", encoded=True),
                data=body,
                headers=self._reveal(),
                allow_redirects=False,
            ) as response:
                answer = await _read(response)
                if response.status < 300:
                    return answer
                return _refuse(response.status, answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            text = f"PostgREST at {self._url} cannot be reached: {type(error).__name__}"
            failure = RestError(text, status=None, sqlstate=None, retryable=True)
        raise failure  # outside the handler: aiohttp's exception contains the headers with the key

    def _reveal(self) -> dict[str, str]:
        headers = {"apikey": self._key.reveal(), "Content-Type": "application/json", "Prefer": "return=representation"}
        if not self._token.reveal().startswith(_NEW_KEY):
            headers["Authorization"] = f"Bearer {self._token.reveal()}"
        return headers


def rest_settings(
    rest: object, rest_url: object, realtime_url: str | None, key: Secret | None, token: object
) -> RestSettings | None:
    """Check the options for REST. realtime_url: the base of Realtime's HTTP interface. Raises: InvalidArgumentError."""
    if rest is None and rest_url is None:
        return None
    if rest not in ("functions", "columns"):
        raise InvalidArgumentError(
            f'rest must be "functions" or "columns", not {brief(rest)}',
            hint="See docs/worker.md, Three grades of access.",
        )
    if key is None or realtime_url is None:
        raise InvalidArgumentError("jobs over REST need url and key", hint='Write Worker(url, key, rest="functions").')
    if token is not None and not isinstance(token, str | Secret):
        raise InvalidArgumentError("jobs over REST need a key, or a fixed token, not a function that returns tokens")
    if rest_url is not None:
        url = check_text("rest_url", rest_url).rstrip("/")
        if urlsplit(url).scheme not in ("http", "https"):
            raise InvalidArgumentError(f"rest_url must be a URL such as http://localhost:3000, not {brief(url)}")
    elif realtime_url.endswith(_SUFFIX):
        url = realtime_url.removesuffix(_SUFFIX) + "/rest/v1"
    else:
        raise InvalidArgumentError(
            f"the address of PostgREST is not known for {urlsplit(realtime_url).netloc}",
            hint='Write rest_url="http://localhost:3000".',
        )
    return RestSettings(url, key, Secret(token) if isinstance(token, str) else token, rest == "columns")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts = bytearray()
    while part := await response.content.read(1_000_000):
        parts += part
        if len(parts) > MAX_ANSWER:
            raise RestError(
                f"PostgREST answered more than {MAX_ANSWER} bytes; lower concurrency=",
                status=response.status,
                sqlstate=None,
                retryable=False,
            )
    return bytes(parts)


def _refuse(status: int, body: bytes) -> bytes:
    try:
        refusal = msgspec.json.decode(body, type=_Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        refusal = _Refusal(message=body[:300].decode(errors="replace"))
    said = printable(refusal.message or "")
    raise RestError(
        f"PostgREST answered {status}{f' {refusal.code}' if refusal.code else ''}: {said}",
        status=status,
        sqlstate=refusal.code,
        retryable=status in _RETRYABLE,
    )
