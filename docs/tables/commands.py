"""Tables of the options of the commands, from the signatures of their functions."""

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

from cyclopts import Parameter

from docs.tables import rows, table
from supawire.cli.demo import demo
from supawire.cli.serve import serve


@table("serve-options")
def serve_options() -> str:
    """Return the table of the options of `supawire serve`."""
    return _options(serve)


@table("demo-options")
def demo_options() -> str:
    """Return the table of the options of `supawire demo`."""
    return _options(demo)


def _options(command: Callable[..., int]) -> str:
    hints = get_type_hints(command, include_extras=True)
    lines: list[tuple[str, str, str]] = []
    for name, parameter in inspect.signature(command).parameters.items():
        declared = next(extra for extra in get_args(hints[name]) if isinstance(extra, Parameter))
        meaning = declared.help or ""
        if variables := declared.env_var:
            named = [variables] if isinstance(variables, str) else list(variables)
            meaning += f" From the environment: {', '.join(f'`{each}`' for each in named)}."
        lines.append((f"`--{name.replace('_', '-')}`", _default(parameter.default), meaning))
    return rows(["option", "default", "meaning"], lines)


def _default(value: Any) -> str:
    return "" if value is None or value is False or value == () else f"`{value}`"
