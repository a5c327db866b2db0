"""What Python itself would answer to a common mistake with a text that does not help: here it says what to write.

The methods made here are hidden from type checkers, which refuse such code by themselves.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from supawire.errors import InvalidArgumentError, StateError

T = TypeVar("T")


class NoAttributeError(StateError, AttributeError):
    """A `StateError` for an attribute that is not there, so that `hasattr` and `getattr` work as always."""


class NotSupportedError(StateError, TypeError):
    """A `StateError` for a protocol that an object does not have; web frameworks try out what a stream is by the
    `TypeError` that `iter()` raises."""


def misused(message: str, hint: str) -> Callable[..., Any]:
    """A method that raises `NotSupportedError`."""

    def method(self: object, *_: object) -> Any:
        raise NotSupportedError(message, hint=hint)

    return method


def not_built(kind: str, value: object, wanted: type[T], call: str) -> T:
    """Return what a client is made of inside the library. Raises: InvalidArgumentError: users write `call`."""
    if not isinstance(value, wanted):
        raise InvalidArgumentError(f"{kind} is not made by calling the class", hint=f"Write {call}.")
    return value
