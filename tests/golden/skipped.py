"""Recorded steps that supawire refuses or never takes, with the reason.

Tests check that these lists have no missing and no unnecessary entry.
"""

from typing import Final

from .recordings import Record

SKIPPED: Final = {
    # the API refuses the arguments
    ("err-topics", b'"realtime:"'): "a topic without a name",
    ("private", b'"since": 0,'): "replay on a public channel",
    ("private", b'"since": "yesterday"'): "a time that is not a number",
    ("pgerr-bad-op", b"phx_join"): "a filter with an unknown operator",
    ("pgerr-garbage-filter", b"phx_join"): "text that is not a filter",
    ("pgerr-in-over-100", b"phx_join"): "a list of more than 100 values",
    ("pgerr-bad-event", b"phx_join"): "an unknown kind of change",
    ("pgerr-select-string", b"phx_join"): "a select that is not a list",
    # the client never sends such a frame
    ("err-topics", b"nosuch:topic"): "topics of the client always begin with realtime:",
    ("err-topics", b"never-joined"): "nothing is pushed on a topic that is not joined",
    ("basic", b'"no-type"'): "broadcasts of the client always have a type and a payload",
    ("presence-off", b'"key": "k", "enabled": false'): "with a presence key the client enables presence",
    ("presence-off", b'{"i": 1}'): "a push on the join that the entry above skips",
    ("sizes", b'"track"'): "to track on a channel joined without presence the client joins again",
    ("pgerr-null-filter", b"phx_join"): "the client sends no null in a binding",
    ("pgerr-null-and-dup", b"phx_join"): "the client sends no null in a binding",
    ("pgerr-empty-params", b"phx_join"): "bindings of the client always name a schema and a table",
    ("err-join-payload", b"phx_join"): "joins of the client are complete, with values of the right types",
    ("err-malformed", b"no_such_event"): "an event that does not exist",
    ("err-malformed", b'"broadcast"'): "broadcasts of the client are objects with type, event and payload",
    ("err-malformed", b'"presence"'): "presence pushes of the client are well-formed, on channels with presence",
    ("err-malformed", b'"access_token"'): "access_token pushes of the client always have a token",
    ("err-malformed", b'"heartbeat"'): "heartbeats of the client have a payload and a ref, which is a string",
    ("err-malformed", b'[null,"1","phoenix"]'): "elements are missing",
    ("err-malformed", b'"topic":5'): "topics are strings",
    ("binary", b'"k":1'): "the client sends no metadata, because the server discards it",
    ("binary", b"not json"): "payloads marked as JSON are always JSON",
    ("binary", b"nojr"): "the client always sends its join_ref",
    ("binary", b"stalejr"): "the client never sends an old join_ref",
    ("binary", b"\x00\x01\x02"): "the client sends no pushes of kind 0",
    ("conn-no-vsn", b'"heartbeat"'): "frames of 1.0.0 on a connection of 2.0.0",
    (
        "msg-rate",
        b'"ref": "2602"',
    ): "the close before this join was not recorded, so the channel is still joined",
}
"""By scenario and a part of the frame."""

INVALID_FRAMES: Final = {
    ("err-malformed", b"{"): "not JSON",
    ("err-malformed", b""): "an empty frame",
    ("err-malformed", b"null"): "not a frame",
    ("err-malformed", b"[]"): "not a frame",
    ("err-malformed", b"{}"): "not a frame",
    ("err-malformed", b'"x"'): "not a frame",
    ("err-malformed", b"\xff\xfe"): "an unknown kind of binary frame",
    ("binary", b"\x09\x00\x00"): "an unknown kind of binary frame",
    ("binary", b"\x03\x01"): "a binary frame that ends inside its header",
}
"""By scenario and the whole frame."""

SKIPPED_CONNECTIONS: Final = {("join-rate", "A"): "only twelve of about 6,700 joins and replies were recorded"}
"""Connections by scenario and name."""


def matches(key: tuple[str, bytes], record: Record) -> bool:
    """Return whether an entry of the lists refers to this step."""
    scenario, data = key
    return record.scenario == scenario and (record.data == data if key in INVALID_FRAMES else data in record.data)
