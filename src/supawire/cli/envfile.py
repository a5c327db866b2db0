"""A file with the address and the keys of a running server, in the form that shells and dotenv read."""

import os
from collections.abc import Mapping
from pathlib import Path
from shlex import quote, split
from typing import Final

from supawire.errors import InvalidArgumentError

FIRST_LINE: Final = "# written by `supawire serve`; removed when it stops"
URL: Final = "SUPAWIRE_URL"
KEY: Final = "SUPAWIRE_KEY"
SERVICE_KEY: Final = "SUPAWIRE_SERVICE_KEY"
PUBLISHABLE_KEY: Final = "SUPAWIRE_PUBLISHABLE_KEY"
SECRET_KEY: Final = "SUPAWIRE_SECRET_KEY"  # noqa: S105  a name
DATABASE_URL: Final = "SUPAWIRE_DATABASE_URL"


class EnvFile:
    """A file of ours, readable by its owner alone. Raises: InvalidArgumentError when another's stands there."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._text = ""
        if not path.parent.is_dir():
            raise InvalidArgumentError(f"--env-file: there is no folder {path.parent}")
        if path.is_symlink() or (path.exists() and not _is_ours(path)):
            raise InvalidArgumentError(
                f"--env-file: {path} is there and was not written by supawire, so it stays; name another file"
            )

    def write(self, values: Mapping[str, str]) -> None:
        """Write it anew. Raises: InvalidArgumentError when that cannot be."""
        text = "\n".join([FIRST_LINE, *lines(values), ""])
        try:
            self.path.unlink(missing_ok=True)
            number = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise InvalidArgumentError(f"--env-file: {self.path} cannot be written: {error.strerror}") from error
        self._text = text

    def remove(self) -> None:
        """Remove it, unless somebody has changed it meanwhile."""
        if self._text and self.path.is_file() and self.path.read_text(encoding="utf-8") == self._text:
            self.path.unlink()


def lines(values: Mapping[str, str]) -> list[str]:
    """`NAME=value` for each, in quotes where a shell wants them: the URL of a database may be anything."""
    return [f"{name}={quote(value)}" for name, value in values.items()]


def read(path: Path) -> dict[str, str]:
    """The values of a file written by `supawire serve`. Raises: InvalidArgumentError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidArgumentError(
            f"--env-file: {path} cannot be read: {error.strerror}; is `supawire serve --env-file {path}` running?"
        ) from error
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    values = {name.strip().removeprefix("export "): _plain(value.strip()) for name, _, value in pairs}
    if URL not in values or not values.keys() & {KEY, SERVICE_KEY}:
        raise InvalidArgumentError(f"--env-file: {path} does not say {URL} and {KEY}")
    return values


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline().rstrip() == FIRST_LINE.encode()


def _plain(value: str) -> str:
    """A value without the quotes that `lines` puts around some."""
    try:
        return "".join(split(value))
    except ValueError:  # somebody's own line
        return value
