"""`supawire bridge`: hand changes and broadcasts on to a broker until SIGTERM or Ctrl-C."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Group, Parameter

from supawire.cli import SUCCESS
from supawire.cli.connection import Connect
from supawire.cli.output import print_error, to_json
from supawire.errors import InvalidArgumentError
from supawire.options import check_number

if TYPE_CHECKING:
    from supawire.bridge import BridgeMessage, Checkpoint

SECRET_NAME: Final = "SUPAWIRE_WEBHOOK_SECRET"  # noqa: S105  the name of a variable

_WHAT: Final = Group("What is handed on", sort_key=1)
_WHERE: Final = Group("Where to", sort_key=2)
_STATE: Final = Group("What is known after a restart", sort_key=3)


def bridge(
    *,
    to: Annotated[
        str,
        Parameter(
            group=_WHERE, help="The broker: redis://, rediss://, nats://, tls://, kafka:// or the URL of a webhook."
        ),
    ],
    stream: Annotated[
        str | None,
        Parameter(group=_WHERE, help="The Redis stream, JetStream stream or Kafka topic; supawire if omitted."),
    ] = None,
    secret: Annotated[
        str | None,
        Parameter(group=_WHERE, env_var=SECRET_NAME, show_env_var=True, help="Secret of webhooks, whsec_ and base64."),
    ] = None,
    dead_letters: Annotated[
        Path | None,
        Parameter(group=_WHERE, help="Append messages that the broker will not take to this file, as JSON lines."),
    ] = None,
    table: Annotated[
        list[str] | None,
        Parameter(group=_WHAT, negative=(), help="A table, such as orders or public.orders. May be repeated."),
    ] = None,
    filter: Annotated[
        str | None, Parameter(group=_WHAT, help="Only rows that match, such as status=eq.open. For one --table.")
    ] = None,
    snapshot: Annotated[
        bool, Parameter(group=_WHAT, help="At the first start, hand on the rows that are there already.")
    ] = True,
    topic: Annotated[
        list[str] | None,
        Parameter(group=_WHAT, negative=(), help="A private topic, whose stored broadcasts are handed on."),
    ] = None,
    public_topic: Annotated[
        list[str] | None,
        Parameter(group=_WHAT, negative=(), help="A public topic, whose received broadcasts are handed on."),
    ] = None,
    database: Annotated[
        str | None,
        Parameter(
            group=_STATE,
            env_var="DATABASE_URL",
            show_env_var=True,
            help="The project's database, for the rows of tables and for stored broadcasts.",
        ),
    ] = None,
    checkpoint: Annotated[
        str,
        Parameter(group=_STATE, help="An SQLite file, or a postgresql:// URL. 'database' is that of --database."),
    ] = "supawire-bridge.db",
    name: Annotated[str, Parameter(group=_STATE, help="The name of this bridge in the checkpoint.")] = "bridge",
    log_level: Annotated[str, Parameter(help="The level of the log on stderr: debug, info, warning.")] = "info",
    connect: Connect = Connect(),
) -> int:
    """Hand changes of tables and broadcasts on to a broker, at least once, each with an id for its de-duplication.

    Of several processes with the same checkpoint and name, one is active, and the others wait to take over. SIGTERM and
    Ctrl-C finish what is on its way; a second one ends at once.
    """  # fmt: skip
    import logging

    from supawire.bridge import Bridge, make_broker

    if log_level.lower() not in ("debug", "info", "warning", "error"):
        raise InvalidArgumentError(f"--log-level must be debug, info, warning or error, not {log_level!r}")
    if not (table or topic or public_topic):
        raise InvalidArgumentError("nothing is to be handed on; give --table, --topic or --public-topic")
    if filter is not None and len(table or ()) != 1:
        raise InvalidArgumentError("--filter is for the rows of one --table")
    if (table or topic) and database is None:
        raise InvalidArgumentError("--table and --topic read the database; give --database or DATABASE_URL")
    target = connect.target(service=True)
    try:
        used = secret if to.startswith(("http:", "https:")) or secret != os.environ.get(SECRET_NAME) else None
        made = Bridge(
            target.url,
            target.key,
            token=target.token,
            to=make_broker(to, stream=stream, secret=used),
            checkpoint=_checkpoint(checkpoint, database),
            database=database,
            name=name,
            open_timeout=check_number("--timeout", connect.timeout, above=0, unit="seconds"),
            dead_letter=None if dead_letters is None else _appender(dead_letters),
        )
        for one in table or ():
            schema, dot, plain = one.rpartition(".")
            made.table(plain, schema=schema if dot else "public", filter=filter, snapshot=snapshot)
    except ImportError as error:
        raise InvalidArgumentError(str(error)) from error
    for one in topic or ():
        made.topic(one)
    for one in public_topic or ():
        made.topic(one, private=False)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    print_error(f"{made!r}; Ctrl-C ends it")
    made.run()
    figures = made.stats()
    print_error(f"handed on {figures.stored}, {figures.duplicates} were there already, {figures.dead} given up")
    return SUCCESS


def _checkpoint(text: str, database: str | None) -> "Checkpoint":
    if text == "database":
        if database is None:
            raise InvalidArgumentError("--checkpoint database needs --database or DATABASE_URL")
        text = database
    if text.startswith(("postgresql://", "postgres://")):
        from supawire.bridge import PostgresCheckpoint

        return PostgresCheckpoint(text)
    from supawire.bridge import SqliteCheckpoint

    return SqliteCheckpoint(text)


def _appender(path: Path) -> "Callable[[BridgeMessage, str], None]":
    """Return what appends a message to a file, and has it written to disk before it returns."""
    try:
        path.open("ab").close()
    except OSError as error:
        raise InvalidArgumentError(f"--dead-letters: {path} cannot be written: {error.strerror}") from error

    def append(message: "BridgeMessage", reason: str) -> None:
        fields: dict[str, Any] = {"id": message.id, "subject": message.subject, "key": message.key, "reason": reason}
        with path.open("a", encoding="utf-8") as file:
            file.write(to_json(fields | {"body": message.body.decode()}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    return append
