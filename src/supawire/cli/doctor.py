"""`supawire doctor`: examine a server step by step, and say what is wrong and what to do."""

import ssl
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from supawire.cli.connection import Connect
from supawire.cli.output import Output
from supawire.doctor import Outcome, diagnose
from supawire.errors import InvalidArgumentError

STYLES: Final = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "bold red", Outcome.SKIPPED: "dim"}


def doctor(
    url: Annotated[str | None, Parameter(help="The project's URL. From the environment or .env: SUPABASE_URL.")] = None,
    /,
    *,
    key: Annotated[
        str | None, Parameter(help="The project's API key. From the environment or .env: SUPABASE_KEY.")
    ] = None,
    token: Annotated[str | None, Parameter(help="The JWT of the user for whom something does not work.")] = None,
    database_url: Annotated[
        str | None,
        Parameter(
            env_var=("SUPAWIRE_DATABASE_URL", "SUPABASE_DB_URL"),
            help="The database of the project, to examine its side too. It is only read.",
        ),
    ] = None,
    table: Annotated[
        str | None, Parameter(help="The table whose changes do not arrive, such as orders or shop.orders.")
    ] = None,
    filter: Annotated[str | None, Parameter(help="The filter for its changes, such as status=eq.open.")] = None,
    event: Annotated[
        Literal["*", "INSERT", "UPDATE", "DELETE"], Parameter(help="The kind of changes that is listened to.")
    ] = "*",
    topic: Annotated[
        str | None, Parameter(help="The topic of a private channel. It is joined; nothing is sent to it.")
    ] = None,
    context: Annotated[str | None, Parameter(help="Use URL and key saved under this name.")] = None,
    env_file: Annotated[Path | None, Parameter(help="Read URL and key from this file instead of .env.")] = None,
    proxy: Annotated[str | None, Parameter(help="URL of an HTTP or SOCKS proxy.")] = None,
    host: Annotated[str | None, Parameter(help="Host name to send instead of the one in the URL.")] = None,
    ca_file: Annotated[
        Path | None, Parameter(help="Certificates of authorities to trust besides those of the system, in PEM format.")
    ] = None,
    timeout: Annotated[
        float,
        Parameter(
            help="Seconds for everything together. A hosted server holds refused joins back for 5 s; 15 shows why."
        ),
    ] = 5.0,
    json: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Print the report as one JSON object.")
    ] = False,
) -> int:
    """Examine a server step by step, and print what is wrong and what to do.

    The exit code is 0 if no step fails, and 1 otherwise. Data is not changed, and keys are not printed.
    """
    target = Connect(url=url, key=key, token=token, context=context, env_file=env_file).target(checked=False)
    report = diagnose(
        target.url,
        target.key,
        token=target.token,
        database_url=database_url or None,  # a variable may be empty
        table=table,
        filter=filter,
        event=event,
        topic=topic,
        timeout=timeout,
        ssl=None if ca_file is None else _trusting(ca_file),
        proxy=proxy,
        host=host,
    )
    output = Output(json=json)
    if json:
        output.record(report.to_dict())
    else:
        for outcome, line in report.lines():
            output.line((line, "" if outcome is None else STYLES[outcome]))
    return 0 if report.healthy else 1


def _trusting(file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(file)
    except OSError as error:  # ssl.SSLError is one too
        raise InvalidArgumentError(f"--ca-file: {file} cannot be read: {error.strerror or error}") from error
    return context
