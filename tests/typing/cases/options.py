"""Options are typed, so that a type checker reports a wrong one."""

from typing import assert_type

from supawire.options import Backoff, Limits


def backoff() -> None:
    assert_type(Backoff().maximum, float)
    assert_type(Backoff(max_attempts=3).max_attempts, int | None)
    Backoff(initial="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Backoff(inital=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def limits() -> None:
    assert_type(Limits.pro(), Limits)
    assert_type(Limits().messages_per_second, float | None)
    Limits().channels = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
