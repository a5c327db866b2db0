"""What `on_frame` sees of frames with tokens."""

import json

import pytest

from supawire.aio.reporting import redact_frame


@pytest.mark.parametrize("secret", [False, True])
def test_tokens_are_hidden_in_frames_that_nobody_marked(secret: bool):
    """A frame with a token in it is shown without it, whether or not it was known to hold one."""
    frame = json.dumps([None, None, "t", "e", {"a": [{"access_token": "the-token"}], "b": 1}]).encode()
    shown = redact_frame(frame, binary=False, secret=secret)
    assert json.loads(shown) == [None, None, "t", "e", {"a": [{"access_token": "***"}], "b": 1}]


def test_a_frame_with_a_token_that_cannot_be_read_is_hidden_whole():
    """Where the token stands cannot be told, so nothing of the frame is shown."""
    assert redact_frame(b'{"access_token": "the-token"', binary=False, secret=False) == b"***"


def test_other_frames_are_shown_as_they_are():
    """Frames without a token are the very bytes that were on the wire."""
    for frame, binary in ((b"[1, 2]", False), (b"not json", False), (b"\x04bytes", True)):
        assert redact_frame(frame, binary=binary, secret=False) is frame
