"""Routes by which another process can do what a `LocalServer` does: `POST /dev/emit` and `POST /dev/token`.

`emit` delivers a row change to subscribers, without storing a row or running SQL; it is for a server without a
database. `token` returns a signed token. The real server has no such routes. They are served only with
`HubOptions(dev=True)`, which `supawire serve` sets on a loopback address. The request needs the service key and a Host
header that names this machine, so that web pages cannot use it.
"""

from decimal import Decimal
from ipaddress import ip_address
from typing import Any, Final

import msgspec
from msgspec import Struct

from supawire.errors import InvalidArgumentError
from supawire.server.bindings import RowChange, make_change
from supawire.server.changes import Changes
from supawire.server.effects import RestAnswer, RestRequest
from supawire.server.handshake import JSON
from supawire.server.hub_options import HubOptions
from supawire.server.outbox import Outbox
from supawire.server.rest import token_of
from supawire.server.tokens import Claims, check, sign
from supawire.server.wire import DECODE_ERRORS, encode

PATH: Final = "/dev/emit"
TOKEN_PATH: Final = "/dev/token"  # noqa: S105  the path of a route
ROLE: Final = "service_role"
MAX_LIFETIME: Final = 100 * 366 * 86_400.0
"""Maximum seconds until a token expires, or since it has expired."""
MAX_DIGITS: Final = 1000
"""Maximum digits of a number: `1e999999999` is short but would expand to a huge integer."""


class _ColumnSpec(Struct, forbid_unknown_fields=True):
    name: str
    type: str


class _EmitRequest(Struct, forbid_unknown_fields=True):
    type: str
    table: str
    schema: str = "public"
    record: dict[str, Any] | None = None
    old_record: dict[str, Any] | None = None
    columns: dict[str, str] | list[_ColumnSpec] | None = None
    errors: str | list[str] | None = None


class _TokenRequest(Struct, forbid_unknown_fields=True):
    role: str = "authenticated"
    expires_in: float = 3600.0
    claims: dict[str, Any] = {}


def _number(text: str) -> Decimal | float:
    value = Decimal(text)
    return value if abs(value.adjusted()) < MAX_DIGITS else float(text)


_body: Final = msgspec.json.Decoder(_EmitRequest, float_hook=_number)
_token_body: Final = msgspec.json.Decoder(_TokenRequest)


class Dev:
    """The handler of the routes."""

    def __init__(self, options: HubOptions, outbox: Outbox, changes: Changes) -> None:
        self._options = options
        self._outbox = outbox
        self._changes = changes

    def answer(self, request: RestRequest) -> RestAnswer | None:
        """Answer a request for one of these routes; return None for another route or when they are disabled."""
        if not self._options.dev or request.path not in (PATH, TOKEN_PATH) or request.method != "POST":
            return None
        if (refusal := self._refusal(request)) is not None:
            return refusal
        try:
            return self._token(request.body) if request.path == TOKEN_PATH else self._emit(request.body)
        except (*DECODE_ERRORS, InvalidArgumentError) as error:
            return _message(422, str(error))

    def _emit(self, body: bytes) -> RestAnswer:
        if self._options.database:
            return _message(409, "this server has a database: change its rows by SQL")
        self._changes.emit(_change(body))
        return RestAnswer(202)

    def _token(self, body: bytes) -> RestAnswer:
        wanted = _token_body.decode(body)
        if not abs(wanted.expires_in) <= MAX_LIFETIME:
            raise InvalidArgumentError(f"expires_in must be at most {MAX_LIFETIME:.0f} s, not {wanted.expires_in}")
        expires_at = int(self._outbox.now.wall + wanted.expires_in)
        token = sign({"role": wanted.role, "exp": expires_at, **wanted.claims}, self._options.secret)
        return RestAnswer(200, encode({"token": token}), JSON)

    def _refusal(self, request: RestRequest) -> RestAnswer | None:
        if not is_here(request.host):
            return _message(
                403, "this route is available on this machine only: use http://127.0.0.1 or http://localhost"
            )
        claims = check(token_of(request) or "", self._options.secret, self._outbox.now)
        if not isinstance(claims, Claims):
            return _message(401, "Unauthorized")
        if claims.role != ROLE:
            return _message(403, "this route needs the service key")
        return None


def _change(body: bytes) -> RowChange:
    emitted = _body.decode(body)
    columns = emitted.columns
    return make_change(
        emitted.type,
        emitted.table,
        schema=emitted.schema,
        record=emitted.record,
        old_record=emitted.old_record,
        columns=[{"name": column.name, "type": column.type} for column in columns]
        if isinstance(columns, list)
        else columns,
        errors=emitted.errors,
    )


def is_here(host: str) -> bool:
    """Return whether Host is `localhost` or a loopback address. Any other name may be used for DNS rebinding."""
    name, bracket, _ = host.lower().removeprefix("[").partition("]")
    name = name if bracket else name.partition(":")[0]
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _message(status: int, message: str) -> RestAnswer:
    return RestAnswer(status, encode({"message": message}), JSON)
