"""A small part of PostgREST on a database, for tests: calls of functions, and selecting and updating rows by filters.

PostgREST itself cannot be installed from a package index. What is here behaves as its documentation says: each request
is one transaction, as the role of the token, with the claims in `request.jwt.claims`. Anything else of PostgREST is
answered with 400, so that a test does not pass by accident.
"""

import json
import re
from typing import Any, Final, LiteralString

import jwt
import psycopg
from aiohttp import web
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal
from psycopg.types.json import Json, Jsonb

STATUS: Final = {"42501": 403, "42883": 404, "42P01": 404, "23505": 409, "40001": 500, "40P01": 500, "57014": 500}
"""HTTP status by SQLSTATE; others are 400."""
OPERATORS: Final[dict[str, LiteralString]] = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
TESTS: Final[dict[str, LiteralString]] = {"null": "null", "not_null": "not null", "true": "true", "false": "false"}
RESERVED: Final = ("select", "order", "limit")


class PostgREST:
    """The application, for `aiohttp.test_utils.TestServer`.

    lost_answers: the next requests are committed, and answered with 503 as by a gateway that lost the answer.
    """

    def __init__(self, database: str, secret: str) -> None:
        self._database = database
        self._secret = secret
        self.lost_answers = 0
        self.lost_methods: tuple[str, ...] = ("GET", "POST", "PATCH")
        """Requests whose answers are lost."""
        self.page: str | None = None
        """What is answered instead of rows, as by a proxy."""
        self.app = web.Application()
        self.app.router.add_post("/rest/v1/rpc/{name}", self._answer(self._call))
        self.app.router.add_get("/rest/v1/{name}", self._answer(self._select))
        self.app.router.add_patch("/rest/v1/{name}", self._answer(self._update))

    def _answer(self, act: Any) -> Any:
        async def handle(request: web.Request) -> web.Response:
            try:
                claims = self._claims(request)
                async with (
                    await psycopg.AsyncConnection[dict[str, Any]].connect(
                        self._database, row_factory=dict_row
                    ) as connection,
                    connection.transaction(),
                ):
                    await connection.execute(SQL("set local role {}").format(Identifier(claims["role"])))
                    await connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
                    response = await act(request, connection)
                if self.page is not None:
                    return web.Response(text=self.page, content_type="text/html")
                if self.lost_answers and request.method in self.lost_methods:
                    self.lost_answers -= 1
                    return web.Response(status=503, text="upstream connect error")
                return response
            except jwt.InvalidTokenError as error:
                return _error(401, "PGRST301", str(error))
            except psycopg.OperationalError as error:
                if error.sqlstate is None:
                    return _error(503, "PGRST000", "Database connection error. Retrying the connection.")
                return _error(STATUS.get(error.sqlstate, 500), error.sqlstate, error.diag.message_primary or "")
            except psycopg.Error as error:
                code = error.sqlstate or "PGRST000"
                return _error(STATUS.get(code, 400), code, error.diag.message_primary or str(error))

        return handle

    def _claims(self, request: web.Request) -> dict[str, Any]:
        """Return the claims of the token. The API key of the gateway is not looked at, as PostgREST does not."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return jwt.decode(token, self._secret, algorithms=["HS256"], options={"verify_aud": False})

    async def _call(self, request: web.Request, connection: psycopg.AsyncConnection[Any]) -> web.Response:
        name = request.match_info["name"]
        arguments: dict[str, Any] = json.loads(await request.text() or "{}")
        found = await (
            await connection.execute(
                "select proretset, prorettype::regtype::text as type, typtype, proargnames as names, "
                "proargtypes::regtype[]::text[] as types from pg_proc join pg_type on pg_type.oid = prorettype "
                "where proname = %s and pronamespace = 'public'::regnamespace",
                [name],
            )
        ).fetchone()
        if found is None:
            return _error(404, "PGRST202", f"Could not find the function public.{name} in the schema cache")
        types = dict(zip(found["names"] or [], found["types"], strict=False))
        if not arguments.keys() <= types.keys():
            return _error(404, "PGRST202", f"Could not find the function public.{name}({', '.join(arguments)})")
        given = SQL(", ").join(
            SQL("{} => {}::{}").format(Identifier(key), _literal(value, types[key]), SQL(types[key]))
            for key, value in arguments.items()
        )
        call = SQL("public.{}({})").format(Identifier(name), given)
        if found["type"] == "void":
            await connection.execute(SQL("select {}").format(call))
            return web.Response(status=204)
        as_rows = found["proretset"] or found["typtype"] == "c"
        query = SQL("select to_json(r)::text as value from {} r" if as_rows else "select to_json({})::text as value")
        rows = await (await connection.execute(query.format(call))).fetchall()
        return _rows(rows) if found["proretset"] else _json(rows[0]["value"] or "null")

    async def _select(self, request: web.Request, connection: psycopg.AsyncConnection[Any]) -> web.Response:
        table = Identifier("public", request.match_info["name"])
        query = SQL("select to_json(t)::text as value from (select {} from {}{}{}{}) t").format(
            _columns(request.query.get("select", "*")),
            table,
            _where(request),
            _order(request.query.get("order", "")),
            SQL(" limit {}").format(Literal(int(request.query["limit"]))) if "limit" in request.query else SQL(""),
        )
        return _rows(await (await connection.execute(query)).fetchall())

    async def _update(self, request: web.Request, connection: psycopg.AsyncConnection[Any]) -> web.Response:
        name = request.match_info["name"]
        table = Identifier("public", name)
        body: dict[str, Any] = json.loads(await request.text())
        if "limit" in request.query or "order" in request.query:
            return _error(400, "PGRST000", "limited updates are not supported")
        columns = SQL(", ").join(map(Identifier, body))
        query = SQL(
            "with source as (select * from jsonb_populate_record(null::{}, {})), changed as ("
            "update {} set ({}) = (select {} from source){} returning *) "
            "select to_json(t)::text as value from (select {} from changed) t"
        ).format(
            table,
            Literal(Jsonb(body)),
            table,
            columns,
            columns,
            _where(request),
            _columns(request.query.get("select", "*")),
        )
        rows = await (await connection.execute(query)).fetchall()
        if "return=representation" in request.headers.get("Prefer", ""):
            return _rows(rows)
        return web.Response(status=204)


def _json(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")


def _rows(rows: list[dict[str, Any]]) -> web.Response:
    """Return rows as PostgreSQL writes them, so that numbers keep their digits."""
    return _json(f"[{','.join(row['value'] for row in rows)}]")


def _literal(value: Any, type: str) -> Composable:
    return Literal(Json(value)) if type in ("json", "jsonb") and value is not None else Literal(value)


def _columns(text: str) -> Composable:
    return SQL("*") if text == "*" else SQL(", ").join(map(Identifier, text.split(",")))


def _order(text: str) -> Composable:
    if not text:
        return SQL("")
    parts = [part.partition(".") for part in text.split(",")]
    return SQL(" order by {}").format(
        SQL(", ").join(
            SQL("{} desc" if direction == "desc" else "{}").format(Identifier(name)) for name, _, direction in parts
        )
    )


def _where(request: web.Request) -> Composable:
    conditions = [
        _either(value) if name == "or" else _condition(name, value)
        for name, value in request.query.items()
        if name not in RESERVED
    ]
    return SQL(" where {}").format(SQL(" and ").join(conditions)) if conditions else SQL("")


def _either(text: str) -> Composable:
    parts = [re.fullmatch(r"(\w+)\.(.+)", part) for part in text.strip("()").split(",")]
    return SQL("({})").format(SQL(" or ").join(_condition(part[1], part[2]) for part in parts if part))


def _condition(name: str, text: str) -> Composed:
    """Return the condition of one filter, such as `eq.5`, `is.null` or `in.(1,2)`."""
    if text.startswith("not."):
        return SQL("not ({})").format(_condition(name, text.removeprefix("not.")))
    operator, _, value = text.partition(".")
    if operator == "is":
        return SQL("{} is {}").format(Identifier(name), SQL(TESTS[value]))
    if operator == "in":
        values = SQL(", ").join(Literal(item.strip('"')) for item in value.strip("()").split(","))
        return SQL("{} in ({})").format(Identifier(name), values)
    return SQL("{} {} {}").format(Identifier(name), SQL(OPERATORS[operator]), Literal(value))


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message, "details": None, "hint": None}, status=status)
