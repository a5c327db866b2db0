"""What the client logs of errors that nobody waits for: the first of a kind in full, then how many there are."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from supawire import broadcast
from supawire.aio.reporting import Reports
from tests.aio.peer import connected, settled

pytestmark = pytest.mark.anyio


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """The records of a logger that nobody else uses."""
    kept: list[logging.LogRecord] = []
    logger = logging.getLogger("tests.reports")
    handler = logging.Handler()
    handler.addFilter(lambda record: kept.append(record) or False)
    logger.addHandler(handler)
    logger.propagate = False
    yield kept
    logger.removeHandler(handler)


def shown(records: list[logging.LogRecord]) -> list[tuple[str, bool]]:
    """The records above DEBUG: the text, and whether there is a traceback."""
    return [(each.getMessage(), bool(each.exc_info)) for each in records if each.levelno > logging.DEBUG]


async def test_a_handler_that_raises_for_each_event_logs_one_traceback(records: list[logging.LogRecord]):
    """A thousand events in a broken handler are one traceback and three lines, whatever the texts of the errors are."""

    def handler(event: Any) -> None:
        raise ValueError(event.payload)

    async with connected(logger=logging.getLogger("tests.reports")) as (client, server):
        room = client.channel("room")
        room.on(broadcast(), handler)
        await room.subscribe()
        for number in range(1000):
            server.broadcast("room", "e", number)
        await settled(2000)
    assert [traceback for _, traceback in shown(records)] == [True, False, False, False]
    assert [text.split(" (")[-1][:12] for text, _ in shown(records)][1:] == [
        "10 times so ",
        "100 times so",
        "1000 times s",
    ]


def test_errors_that_go_on_are_logged_each_minute_and_kinds_are_apart(records: list[logging.LogRecord]):
    """After a minute the next one of a kind is logged with its number; another kind begins with its own traceback."""
    now = 0.0
    reports = Reports(None, logging.getLogger("tests.reports"), clock=lambda: now)
    reports.error(ValueError("a"), "handler")
    reports.error(ValueError("a"), "handler")
    reports.error(ValueError("b"), "handler")
    now = 61.0
    reports.error(ValueError("a"), "handler")
    assert [(text[:1], traceback) for text, traceback in shown(records)] == [("a", True), ("b", True), ("a", False)]
    assert "3 times" in shown(records)[-1][0]


def test_the_kinds_that_are_counted_are_bounded(records: list[logging.LogRecord]):
    """Errors of ever new texts are all logged, and only the newest kinds are remembered."""
    reports = Reports(None, logging.getLogger("tests.reports"))
    for number in range(1000):
        reports.error(ValueError(number), "handler")
    assert len(shown(records)) == 1000
    assert len(reports._logged) <= 256


def test_the_hook_gets_every_error():
    """`on_error` is called for each error, also of one kind."""
    heard: list[Exception] = []
    reports = Reports(heard.append, None)
    for _ in range(20):
        reports.error(ValueError("a"), "handler")
    assert len(heard) == 20
