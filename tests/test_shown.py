"""What a server, a proxy or a client says is shown without tokens, on one line, and not without end."""

from supawire._display import MAX_SHOWN, hide_tokens, printable

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
