"""`supawire mcp`: a server of the Model Context Protocol on stdin and stdout, for coding agents."""

from importlib.util import find_spec
from typing import Annotated

from cyclopts import Parameter

from supawire.cli.connection import Connect, NoServerError
from supawire.errors import InvalidArgumentError
from supawire.options import Secret


def mcp(
    *,
    allow_writes: Annotated[
        bool,
        Parameter(negative=(), show_default=False, help="Let agents send messages to the server, not only read."),
    ] = False,
    database_url: Annotated[
        str | None,
        Parameter(
            env_var=("SUPAWIRE_DATABASE_URL", "SUPABASE_DB_URL"),
            help="The database of the project, which the tool doctor reads.",
        ),
    ] = None,
    connect: Connect = Connect(),
) -> int:
    """Offer tools to a coding agent over stdin and stdout: listen, send, presence, doctor, explain errors, serve.

    The agent starts this command. Without a server, the tools work with the local server that the tool serve starts.
    """
    if find_spec("mcp") is None:
        raise InvalidArgumentError("the command mcp needs the extra `mcp`", hint="Run pip install 'supawire[mcp]'.")
    try:
        target = connect.target()
    except NoServerError:
        target = None
    from supawire.cli.mcp.tools import create_server

    create_server(
        target,
        allow_writes=allow_writes,
        database_url=None if database_url is None else Secret(database_url),
        connect_timeout=connect.timeout,
    ).run("stdio")
    return 0
