"""The guard of the benchmarks says what it lets through, in both directions."""

import json

from benchmarks.guard import ALLOWED, KEPT, slower, stale
from benchmarks.lanes import LANES


def test_what_costs_more_than_is_allowed_is_slower():
    """The limit is the one that the page names; a lane without a kept figure counts as slower."""
    kept = {"text": 2.0, "send": 6.0}
    assert ALLOWED == 1.15
    assert slower({"text": 2.31, "send": 6.0, "new": 1.0}, kept) == ["text", "new"]
    assert slower({"text": 2.29, "send": 6.89}, kept) == []


def test_a_kept_figure_that_is_too_high_is_stale():
    """A figure from before something became cheaper would let the next slow-down pass, so it must be kept anew."""
    kept = {"text": 2.0, "send": 6.0, "gone": 1.0}
    assert stale({"text": 1.7, "send": 5.9}, kept) == ["text", "gone"]
    assert stale({"text": 1.75, "send": 5.3, "gone": 1.0}, kept) == []


def test_every_lane_has_a_kept_figure():
    """What is kept belongs to the lanes that there are."""
    assert json.loads(KEPT.read_text(encoding="utf-8")).keys() == LANES.keys()
