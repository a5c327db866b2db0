"""Rates, windows and sizes."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire.server.limits import WORST_RATIO, CallWindow, Meter, ServerLimits, term_size


def test_a_burst_trips_only_when_its_window_ends() -> None:
    """The average is updated every 5 s, so that a burst counts up to 5 s later."""
    meter = Meter(100)
    meter.count(0.0, 2600)
    assert not meter.tripped(4.9)
    assert meter.tripped(5.0)
    assert meter.average(5.0) == 520


def test_a_tripped_meter_clears_as_the_average_falls() -> None:
    """2600 events in one window of 5 s are below 100 a second over six windows."""
    meter = Meter(100)
    meter.count(0.0, 2600)
    assert meter.tripped(25.0)
    assert not meter.tripped(30.0)


def test_a_meter_covers_one_minute() -> None:
    """At most twelve windows count, and a long pause clears them all."""
    meter = Meter(1)
    meter.count(0.0, 10_000)
    assert meter.tripped(59.0)
    assert meter.average(70.0) == 0
    meter.count(10_000.0, 5)
    assert meter.average(10_000.0) == 0
    assert meter.average(10_005.0) > 0


def test_the_limit_itself_trips() -> None:
    """The meter trips at the limit, not only above it."""
    meter = Meter(10)
    meter.count(0.0, 50)
    assert meter.tripped(5.0)


def test_a_meter_without_a_limit_never_trips() -> None:
    """None means no limit."""
    meter = Meter(None)
    meter.count(0.0, 10**9)
    assert not meter.tripped(5.0)


def test_the_sixth_call_in_a_window_is_too_many() -> None:
    """Five calls are allowed in the 30 s that begin with the first one."""
    window, limits = CallWindow(), ServerLimits.self_hosted()
    assert [window.allows(100.0 + n, limits) for n in range(6)] == [True] * 5 + [False]
    assert window.allows(130.0, limits)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (None, 6),
        (True, 7),
        (0, 3),
        (255, 3),
        (256, 6),
        (-1, 6),
        (2**40, 10),
        (1.5, 10),
        ("é☃", 11),
        ([], 2),
        ([1], 9),
        ({}, 6),
        ({"a": "bc"}, 19),
    ],
)
def test_sizes_are_those_of_terms(value: Any, size: int) -> None:
    """The size is that in Erlang's external term format, including the version byte."""
    assert term_size(value) == size


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(json_values)
def test_no_text_is_much_shorter_than_its_term(value: Any) -> None:
    """Therefore a payload whose text is far below the limit need not be decoded."""
    assert term_size(value) <= len(msgspec.json.encode(value)) * WORST_RATIO + 16
