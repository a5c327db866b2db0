"""Packages whose public names are imported on first use, so that importing the package is cheap and needs no extra."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str,
    homes: Mapping[str, str],
    needs: Callable[[str], str | None] = lambda module: None,
    *,
    base: str | None = None,
) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package.

    Args: homes: for each name its module, relative to `base`, or to the package. needs: called with the name of a
        missing module; returns what has to be installed, for the ImportError, or None if it belongs to no extra.
    """

    def get(name: str) -> Any:
        """Import a public name on first use. Raises: ImportError that says what to install."""
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(f"{base or package}.{home}"), name)
        except ModuleNotFoundError as error:
            needed = needs((error.name or "").partition(".")[0])
            if needed is None:
                raise
            raise ImportError(f"{name} needs {needed}", name=error.name) from error
        setattr(sys.modules[package], name, value)
        return value

    return get


def needs_extra(extra: str, module: str) -> Callable[[str], str | None]:
    """Return the `needs` of a package with one extra, which is missing when this module is."""
    text = f"the extra `{extra}`: pip install 'supawire[{extra}]'"
    return lambda missing: text if missing == module else None
