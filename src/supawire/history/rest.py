"""The stored messages read by the project's REST API (PostgREST), from a view of the user."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from supawire.cursors import EPOCH, MICROSECOND, Page, PageQuery, StoredRow, instant_of
from supawire.errors import HttpError, OperationTimeout
from supawire.options import Secret, check_number, check_secret, check_text, check_token
from supawire.transport.base import parse_date

RETENTION: Final = 72 * 3600 * 1_000_000
"""Microseconds for which messages are kept at least."""
DATE_STEP: Final = 1_000_000
"""Microseconds by which the time in a Date header is rounded."""
MAX_ROWS: Final = 1000
"""The most rows of one request; a project may allow fewer."""
MAX_IDS: Final = 100
"""The most ids in one request, whose URL would otherwise be too long."""
VIEW: Final = """\
create view public.message_history with (security_invoker = true) as
  select id, topic, event, payload, encode(binary_payload, 'hex') as bytes, inserted_at
  from realtime.messages
  where private and extension = 'broadcast' and event is not null
    and (payload is not null or binary_payload is not null);
grant select on public.message_history to authenticated, service_role;
"""
"""Creates the view that `RestHistory` reads. The policies on realtime.messages decide which rows it shows to whom."""


class _Row(Struct):
    id: str
    event: str
    inserted_at: str
    payload: Raw = Raw(b"null")
    bytes: str | None = None


_rows: Final = msgspec.json.Decoder(list[_Row])


class RestHistory:
    """Reads the stored messages from a view by the project's REST API (PostgREST); see `VIEW` for the view.

    It does not see open transactions: a message that becomes visible later than `settle` seconds after its
    `inserted_at` may be missed. Messages of one instant, such as those of one transaction, come in the order of their
    ids.

    Args: url: the project's URL. key: its API key. token: the user's JWT, if the rows are not read with the key alone.
        view: the name of the view in the exposed schema. timeout: seconds for one request.
    """

    def __init__(
        self,
        url: str,
        key: str | Secret,
        *,
        token: str | Secret | None = None,
        view: str = "message_history",
        timeout: float = 30.0,
    ) -> None:
        self._view: Final = check_text("view", view)
        self._url: Final = f"{check_text('url', url).rstrip('/')}/rest/v1/{quote(view, safe='')}"
        self._key: Final = check_secret("key", key)
        self._token: Final = self._key if token is None else check_token("token", token)
        self._timeout: Final = check_number("timeout", timeout, above=0, unit="seconds")

    def __repr__(self) -> str:
        return f"<RestHistory of the view {self._view!r}>"

    async def read(self, query: PageQuery, /) -> Page:
        """Return the page of a query. Raises: HttpError, OperationTimeout."""
        import aiohttp  # imported late, because it is slow

        headers = {"apikey": self._key.reveal(), "Authorization": f"Bearer {self._token.reveal()}"}
        limit = aiohttp.ClientTimeout(total=self._timeout)
        try:
            async with aiohttp.ClientSession(headers=headers, timeout=limit) as session:
                return await self._read(session, query)
        except TimeoutError:
            raise OperationTimeout(f"{self!r} was not answered within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            text = f"{self!r} cannot be read: {type(error).__name__}"
            raise HttpError(text, retryable=not isinstance(error, aiohttp.ClientSSLError)) from None

    async def _read(self, session: Any, query: PageQuery) -> Page:
        common = [("topic", f"eq.{query.topic}"), ("order", "inserted_at.asc,id.asc")]
        if query.events is not None:
            common.append(("event", f"in.({','.join(map(_quoted, query.events))})"))
        rows: list[StoredRow] = []
        seen = frozenset(query.seen)
        at, anchor = query.after.at, query.after.id
        now, horizon = 0, None
        while len(rows) < query.limit:
            given, date = await self._get(session, [*common, _after(at, anchor), ("limit", str(MAX_ROWS))])
            if horizon is None:
                now, horizon = date, date - int(query.settle * 1_000_000) - DATE_STEP
            if query.settled_only:
                given = [row for row in given if row.at < horizon]
            if not given:  # a page with fewer rows than asked for may have been cut by the project's max-rows
                break
            rows += [row for row in given if row.id not in seen]
            at, anchor = given[-1].at, given[-1].id
        assert horizon is not None
        rows = rows[: query.limit]
        read = {row.id for row in rows}
        missing = [one for one in query.ids if one not in read][:MAX_IDS]
        found: list[StoredRow] = []
        if missing:
            found, _ = await self._get(session, [*common, ("id", f"in.({','.join(missing)})")])
        oldest = horizon - RETENTION
        return Page(tuple(rows), now, horizon, oldest, tuple(found))

    async def _get(self, session: Any, parameters: list[tuple[str, str]]) -> tuple[list[StoredRow], int]:
        """Return the rows of one request, and the server's time in microseconds since 1970."""
        began = time.time()
        query = "&".join(f"{name}={quote(value, safe='(),.:')}" for name, value in parameters)
        url = f"{self._url}?select=id,event,payload,bytes,inserted_at&{query}"
        from yarl import URL

        async with session.get(URL(url, encoded=True), allow_redirects=False) as response:
            body: bytes = await response.read()
            if response.status != 200:
                raise self._refused(response.status, body)
            date = _date(response.headers, began)
        try:
            rows = [_stored(row) for row in _rows.decode(body)]
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            raise HttpError(f"{self!r} answered with other columns than expected: {error}", status=200) from None
        return rows, date

    def _refused(self, status: int, body: bytes) -> HttpError:
        text = body[:2000].decode("utf-8", "replace")
        hint = None
        if status == 404:
            hint = f"Create the view, with the SQL in supawire.history.rest.VIEW, named {self._view}."
        elif status in (401, 403):
            hint = (
                "The role of the token needs SELECT on the view and on realtime.messages, and a policy that shows rows."
            )
        retryable = status in (408, 429) or status >= 500
        return HttpError(f"{self!r} was refused", status=status, body=text, hint=hint, retryable=retryable)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _after(at: int, anchor: str) -> tuple[str, str]:
    """Return the condition for rows after a position."""
    text = instant_of(at).strftime("%Y-%m-%dT%H:%M:%S.%f")
    if not anchor:
        return "inserted_at", f"gt.{text}"
    return "or", f"(inserted_at.gt.{text},and(inserted_at.eq.{text},id.gt.{anchor}))"


def _date(headers: Mapping[str, str], began: float) -> int:
    date = parse_date(headers.get("Date"))
    return int((began if date is None else date) * 1_000_000)


def _stored(row: _Row) -> StoredRow:
    inserted_at = datetime.fromisoformat(row.inserted_at)
    if inserted_at.tzinfo is None:
        inserted_at = inserted_at.replace(tzinfo=UTC)
    at = (inserted_at - EPOCH) // MICROSECOND
    if row.bytes is not None:
        return StoredRow(row.id, row.event, bytes.fromhex(row.bytes), False, at, 0)
    return StoredRow(row.id, row.event, bytes(row.payload), True, at, 0)
