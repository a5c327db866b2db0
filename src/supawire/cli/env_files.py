"""Files in dotenv format: the one that `supawire serve --env-file` writes, and the `.env` files of projects."""

import io
import os
import tempfile
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
SECRET_KEY: Final = "SUPAWIRE_SECRET_KEY"  # noqa: S105  the name of a variable
DATABASE_URL: Final = "SUPAWIRE_DATABASE_URL"


class EnvFile:
    """A file written by `supawire serve`, readable by its owner only.

    Raises: InvalidArgumentError if another file exists.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._text = ""
        if not path.parent.is_dir():
            raise InvalidArgumentError(f"--env-file: there is no folder {path.parent}")
        if path.is_symlink() or (path.exists() and not _is_ours(path)):
            raise InvalidArgumentError(f"--env-file: {path} exists and was not written by supawire; name another file")

    def write(self, values: Mapping[str, str]) -> None:
        """Write the file. Raises: InvalidArgumentError when that is not possible."""
        text = "\n".join([FIRST_LINE, *lines(values), ""])
        try:
            # a draft, which only its owner can read, so that no one reads a file that is half written
            number, draft = tempfile.mkstemp(prefix=f"{self.path.name}.", dir=self.path.parent)
            try:
                with os.fdopen(number, "w", encoding="utf-8") as file:
                    file.write(text)
                Path(draft).replace(self.path)
            except BaseException:
                Path(draft).unlink()
                raise
        except OSError as error:
            raise InvalidArgumentError(f"--env-file: {self.path} cannot be written: {error.strerror}") from error
        self._text = text

    def remove(self) -> None:
        """Remove the file, unless its contents have been changed by someone else."""
        if self._text and self.path.is_file() and self.path.read_text(encoding="utf-8") == self._text:
            self.path.unlink()


def lines(values: Mapping[str, str]) -> list[str]:
    """Format the values as `NAME=value`, quoted for a shell where necessary; the database URL may be any text."""
    return [f"{name}={quote(value)}" for name, value in values.items()]


MAX_FILE: Final = 1_000_000
"""Maximum bytes of a file that is read."""


def read(path: Path) -> dict[str, str]:
    """Return the values of a file written by `supawire serve`. Raises: InvalidArgumentError."""
    values = read_any(path, "--env-file")
    if URL not in values or not values.keys() & {KEY, SERVICE_KEY}:
        raise InvalidArgumentError(f"--env-file: {path} does not contain {URL} and {KEY}")
    return values


def read_any(path: Path, option: str | None = None) -> dict[str, str]:
    """Return the values of a dotenv file. `option`: the one that named it. Raises: InvalidArgumentError."""
    name = f"{option}: {path}" if option else str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        running = f"; is `supawire serve --env-file {path}` running?" if isinstance(error, FileNotFoundError) else ""
        raise InvalidArgumentError(f"{name} cannot be read: {error.strerror}{running}") from error
    if len(data) > MAX_FILE:
        raise InvalidArgumentError(f"{name} is larger than {MAX_FILE:,} bytes, which is not a file of variables")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{name} is not UTF-8 text (byte {error.start})") from None
    return _written_by_serve(text) if text.startswith(FIRST_LINE) else _parse(name, text)


def _written_by_serve(text: str) -> dict[str, str]:
    """Return the values of a file that is also valid for shells, whose quotes dotenv does not know."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip().removeprefix("export "): _unquoted(value.strip()) for name, _, value in pairs}


def _parse(name: str, text: str) -> dict[str, str]:
    from dotenv.parser import parse_stream

    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise InvalidArgumentError(
                f"{name}, line {binding.original.line} cannot be read",
                hint="Write NAME=value; a value with blanks or # needs quotation marks, which have to be closed.",
            )
        if binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
    return values


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline().rstrip() == FIRST_LINE.encode()


def _unquoted(value: str) -> str:
    """Remove the quotes that `lines` adds."""
    try:
        return "".join(split(value))
    except ValueError:  # a line added by the user
        return value
