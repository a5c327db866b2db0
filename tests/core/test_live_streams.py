"""The two sides of a live stream: merging, confirmation, answers to readers, and putting segments together."""

import hashlib
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire.core.live_streams import (
    ANSWER_INTERVAL,
    ANSWER_TIMEOUTS,
    MAX_ID,
    MAX_IN_FLIGHT,
    RETRY_PAUSE,
    Segment,
    StreamKind,
    StreamReceiver,
    StreamSender,
    check_stream_id,
    read_request,
    read_segment,
)
from supawire.errors import InvalidArgumentError

INTERVAL = 0.1


def sender(kind: StreamKind = "text", *, segment_bytes: int = 1000, history: int = 10_000, **info: Any) -> StreamSender:
    return StreamSender(
        "s", "r", kind, info or None, segment_bytes=segment_bytes, interval=INTERVAL, history=history
    )  # fmt: skip


def receiver(*, most: int = 10_000, idle: float = 10.0, start_timeout: float | None = 30.0) -> StreamReceiver:
    return StreamReceiver("s", 0.0, most=most, idle=idle, start_timeout=start_timeout)


def test_the_first_part_is_sent_at_once_and_later_ones_are_merged():
    """The first segment has no delay; what is written within the interval makes one segment."""
    out = sender()
    assert out.take(5.0) is None
    out.write(b"one ")
    first = out.take(5.0)
    assert first is not None and (first.seq, first.at, first.text) == (1, 0, "one ")
    out.write(b"two ")
    out.write(b"three")
    assert out.take(5.05) is None
    assert out.next_at() == 5.0 + INTERVAL
    second = out.take(5.0 + INTERVAL)
    assert second is not None and (second.seq, second.at, second.text) == (2, 4, "two three")
    assert out.next_at() is None


def test_the_end_has_length_and_digest_and_comes_with_the_last_data():
    """The last segment carries the end, with the length in bytes and the digest of all data."""
    out = sender(model="m")
    out.write("grün".encode())
    out.finish("complete")
    segment = out.take(0.0)
    assert segment is not None and segment.info == {"model": "m"}
    assert segment.end is not None and segment.end.length == 5
    assert segment.end.sha256 == hashlib.sha256("grün".encode()).hexdigest()
    assert not out.done
    out.acknowledge(segment)
    assert out.done


def test_segments_never_cut_a_character():
    """Text is divided into segments at characters; the parts together are the text."""
    text = "aé€😀" * 50
    out = sender(segment_bytes=7)
    out.write(text.encode())
    parts: list[str] = []
    for number in range(1000):
        segment = out.take(float(number))
        if segment is None:
            break
        out.acknowledge(segment)
        parts.append(segment.text)
    assert "".join(parts) == text
    assert max(len(part.encode()) for part in parts) <= 7


def test_after_a_failure_everything_unconfirmed_is_sent_again():
    """When a segment fails, sending goes back to the last confirmed offset, even if a later one was confirmed."""
    out = sender(segment_bytes=4)
    out.write(b"aaaabbbbcccc")
    segments = [out.take(float(number)) for number in range(3)]
    first, second, third = (segment for segment in segments if segment is not None)
    out.acknowledge(first)
    out.fail(second, 3.0)
    out.acknowledge(third)
    assert out.take(3.0) is None
    again = out.take(3.0 + RETRY_PAUSE)
    assert again is not None and (again.at, again.text) == (4, "bbbb")


def test_segments_in_flight_are_limited():
    """While too many segments are not confirmed, no other one is made."""
    out = sender(segment_bytes=1)
    out.write(b"x" * 100)
    segments = [out.take(float(number)) for number in range(MAX_IN_FLIGHT + 1)]
    assert segments[-1] is None and segments[-2] is not None and segments[0] is not None
    out.acknowledge(segments[0])
    assert out.take(100.0) is not None


def test_requests_of_readers_get_one_common_answer():
    """Requests within the answer interval are answered together, from the smallest offset."""
    out = sender()
    out.write(b"0123456789")
    assert out.take(0.0) is not None
    out.request(8)
    out.request(2)
    answer = out.take(1.0)
    assert answer is not None and (answer.at, answer.text) == (2, "23456789")
    out.request(0)
    out.request(5)
    assert out.take(1.0 + ANSWER_INTERVAL / 2) is None
    answer = out.take(1.0 + ANSWER_INTERVAL)
    assert answer is not None and answer.at == 0


def test_many_readers_do_not_stop_the_stream():
    """A new answer begins after as much new data as was repeated, so that requests without an end stop nobody."""
    out = sender(segment_bytes=10)
    out.write(b"x" * 100)
    reached, now = 0, 0.0
    while reached < 100:
        out.request(0)
        segment = out.take(now)
        assert segment is not None and now < 10
        out.acknowledge(segment)
        reached = max(reached, segment.at + 10)
        now += ANSWER_INTERVAL


def test_a_request_for_nothing_new_is_answered_too():
    """A reader who has everything gets an empty segment, which says that the producer is still there."""
    out = sender()
    out.write(b"all")
    assert out.take(0.0) is not None
    out.request(3)
    answer = out.take(1.0)
    assert answer is not None and (answer.at, answer.text, answer.end) == (3, "", None)


def test_old_data_is_dropped_and_its_readers_are_notified():
    """Confirmed data beyond `history` is dropped; a segment says from where data exists, and the reader has lost it."""
    out = sender(segment_bytes=100, history=100)
    for number in range(10):
        out.write(bytes([97 + number]) * 100)
        segment = out.take(float(number))
        assert segment is not None
        out.acknowledge(segment)
    out.request(0)
    answer = out.take(20.0)
    assert answer is not None and answer.at == answer.first >= 800
    late = receiver()
    late.receive(answer, 0.0)
    assert (late.status, late.length) == ("lost", 0)


def test_data_that_were_dropped_are_not_sent_again_after_a_failure():
    """When an answer fails whose data were dropped meanwhile, sending goes on with the earliest data that are kept."""
    out = sender("bytes", history=10)
    out.write(bytes(range(20)))
    first = out.take(0.0)
    assert first is not None
    out.request(0)
    answer = out.take(1.0)
    assert answer is not None and answer.at == 0
    out.acknowledge(first)
    out.write(bytes(range(20, 60)))
    second = out.take(2.0)
    assert second is not None
    out.acknowledge(second)
    out.fail(answer, 2.0)
    again = out.take(9.0)
    assert again is not None and (again.at, again.data()) == (again.first, bytes(range(again.first, 60)))


@pytest.mark.parametrize("kind", ["text", "bytes", "json"])
def test_a_receiver_joins_segments_in_any_repetition(kind: StreamKind):
    """Repeated and overlapping segments add nothing twice; the digest is compared at the end."""
    out = sender(kind, segment_bytes=3)
    out.write('"grün, blau"\n'.encode())
    out.finish("complete")
    reader = receiver()
    for number in range(20):
        if number % 4 == 3:
            out.request(0)
        segment = out.take(float(number))
        if segment is not None:
            out.acknowledge(segment)
            reader.receive(segment, float(number))
            reader.receive(segment, float(number))
    assert reader.status == "complete"
    assert b"".join(reader.parts) == '"grün, blau"\n'.encode()


def test_a_missing_part_is_requested_until_the_producer_answers():
    """A reader asks at once, then after growing delays; without an answer the stream is lost."""
    reader = receiver()
    reader.receive(Segment("s", "r", 1, 0, text="abc"), 0.0)
    assert reader.tick(1.0) is None
    reader.receive(Segment("s", "r", 3, 9, text="jkl"), 1.0)
    now = 1.0
    for timeout in ANSWER_TIMEOUTS:
        request = reader.tick(now)
        assert request is not None and (request.want, request.id, request.at) == ("data", "s", 3)
        assert reader.tick(now) is None
        now += timeout
        reader.receive(Segment("s", "r", 4, 12, text="mno"), now)  # live, but not what is missing
    assert reader.tick(now) is None
    assert (reader.status, reader.deadline) == ("lost", None)


def test_a_silent_producer_interrupts_the_stream():
    """After `idle` seconds without a segment the producer is asked; without an answer the stream is interrupted."""
    reader = receiver(idle=10.0)
    reader.receive(Segment("s", "r", 1, 0, text="abc"), 0.0)
    assert reader.deadline == 10.0
    now = 10.0
    for timeout in ANSWER_TIMEOUTS:
        assert reader.tick(now) is not None
        now += timeout
    reader.tick(now)
    assert reader.status == "interrupted"


def requests(reader: StreamReceiver, until: float) -> list[float]:
    """Return the times at which the reader asks, when nobody answers."""
    times: list[float] = []
    while reader.deadline is not None and reader.deadline <= until:
        now = reader.deadline
        if reader.tick(now) is not None:
            times.append(now)
    return times


def test_a_stream_that_begins_later_is_awaited():
    """A reader of an id that nobody answers for asks again after `idle`, until `start_timeout` at most."""
    reader = receiver(idle=10.0, start_timeout=30.0)
    assert requests(reader, 100.0) == [0.0, 1.0, 3.0, 7.0, 21.0, 22.0, 24.0, 28.0]
    assert (reader.status, reader.reason) == ("interrupted", "no producer of the stream answers")
    reader = receiver(start_timeout=None)
    assert requests(reader, 1000.0)[-1] > 980.0
    reader.receive(Segment("s", "r", 1, 0, text="abc"), 1000.0)
    assert (reader.status, reader.parts) == ("running", [b"abc"])


def test_a_stored_copy_completes_the_stream():
    """A stored stream with its end ends the reader; one without adds what it has; an older copy changes nothing."""
    reader = receiver()
    reader.receive(Segment("s", "r", 1, 0, text="ab"), 0.0)
    reader.restore(b"a", "text", None, "running", None)
    reader.restore(b"abcd", "text", {"model": "m"}, "running", None)
    assert (b"".join(reader.parts), reader.info, reader.status) == (b"abcd", {"model": "m"}, "running")
    reader.restore(b"abcdef", "text", None, "complete", None)
    assert (b"".join(reader.parts), reader.status, reader.deadline) == (b"abcdef", "complete", None)
    other = receiver()
    other.receive(Segment("s", "r", 1, 0, text="ab"), 0.0)
    other.restore(b"xyz", "text", None, "complete", None)
    assert other.status == "corrupt"


def test_an_answer_continues_the_stream():
    """An answer within the delays ends the requests."""
    reader = receiver(idle=10.0)
    reader.receive(Segment("s", "r", 1, 0, text="abc"), 0.0)
    assert reader.tick(10.0) is not None
    reader.receive(Segment("s", "r", 2, 3), 10.5)
    assert (reader.status, reader.deadline) == ("running", 20.5)


@pytest.mark.parametrize(
    ("segment", "status"),
    [
        (Segment("s", "r", 1, 0, "bytes", "no base64!"), "corrupt"),
        (Segment("s", "r", 1, 0, text="x" * 10_001), "too_large"),
        (Segment("s", "r", 1, 0, "json", "[1]\n{bad\n"), "corrupt"),
    ],
)
def test_what_cannot_be_read_ends_the_stream(segment: Segment, status: str):
    """A segment that is not valid, and one beyond the limit of the reader, end the stream with a reason."""
    reader = receiver()
    reader.receive(segment, 0.0)
    assert (reader.status, bool(reader.reason), reader.parts) == (status, True, [])


def test_json_values_are_checked_across_segments():
    """A JSON value that goes on in the next segment is checked as a whole; one without an end is not complete."""
    out = sender("json")
    out.write(b'{"a": 1}\n{"b"')
    out.finish("complete")
    segment = out.take(0.0)
    assert segment is not None
    reader = receiver()
    reader.receive(Segment("s", "r", 1, 0, "json", '{"a'), 0.0)
    reader.receive(Segment("s", "r", 2, 3, "json", '": 1}\n{"b'), 0.0)
    assert (reader.status, reader.length) == ("running", 12)
    reader.receive(segment, 0.0)
    assert (reader.status, reader.reason) == ("corrupt", "the last JSON value is not complete")


def test_a_json_value_that_is_nested_too_deeply_ends_the_stream():
    """A JSON value that the decoder refuses for its depth ends the stream as corrupt."""
    reader = receiver(most=1_000_000)
    reader.receive(Segment("s", "r", 1, 0, "json", "[" * 100_000 + "]" * 100_000 + "\n"), 0.0)
    assert (reader.status, reader.parts) == ("corrupt", [])


def test_a_wrong_digest_is_noticed():
    """Data that differ from those of the producer end the stream as corrupt."""
    out = sender()
    out.write(b"abc")
    out.finish("complete")
    segment = out.take(0.0)
    assert segment is not None
    reader = receiver()
    reader.receive(Segment("s", "r", 1, 0, text="abd", end=segment.end), 0.0)
    assert reader.status == "corrupt"


@pytest.mark.parametrize(
    "payload",
    [
        None, [], "text", {}, {"id": "s"}, {"id": 1, "run": "r", "seq": 1, "at": 0},
        {"id": "s", "run": "r", "seq": 1, "at": -1}, {"id": "", "run": "r", "seq": 1, "at": 0},
        {"id": "x" * (MAX_ID + 1), "run": "r", "seq": 1, "at": 0},
        {"id": "s", "run": "r", "seq": 1, "at": 0, "kind": "video"},
        {"id": "s", "run": "r", "seq": 1, "at": 0, "end": {"status": "complete", "length": -1, "sha256": ""}},
    ],
)  # fmt: skip
def test_payloads_that_are_not_segments_are_ignored(payload: object):
    """Other broadcasts with the same event are not segments."""
    assert read_segment(payload) is None


@pytest.mark.parametrize("payload", [None, {}, {"want": "all"}, {"want": "cancel"}, {"want": "data", "at": -1}])
def test_payloads_that_are_not_requests_are_ignored(payload: object):
    """Other broadcasts with the event of requests are not requests; only data can be requested of every stream."""
    assert read_request(payload) is None


@pytest.mark.parametrize("id", ["\ud800", None, 7, "", "x" * (MAX_ID + 1)])
def test_ids_are_checked(id: object):
    """An id is text of limited length."""
    with pytest.raises(InvalidArgumentError, match="id of a stream"):
        check_stream_id(id)


@given(st.lists(st.text(max_size=30), max_size=20), st.integers(0, 2**32), st.integers(4, 40))
def test_any_loss_is_mended_by_requests(texts: list[str], seed: int, segment_bytes: int):
    """Whatever is lost on the way, in both directions, the reader ends with the text, after enough requests."""
    chance = random.Random(seed)
    out, reader, now = sender(segment_bytes=segment_bytes), receiver(idle=1.0), 0.0
    pending = list(texts)
    for _ in range(3000):
        now += 0.05
        if pending:
            out.write(pending.pop(0).encode())
        else:
            out.finish("complete")
        if (segment := out.take(now)) is not None:
            if chance.random() < 0.8:
                out.acknowledge(segment)
            else:
                out.fail(segment, now)
            if chance.random() < 0.8:
                reader.receive(segment, now)
        if (request := reader.tick(now)) is not None and chance.random() < 0.8:
            out.request(request.at)
        if reader.status != "running":
            break
    assert reader.status in ("complete", "lost", "interrupted")
    if reader.status == "complete":
        assert b"".join(reader.parts).decode() == "".join(texts)
