"""External text in logs and errors: without tokens, on one line, and of limited length."""

import logging
from typing import Any

import pytest

from supawire import _server_errors
from supawire._display import MAX_SHOWN, hide_tokens, printable
from supawire.aio.reporting import Reports
from supawire.core.effects import UnknownEvent
from supawire.errors import TREE
from supawire.options import Endpoint, Secret
from supawire.transport._aiohttp import hide

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.c2lnbmF0dXJl-_"


def test_tokens_and_keys_are_hidden_wherever_they_stand():
    """Whole or cut, with letters around; what only looks similar stays."""
    for text in (JWT, f"bad token {JWT}!", f"Bearer x{JWT}", "sb_secret_abc", "key=sb_publishable_x", JWT[:30]):
        shown = hide_tokens(text)
        assert "***" in shown
        assert not any(part in shown for part in (*JWT.split("."), "abc", "able_x")), shown
    for text in ("realtime.messages.insert", "usb_device says no", "eyJ", "no token at all"):
        assert hide_tokens(text) == text


def test_parts_that_begin_otherwise_are_hidden_where_that_is_wanted():
    """Three long parts with dots between, as a server sees in a frame it cannot read."""
    assert hide_tokens("x aaaaaaaa.bbbbbbbb.cc", any_parts=True) == "x ***"
    assert hide_tokens("aaaaaaaa.bbbb.cc", any_parts=True) == "aaaaaaaa.bbbb.cc"


def test_hiding_takes_one_pass():
    """Beginnings of a token without an end, and a run without a dot: quadratic patterns would take hours."""
    assert len(hide_tokens("eyJ" * 10)) < 10
    for text in ("eyJ " * 500_000, "a" * 2_000_000, "a." * 1_000_000):
        assert hide_tokens(text, any_parts=True)


def test_control_characters_are_escaped_and_the_rest_is_kept():
    """No line is faked in a log, no colour set in a terminal."""
    assert printable("a\nb\x1b[31m\x9b\u2028é") == "a\\nb\\x1b[31m\\x9b\\u2028é"


def test_a_long_text_says_how_long_it_is():
    """Its beginning is shown; a token at the cut is none."""
    assert printable("x" * MAX_SHOWN) == "x" * MAX_SHOWN
    assert printable("x" * 1_000_000, 10) == "x" * 10 + "… (1000000 characters)"
    cut = printable("x" * 5 + " " + JWT, 12)
    assert "eyJ" not in cut


ODD = f"no\n\x1b[31mERROR root: all is lost\x9b{JWT} " + "x" * 1_000_000
"""A token, a line break, a terminal sequence and a very long text."""

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
