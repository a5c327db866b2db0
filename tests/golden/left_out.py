"""Recorded steps of clients that ours refuses or never takes, with the reason. The lists are exact, by test."""

from typing import Final

from .recordings import Record

LEFT_OUT: Final = {
    # our API refuses the arguments
    ("err-topics", b'"realtime:"'): "a topic without a name",
    ("private", b'"since": 0,'): "replay on a public channel",
    ("private", b'"since": "yesterday"'): "a time that is no number",
    ("pgerr-bad-op", b"phx_join"): "a filter with an unknown operator",
    ("pgerr-garbage-filter", b"phx_join"): "a filter that is none",
    ("pgerr-in-over-100", b"phx_join"): "a list of more than 100 values",
    ("pgerr-bad-event", b"phx_join"): "an unknown kind of change",
    ("pgerr-select-string", b"phx_join"): "a select that is no list",
    # our client never sends it
    ("err-topics", b"nosuch:topic"): "every topic of ours begins with realtime:",
    ("err-topics", b"never-joined"): "nothing is pushed on a topic that is not joined",
    ("basic", b'"no-type"'): "every broadcast of ours has a type and a payload",
    ("presence-off", b'"key": "k", "enabled": false'): "with a presence key our client asks for presence",
    ("presence-off", b'{"i": 1}'): "it follows the one before",
    ("sizes", b'"track"'): "to track on a channel joined without presence our client joins again",
    ("pgerr-null-filter", b"phx_join"): "nothing that we send is null",
    ("pgerr-null-and-dup", b"phx_join"): "nothing that we send is null",
    ("pgerr-empty-params", b"phx_join"): "a binding of ours always names a schema and a table",
    ("err-join-payload", b"phx_join"): "a join of ours says everything, with values of the right types",
    ("err-malformed", b"no_such_event"): "an event that there is not",
    ("err-malformed", b'"broadcast"'): "every broadcast of ours is an object with type, event and payload",
    ("err-malformed", b'"presence"'): "presence pushes of ours are well-formed, on channels joined for them",
    ("err-malformed", b'"access_token"'): "never without a token",
    ("err-malformed", b'"heartbeat"'): "heartbeats of ours have a payload and a ref, which is a string",
    ("err-malformed", b'[null,"1","phoenix"]'): "elements are missing",
    ("err-malformed", b'"topic":5'): "topics are strings",
    ("binary", b'"k":1'): "metadata is thrown away by the server, so we send none",
    ("binary", b"not json"): "what says JSON is JSON",
    ("binary", b"nojr"): "we always send our join_ref",
    ("binary", b"stalejr"): "we never send an old join_ref",
    ("binary", b"\x00\x01\x02"): "pushes of kind 0 are not for the eyes of others",
    ("conn-no-vsn", b'"heartbeat"'): "the frames of 1.0.0 on a connection where we want 2.0.0",
    ("msg-rate", b'"ref": "2602"'): "the close before this join is not in the recording, so ours is still joined",
}
"""By scenario and something that stands in the frame."""

NO_FRAMES: Final = {
    ("err-malformed", b"{"): "no JSON",
    ("err-malformed", b""): "nothing in it",
    ("err-malformed", b"null"): "no frame",
    ("err-malformed", b"[]"): "no frame",
    ("err-malformed", b"{}"): "no frame",
    ("err-malformed", b'"x"'): "no frame",
    ("err-malformed", b"\xff\xfe"): "no kind of binary frame",
    ("binary", b"\x09\x00\x00"): "no kind of binary frame",
    ("binary", b"\x03\x01"): "a binary frame that ends inside its header",
}
"""By scenario and the whole frame."""

NOT_PLAYED: Final = {("join-rate", "A"): "of some 6,700 joins and their answers twelve are in the recording"}
"""Connections by scenario and name."""


def names(key: tuple[str, bytes], record: Record) -> bool:
    """Whether an entry of the lists is about this step."""
    scenario, data = key
    return record.scenario == scenario and (record.data == data if key in NO_FRAMES else data in record.data)
