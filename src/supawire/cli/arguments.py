"""Values of the command line that several commands take: durations and payloads."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from cyclopts import Parameter, Token

from supawire.errors import InvalidArgumentError

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)?", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, None: 1.0}

MAX_INPUT: Final = 10_000_000
"""Maximum bytes of a payload from stdin or a file; servers accept less."""


def parse_duration(text: str) -> float:
    """Return seconds: "30s", "5m", "1.5h", "2d", "250ms", or a number of seconds. Raises: InvalidArgumentError."""
    found = _DURATION.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise InvalidArgumentError(f"{text[:40]!r} is not a duration; write for example 30s, 5m, 2h or 250ms")
    return float(found[1]) * _SECONDS[found[2]]


def _convert(kind: object, tokens: Sequence[Token]) -> float:
    del kind
    return parse_duration(tokens[0].value)


Duration: TypeAlias = Annotated[float, Parameter(converter=_convert)]
"""A duration on the command line, in seconds for the command."""


MIN_SECRET_BYTES: Final = 32


def check_signing_secret(secret: str) -> str:
    """Return the secret of a local server's tokens. Raises: InvalidArgumentError: it is too short."""
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise InvalidArgumentError(
            f"--secret must have at least {MIN_SECRET_BYTES} bytes for HS256; without it, the secret is random"
        )
    return secret


def read_payload(text: str | None) -> Any:
    """Return the payload of a message: JSON, "-" for JSON from stdin, "@FILE" for JSON in a file; without a text `{}`.

    Raises: InvalidArgumentError: it is not JSON, too large or cannot be read.
    """
    if text is None:
        return {}
    if text == "-":
        return decode_payload(sys.stdin.buffer.read(MAX_INPUT + 1), "stdin")
    if text.startswith("@"):
        try:
            with Path(text[1:]).open("rb") as file:
                return decode_payload(file.read(MAX_INPUT + 1), text[1:])
        except OSError as error:
            raise InvalidArgumentError(f"{text[1:]} cannot be read: {error.strerror}") from error
    return decode_payload(text.encode(errors="surrogateescape"), "the payload")


def decode_payload(data: bytes, name: str) -> Any:
    """Return decoded JSON. Raises: InvalidArgumentError."""
    if len(data) > MAX_INPUT:
        raise InvalidArgumentError(f"{name} is larger than {MAX_INPUT:,} bytes")
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgumentError(
            f"{name} is not JSON: {error}",
            hint="""Write for example '{"text": "hello"}', with the outer quotation marks.""",
        ) from error
