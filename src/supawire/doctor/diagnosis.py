"""`diagnose`: collect the facts, within a time limit, and judge them."""

import asyncio
import importlib.util
import ssl as tls
import threading
import time
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from msgspec.structs import replace

from supawire._display import hide_tokens
from supawire._values import filter_syntax
from supawire.doctor.credentials import read_credential
from supawire.doctor.facts import Facts, Target, server_time
from supawire.doctor.judge import judge
from supawire.doctor.network import (
    Network,
    connect,
    open_socket,
    project_of,
    proxy_variable,
    request,
    resolve,
    secure,
)
from supawire.doctor.report import Report
from supawire.errors import InvalidArgumentError
from supawire.options import (
    ClientOptions,
    Endpoint,
    Secret,
    check_choice,
    check_number,
    check_text,
    check_token,
    check_topic,
)

TIME_LIMIT: Final = 5.0
RESERVE: Final = 0.15
"""Seconds of the time limit that are kept for closing and judging."""
NO_KEY: Final = Secret("none")
"""Used in place of a key that the client refuses."""
EVENTS: Final = ("*", "INSERT", "UPDATE", "DELETE")

T = TypeVar("T")


def diagnose(
    url: str,
    key: str | Secret,
    *,
    token: str | Secret | None = None,
    database_url: str | Secret | None = None,
    table: str | None = None,
    schema: str | None = None,
    filter: str | None = None,
    event: str = "*",
    topic: str | None = None,
    timeout: float = TIME_LIMIT,
    ssl: tls.SSLContext | None = None,
    proxy: str | Secret | None = None,
    host: str | None = None,
) -> Report:
    """Examine a server step by step and return what is wrong and what to do; for code that blocks, and for notebooks.

    The data of users is not changed: messages and presence use a topic with a random name, the given topic is only
    joined, and the database is read in a transaction that is rolled back.

    Args:
        url, key: of the project, as for `connect`. token: of a user; a string.
        database_url: of the project's database, to examine its side too. Needs the extra `postgres`.
        table: whose changes do not arrive, as `table` or `schema.table`. schema: "public" if omitted.
        filter, event: as for `changes`. topic: of a private channel to join.
        timeout: seconds for everything together. What is not answered by then is reported as such.
        ssl, proxy, host: as for `connect`.

    Raises: InvalidArgumentError: an argument cannot be used, or the extra is missing. Everything else that is wrong is
        in the report.
    """
    result: Future[Report] = Future()

    def run() -> None:
        try:
            report = asyncio.run(
                diagnose_async(
                    url, key, token=token, database_url=database_url, table=table, schema=schema, filter=filter,
                    event=event, topic=topic, timeout=timeout, ssl=ssl, proxy=proxy, host=host,
                )
            )  # fmt: skip
        except BaseException as error:  # noqa: BLE001  raised in the caller's thread
            result.set_exception(error)
        else:
            result.set_result(report)

    threading.Thread(target=run, name="supawire-doctor-loop", daemon=True).start()
    return result.result()


async def diagnose_async(
    url: str,
    key: str | Secret,
    *,
    token: str | Secret | None = None,
    database_url: str | Secret | None = None,
    table: str | None = None,
    schema: str | None = None,
    filter: str | None = None,
    event: str = "*",
    topic: str | None = None,
    timeout: float = TIME_LIMIT,
    ssl: tls.SSLContext | None = None,
    proxy: str | Secret | None = None,
    host: str | None = None,
) -> Report:
    """Examine a server step by step and return what is wrong and what to do; see `diagnose`."""
    check_number("timeout", timeout, above=0, unit="seconds")
    started = time.monotonic()
    deadline = started + timeout - min(RESERVE, timeout / 10)
    options = ClientOptions(ssl=ssl, proxy=proxy, host=host)
    key_secret = _secret("key", key)
    token_secret = None if token is None else _secret("token", token)
    database = None if database_url is None else _check_database(_secret("database_url", database_url))
    table, schema = _split_table(table, schema)
    target = Target(
        scheme="",
        host="",
        port=0,
        key=read_credential(key_secret.reveal()),
        token=None if token_secret is None else read_credential(token_secret.reveal()),
        key_error=_flaw("key", key_secret),
        token_error=None if token_secret is None else _flaw("token", token_secret),
        proxy=options.proxy is not None,
        topic=None if topic is None else check_topic(topic).removeprefix("realtime:"),
        schema=schema,
        table=table,
        filter=filter,
        event=check_choice("event", event.upper(), EVENTS),
        database=database is not None,
        database_project=None if database is None else database[1],
    )
    target = _with_filter(target)
    if target.table is not None and target.filter_error is None:
        target.selector()  # raises for names that cannot be
    try:
        endpoint = options.endpoint(url, key_secret if target.key_error is None else NO_KEY)
    except InvalidArgumentError as error:
        endpoint, target = None, replace(target, url_error=error)
    else:
        target = _with_address(target, endpoint)
    facts = await _collect(url, target, endpoint, options, token_secret, database, deadline)
    return Report(
        address=hide_tokens(target.address) if target.host else "",
        steps=judge(facts),
        seconds=time.monotonic() - started,
    )


def _secret(name: str, value: object) -> Secret:
    """Return a key or token. Raises: InvalidArgumentError if it is not a text."""
    return value if isinstance(value, Secret) else Secret(check_text(name, value, secret=True))


def _flaw(name: str, value: Secret) -> str | None:
    """Return why the client refuses a key or token, None if it accepts it."""
    try:
        check_token(name, value.reveal())
    except InvalidArgumentError as error:
        return (error.message.partition(": ")[2] or error.message.removeprefix(f"{name} ")).rstrip(".")
    return None


def _check_database(url: Secret) -> tuple[Secret, str | None]:
    """Return the database URL and the project that it names. Raises: InvalidArgumentError."""
    if importlib.util.find_spec("psycopg") is None:
        raise InvalidArgumentError(
            "database_url needs the extra `postgres`", hint="Run pip install 'supawire[postgres]'."
        )
    from supawire.doctor.database import check_database_url

    return url, check_database_url(url.reveal())


def _split_table(table: str | None, schema: str | None) -> tuple[str | None, str]:
    if table is None:
        if schema is not None:
            raise InvalidArgumentError("schema= needs table=, the table to examine")
        return None, "public"
    check_text("table", table)
    if schema is None and "." in table:
        schema, _, table = table.partition(".")
    if "*" in (table, schema):
        raise InvalidArgumentError("table must be the name of one table, such as 'orders' or 'shop.orders'")
    return check_text("table", table), check_text("schema", schema or "public")


def _with_filter(target: Target) -> Target:
    """Return the target with the conditions of its filter, or why the filter is not valid."""
    if target.filter is None:
        return target
    if target.table is None:
        raise InvalidArgumentError("filter= needs table=, the table to examine")
    try:
        return replace(target, conditions=filter_syntax.check(check_text("filter", target.filter)))
    except InvalidArgumentError as error:
        return replace(target, filter_error=error.message)


def _with_address(target: Target, endpoint: Endpoint) -> Target:
    parts = urlsplit(endpoint.rest_url)
    secure = parts.scheme == "https"
    name = parts.hostname or ""
    return replace(
        target,
        scheme=parts.scheme,
        host=name,
        port=parts.port or (443 if secure else 80),
        project=project_of(endpoint.host or name),
        variable=proxy_variable(name, secure=secure),
    )


async def _collect(
    url: str,
    target: Target,
    endpoint: Endpoint | None,
    options: ClientOptions,
    token: Secret | None,
    database: tuple[Secret, str | None] | None,
    deadline: float,
) -> Facts:
    """Collect the facts of the database and of the server at the same time."""
    collected: dict[str, Any] = {}
    async with asyncio.TaskGroup() as tasks:
        if database is not None:
            tasks.create_task(_add(collected, "database", _examine_database(database[0], target, deadline)))
        if endpoint is not None:
            proxy: Any = options.proxy
            network = Network(endpoint, target, deadline, options.ssl, proxy, token)
            tasks.create_task(_examine_network(network, url, collected))
    return Facts(target=target, now=time.time(), **collected)


async def _add(collected: dict[str, Any], name: str, step: Awaitable[T]) -> T:
    result = await step
    collected[name] = result
    return result


async def _examine_database(url: Secret, target: Target, deadline: float) -> Any:
    from supawire.doctor.database import examine_database

    return await examine_database(url.reveal(), target, deadline)


async def _examine_network(network: Network, url: str, collected: dict[str, Any]) -> None:
    """Go from the name to the channels, and stop at the first step that fails."""
    if not network.target.proxy and not await _reach(network, collected):
        return
    if network.endpoint.key == NO_KEY:
        await _add(collected, "http", request(network))
        return
    handshake, http = await asyncio.gather(
        _add(collected, "handshake", open_socket(network)), _add(collected, "http", request(network))
    )
    if handshake.error is not None or handshake.no_answer:
        return
    from supawire.doctor.channels import examine

    unusable = network.target.unusable_token(server_time(time.time(), http))
    facts = await examine(network, url, token_usable=unusable is None)
    collected |= {name: value for name, value in vars(facts).items() if value is not None}


async def _reach(network: Network, collected: dict[str, Any]) -> bool:
    """Return whether the server can be reached directly."""
    dns = await _add(collected, "dns", resolve(network))
    if not dns.addresses:
        return False
    tcp = await _add(collected, "tcp", connect(network, dns.addresses))
    if not tcp.address:
        return False
    if not network.target.secure:
        return True
    tls = await _add(collected, "tls", secure(network, tcp.address))
    return tls.problem is None and not tls.no_answer
