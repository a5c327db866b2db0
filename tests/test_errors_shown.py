"""Errors repeat what a server says; what it says may be anything."""

import logging
from typing import Any

import pytest

from supawire import _server_errors
from supawire.aio.reporting import Reports
from supawire.core.effects import UnknownEvent
from supawire.errors import TREE
from supawire.options import Endpoint, Secret
from supawire.transport._aiohttp import hide

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.c2lnbmF0dXJl-_"
ODD = f"no\n\x1b[31mERROR root: all is lost\x9b{JWT} " + "x" * 1_000_000
"""A token, a line and a colour that somebody else shall see, and a text without end."""

MADE = {
    "join": lambda: _server_errors.join_error(ODD, "room"),
    "connect": lambda: _server_errors.connect_error(500, ODD),
    "connect, JSON": lambda: _server_errors.connect_error(500, b'{"error":"a\\nb \\u001b %s"}' % JWT.encode()),
    "system": lambda: _server_errors.system_error("system", ODD),
    "push": lambda: _server_errors.push_error({"reason": ODD}),
    "push, odd": lambda: _server_errors.push_error({"what": [ODD]}),
    "http": lambda: _server_errors.http_error(400, ODD),
    "http, JSON": lambda: _server_errors.http_error(400, b'{"message":"a\\nb \\u001b %s"}' % JWT.encode()),
    "lost": lambda: _server_errors.lost_error(1006, maybe_sent=True),
    **{kind.__name__: (lambda kind=kind: kind(ODD)) for kind in TREE},
}


@pytest.mark.parametrize("name", MADE)
def test_no_error_repeats_a_token_or_a_control_character_or_without_end(name: str):
    """Whatever class it is of, and whoever made it."""
    error: Any = MADE[name]()
    shown = f"{error} {error.args} {error.message} {error.code} {getattr(error, 'body', '')}"
    assert not any(part in shown for part in JWT.split("."))
    assert error.message.isprintable() and len(error.message) < 2100
    assert error.code is None or len(str(error.code)) <= 64
    if name not in {"lost", "connect", "connect, JSON", "http", "http, JSON"}:
        assert "all is lost" in shown and "characters" in error.message


def test_a_log_of_unknown_frames_is_one_line(caplog: pytest.LogCaptureFixture):
    """Topic and event come from outside."""
    caplog.set_level(logging.DEBUG, "supawire")
    Reports(None, None).take(UnknownEvent(ODD, ODD))
    (record,) = caplog.records
    assert record.getMessage().isprintable() and len(record.getMessage()) < 1200
    assert "eyJ" not in record.getMessage()


def test_only_what_can_be_a_secret_is_replaced():
    """A key of one letter is in every word."""
    said = "127.0.0.1 cannot be reached with key-of-mine, says Bearer long-long-token"
    assert hide(said, [Secret("a"), None, Secret("")], ["short"]) == said
    assert hide(said, [Secret("key-of-mine")], ["Bearer long-long-token"]) == (
        "127.0.0.1 cannot be reached with ***, says ***"
    )


def test_an_endpoint_does_not_show_its_query():
    """What a gateway wants there may be a secret; the key is none of it anyway."""
    endpoint = Endpoint.of("https://abc.supabase.co?gate=open-sesame", "a-long-key", params={"token": "other-secret"})
    for shown in (repr(endpoint), str(endpoint), str(endpoint.__rich_repr__())):
        assert "abc.supabase.co" in shown
        assert not any(word in shown for word in ("sesame", "other-secret", "a-long-key"))
    assert endpoint.params == {"gate": "open-sesame", "token": "other-secret", "vsn": "2.0.0"}
