"""Attributes of caught errors that a type checker knows."""

from typing import assert_type

from supawire.errors import ConnectError, ConnectionLostError, HttpError, RealtimeError, RowError


def every_error(error: RealtimeError) -> None:
    assert_type(error.code, str | None)
    assert_type(error.topic, str | None)
    assert_type(error.retryable, bool)
    assert_type(error.hint, str | None)
    assert_type(error.docs, str)


def some_errors_have_more_fields(
    lost: ConnectionLostError, refused: ConnectError, answer: HttpError, row: RowError
) -> None:
    assert_type(lost.maybe_sent, bool)
    assert_type(lost.close_code, int | None)
    assert_type(refused.retry_after, float | None)
    assert_type(answer.status, int | None)
    assert_type(row.raw, bytes | None)


def one_clause_for_all(error: RealtimeError | ConnectionError) -> None:
    if isinstance(error, RealtimeError):
        assert_type(error.message, str)
    ConnectionLostError("lost", maybe_sent="perhaps")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
