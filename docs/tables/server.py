"""Tables of the local server: its faults, and the extensions that its PostgreSQL lacks."""

import inspect

from docs.tables import rows, table
from supawire.server.local_api import FaultApi
from supawire.server.postgres.project import MISSING_EXTENSIONS


@table("faults")
def faults() -> str:
    """Return the table of all faults with their docstrings."""
    methods = [(name, it) for name, it in vars(FaultApi).items() if inspect.isfunction(it) and not name.startswith("_")]
    return rows(
        ["fault", "effect"], [[f"`{name}({_arguments(it)})`", inspect.getdoc(it) or ""] for name, it in methods]
    )


@table("lacking-extensions")
def lacking_extensions() -> str:
    """Return the table of extensions that are left out, with what is missing without them."""
    return rows(["extension", "what is missing"], [[f"`{name}`", what] for name, what in MISSING_EXTENSIONS.items()])


def _arguments(function: object) -> str:
    if not callable(function):
        return ""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return ", ".join(
        str(one.replace(annotation=inspect.Parameter.empty)) for one in parameters if one.name != "connection"
    )
