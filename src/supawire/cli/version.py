"""The text of `supawire --version`: what is installed, found without a network."""

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, metadata, version

_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+).*extra == ['\"](?P<extra>[a-z]+)['\"]")
_HIDDEN = ("test", "dev", "all")
"""Extras that are not for users, or only join others."""


def describe() -> str:
    """Return version, Python, event loop, transport and extras, one a line."""
    lines = [
        f"supawire {version('supawire')}",
        f"Python {platform.python_version()} ({platform.python_implementation()}, {sys.platform} {platform.machine()})",
        f"event loop: asyncio{_found(' (uvloop {} is installed)', 'uvloop')}",
        f"transport: aiohttp {version('aiohttp')}{_found(', with aiohttp-socks {}', 'aiohttp-socks')}{_fast()}",
        *(f"extra {extra}: {state}" for extra, state in sorted(_extras().items())),
    ]
    return "\n".join(lines)


def _fast() -> str:
    """Return whether connections are opened by aiofastnet, if it is installed."""
    off = " (switched off by SUPAWIRE_FAST=0)" if os.environ.get("SUPAWIRE_FAST") == "0" else ""
    return _found(f" on aiofastnet {{}}{off}", "aiofastnet")


def _extras() -> dict[str, str]:
    """Return the state of each extra: the packages found, or the ones that are missing."""
    packages: dict[str, list[str]] = {}
    for line in metadata("supawire").get_all("Requires-Dist") or []:
        found = _REQUIREMENT.match(line)
        if found is not None and found["extra"] not in _HIDDEN and found["name"] != "supawire":
            packages.setdefault(found["extra"], []).append(found["name"])
    return {extra: _state(names) for extra, names in packages.items()}


def _state(names: list[str]) -> str:
    versions = {name: _version(name) for name in names}
    missing = [name for name, found in versions.items() if found is None]
    if missing:
        return f"not installed ({', '.join(missing)} missing)"
    return ", ".join(f"{name} {found}" for name, found in versions.items())


def _found(text: str, name: str) -> str:
    found = _version(name)
    return "" if found is None else text.format(found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
