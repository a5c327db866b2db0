"""What the local server can do wrong on purpose."""

import inspect

from docs.tables import rows, table
from supawire.server.local_api import FaultApi
from supawire.server.postgres.extensions import LACKING


@table("faults")
def faults() -> str:
    """Every fault, as its docstring has it."""
    methods = [(name, it) for name, it in vars(FaultApi).items() if inspect.isfunction(it) and not name.startswith("_")]
    return rows(
        ["fault", "what happens"], [[f"`{name}({_arguments(it)})`", inspect.getdoc(it) or ""] for name, it in methods]
    )


@table("lacking-extensions")
def lacking_extensions() -> str:
    """Extensions of a project that are left out, and what is missing then."""
    return rows(["extension", "what is missing"], [[f"`{name}`", what] for name, what in LACKING.items()])


def _arguments(function: object) -> str:
    if not callable(function):
        return ""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return ", ".join(
        str(one.replace(annotation=inspect.Parameter.empty)) for one in parameters if one.name != "connection"
    )
