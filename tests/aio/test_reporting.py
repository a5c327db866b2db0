"""Log records, errors that `on_error` receives, and frames with tokens that `on_frame` receives."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from supawire import broadcast
from supawire.aio.reporting import Reports, redact_frame
from supawire.errors import JoinError
from supawire.events import ChannelState
from tests.aio.peer import Server, connected, settled, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Yield a logger of the test's own and its records."""
    kept: list[logging.LogRecord] = []
    logger = logging.getLogger("tests.reports")
    handler = logging.Handler()
    handler.addFilter(lambda record: kept.append(record) or False)
    logger.addHandler(handler)
    logger.propagate = False
    yield kept
    logger.removeHandler(handler)


def shown(records: list[logging.LogRecord]) -> list[tuple[str, bool]]:
    """Return the records above DEBUG: the text, and whether there is a traceback."""
    return [(each.getMessage(), bool(each.exc_info)) for each in records if each.levelno > logging.DEBUG]


async def test_a_handler_that_raises_for_each_event_logs_one_traceback(records: list[logging.LogRecord]):
    """A thousand errors of one handler are logged as one traceback and three lines, whatever their texts."""

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


def test_repeated_errors_are_logged_each_minute_by_kind(records: list[logging.LogRecord]):
    """After a minute the next error of a kind is logged with their number; another kind begins with its own
    traceback."""
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
    """Errors with ever new texts are all logged, and only the newest kinds are remembered."""
    reports = Reports(None, logging.getLogger("tests.reports"))
    for number in range(1000):
        reports.error(ValueError(number), "handler")
    assert len(shown(records)) == 1000
    reports.error(ValueError(744), "handler")  # one of the newest 256
    assert len(shown(records)) == 1000
    reports.error(ValueError(743), "handler")
    assert len(shown(records)) == 1001


def test_the_hook_gets_every_error():
    """`on_error` is called for each error, also for repeated ones of one kind."""
    errors: list[Exception] = []
    reports = Reports(errors.append, None)
    for _ in range(20):
        reports.error(ValueError("a"), "handler")
    assert len(errors) == 20


@pytest.mark.parametrize("secret", [False, True])
def test_tokens_are_hidden_in_unmarked_frames(secret: bool):
    """A frame with a token is shown without it, whether or not it is marked as containing one."""
    frame = json.dumps([None, None, "t", "e", {"a": [{"access_token": "the-token"}], "b": 1}]).encode()
    shown = redact_frame(frame, binary=False, secret=secret)
    assert json.loads(shown) == [None, None, "t", "e", {"a": [{"access_token": "***"}], "b": 1}]


def test_a_frame_with_a_token_that_cannot_be_read_is_hidden_whole():
    """A frame with a token at an unknown position is hidden completely."""
    assert redact_frame(b'{"access_token": "the-token"', binary=False, secret=False) == b"***"


def test_other_frames_are_shown_as_they_are():
    """A frame without a token is shown with the bytes that were received or sent."""
    for frame, binary in ((b"[1, 2]", False), (b"not json", False), (b"\x04bytes", True)):
        assert redact_frame(frame, binary=binary, secret=False) is frame


REASON = "Unauthorized: You do not have permissions to read from this Channel topic: room"


async def refuse_later(client: Any, server: Server, room: Any) -> None:
    """Refuse the channel permanently when it joins again."""
    server.answers["phx_join"] = server.refuse(REASON)
    client.reconnect()
    await until(lambda: room.state is ChannelState.FAILED)


async def async_handler(event: Any) -> None: ...


@pytest.mark.parametrize("kind", ["nothing", "handler", "another topic's iterator"])
async def test_an_error_that_no_caller_gets_goes_to_on_error(kind: str):
    """Handlers, and iterators of other channels, do not raise why a channel ended: `on_error` receives it once."""
    errors: list[Exception] = []
    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room", private=True)
        kept = client.channel("other").listen(broadcast()) if kind.startswith("another") else None
        if kind == "handler":
            room.on(broadcast(), async_handler)
        await room.subscribe()
        await refuse_later(client, server, room)
        assert [type(error).__name__ for error in errors] == ["JoinDeniedError"]
        assert kept is None or kept.dropped == 0


async def test_an_end_that_an_iterator_raises_is_not_reported():
    """The channel's own iterator raises the reason, so `on_error` does not receive it."""
    errors: list[Exception] = []
    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room", private=True)
        stream = room.listen(broadcast())
        await room.subscribe()
        await refuse_later(client, server, room)
        with pytest.raises(JoinError, match="permissions"):
            await anext(stream)
        assert errors == []


async def test_an_end_that_a_caller_gets_is_not_reported():
    """A waiting `subscribe` raises the reason, so `on_error` does not receive it."""
    errors: list[Exception] = []
    async with connected(on_error=errors.append) as (client, server):
        server.answers["phx_join"] = server.refuse(REASON)
        with pytest.raises(JoinError, match="permissions"):
            await client.channel("room", private=True).subscribe()
        await asyncio.sleep(0)
        assert errors == []
