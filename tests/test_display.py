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


def test_tokens_and_keys_are_hidden():
    """Complete or truncated tokens are hidden, with any text around them; similar text is kept."""
    for text in (JWT, f"bad token {JWT}!", f"Bearer x{JWT}", "sb_secret_abc", "key=sb_publishable_x", JWT[:30]):
        shown = hide_tokens(text)
        assert "***" in shown
        assert not any(part in shown for part in (*JWT.split("."), "abc", "able_x")), shown
    for text in ("realtime.messages.insert", "usb_device says no", "eyJ", "no token at all"):
        assert hide_tokens(text) == text


def test_any_three_long_parts_are_hidden_on_request():
    """With `any_parts`, three long parts separated by dots are hidden, as in frames that a server cannot decode."""
    assert hide_tokens("x aaaaaaaa.bbbbbbbb.cc", any_parts=True) == "x ***"
    assert hide_tokens("aaaaaaaa.bbbb.cc", any_parts=True) == "aaaaaaaa.bbbb.cc"


def test_hiding_takes_one_pass():
    """Many beginnings of a token, or one very long run, are processed in linear time."""
    assert len(hide_tokens("eyJ" * 10)) < 10
    for text in ("eyJ " * 500_000, "a" * 2_000_000, "a." * 1_000_000):
        assert hide_tokens(text, any_parts=True)


def test_control_characters_are_escaped():
    """External text cannot forge log lines or colour a terminal."""
    assert printable("a\nb\x1b[31m\x9b\u2028é") == "a\\nb\\x1b[31m\\x9b\\u2028é"


def test_a_long_text_is_cut_and_its_length_is_added():
    """The beginning of a long text is shown; a token at the cut is hidden."""
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
def test_errors_show_external_text_safely(name: str):
    """No class of error repeats a token, a control character or an unlimited text."""
    error: Any = MADE[name]()
    shown = f"{error} {error.args} {error.message} {error.code} {getattr(error, 'body', '')}"
    assert not any(part in shown for part in JWT.split("."))
    assert error.message.isprintable() and len(error.message) < 2100
    assert error.code is None or len(str(error.code)) <= 64
    if name not in {"lost", "connect", "connect, JSON", "http", "http, JSON"}:
        assert "all is lost" in shown and "characters" in error.message


def test_an_unknown_frame_is_logged_on_one_line(caplog: pytest.LogCaptureFixture):
    """The topic and event of an unknown frame are escaped as external text."""
    caplog.set_level(logging.DEBUG, "supawire")
    Reports(None, None).take(UnknownEvent(ODD, ODD))
    (record,) = caplog.records
    assert record.getMessage().isprintable() and len(record.getMessage()) < 1200
    assert "eyJ" not in record.getMessage()


def test_short_values_are_not_treated_as_secrets():
    """A key of one letter occurs in every word and is not replaced."""
    text = "127.0.0.1 cannot be reached with key-of-mine, says Bearer long-long-token"
    assert hide(text, [Secret("a"), None, Secret("")], ["short"]) == text
    assert hide(text, [Secret("key-of-mine")], ["Bearer long-long-token"]) == (
        "127.0.0.1 cannot be reached with ***, says ***"
    )


def test_an_endpoint_does_not_show_its_query():
    """The query parameters for a gateway may be secret, and so is the key."""
    endpoint = Endpoint.of("https://abc.supabase.co?gate=open-sesame", "a-long-key", params={"token": "other-secret"})
    for shown in (repr(endpoint), str(endpoint), str(endpoint.__rich_repr__())):
        assert "abc.supabase.co" in shown
        assert not any(word in shown for word in ("sesame", "other-secret", "a-long-key"))
    assert endpoint.params == {"gate": "open-sesame", "token": "other-secret", "vsn": "2.0.0"}


def test_a_parameter_with_a_blank_is_redacted_as_queries_encode_it():
    """Long polling encodes a blank of a query parameter as `+`; a peer that repeats the URL does not reveal it."""
    assert hide("no such page: /longpoll?e=first-secret+of+two", (), ["first-secret of two"]).count("secret") == 0
