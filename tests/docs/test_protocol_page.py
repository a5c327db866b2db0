"""The examples of the protocol page are valid frames, and it names every text that the client compares."""

import json
import re

import pytest

from docs.tables import ROOT
from supawire import _server_errors as codes
from supawire._server_errors import Known
from supawire.core import binary

PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
PLAIN = re.sub(r"\s+", " ", PAGE)
BOARD = b"realtime:board"
FROM_SERVER = [
    *codes.JOIN_REASONS,
    *codes.HANDSHAKE,
    *codes.SYSTEM_MESSAGES,
    *codes.PUSH_REPLIES,
    *codes.CLOSE_CODES,
    *codes.HTTP_ANSWERS,
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    return re.split(r"^#", PAGE.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def frames(title: str) -> list[bytes]:
    """Return the bytes in a section: of each line of its block, without the explanation at the end of the line."""
    block = section(title).partition("```text\n")[2].partition("```")[0]
    return [
        bytes.fromhex(" ".join(re.findall(r"\b[0-9a-f]{2}\b", re.split(r" {2,}", row)[0])))
        for row in block.splitlines()
    ]


@pytest.mark.parametrize("block", blocks("json"))
def test_json_examples_are_json(block: str):
    """Each block of JSON is a sequence of documents; of frames, if they are arrays."""
    rest, decoder = block.strip(), json.JSONDecoder()
    while rest:
        document, end = decoder.raw_decode(rest)
        assert isinstance(document, dict) or len(document) == 5
        rest = rest[end:].lstrip()


def test_user_broadcasts_are_the_bytes_of_the_codec():
    """The explained frames of kinds 3 and 4 are what the codec encodes."""
    assert b"".join(frames("User broadcast push")) == binary.user_push(
        b"4", b"9", BOARD, b"move", b'{"x":5}', json=True
    )
    assert b"".join(frames("User broadcast")) == binary.pack(
        binary.USER_BROADCAST, BOARD, b"move", b'{"id":"a1"}', payload=b'{"x":5}', json=True
    )


def test_plain_frames_are_the_bytes_of_the_codec():
    """The frames of kinds 0 to 2, one in a line, are what the codec encodes."""
    assert frames("Plain Phoenix frames") == [
        binary.pack(binary.PUSH_UP, b"4", b"11", BOARD, b"ink", payload=b"\x07"),
        binary.pack(binary.PUSH_DOWN, b"4", BOARD, b"ink", payload=b"\x07"),
        binary.pack(binary.REPLY, b"4", b"11", BOARD, b"ok", payload=b"\x07"),
        binary.pack(binary.BROADCAST, BOARD, b"ink", payload=b"\x07"),
    ]


@pytest.mark.parametrize("row", FROM_SERVER, ids=lambda row: f"{row.slug}-{row.code}-{row.starts}")
def test_texts_that_the_client_compares_are_on_the_page(row: Known):
    """Each code and each text by which the client distinguishes refusals is named."""
    assert str(row.code or "") in PAGE
    assert row.starts in PLAIN
