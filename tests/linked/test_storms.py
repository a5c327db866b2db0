"""Many clients whose server restarts, simulated by the program that draws the curves of docs/scale.md."""

import pytest

from benchmarks.storms import (
    BACKOFFS,
    CAPACITY,
    CLIENTS,
    PLANS,
    ROOM,
    Setting,
    after,
    budget,
    fetches,
    kept,
    refresh,
    restart,
)
from supawire.options import Backoff, Limits, SessionOptions

FEW = 60


def storm(backoff: Backoff, seconds: int = 90) -> dict[str, list[int]]:
    """Restart the server of a few clients; its capacity is as small in proportion."""
    setting = Setting(FEW, SessionOptions(backoff=backoff), capacity=CAPACITY * FEW / CLIENTS)
    return restart(setting, seconds)


def test_a_wider_random_wait_saves_attempts_of_clients_that_were_disconnected_together() -> None:
    """All clients are joined again in each case, and a wider first wait needs fewer attempts."""
    found = {name: storm(backoff) for name, backoff in BACKOFFS.items()}
    assert all(one["joined"][-1] == 1.0 for one in found.values())
    exact, default, wide = (sum(one["connects"]) for one in found.values())
    assert exact >= default > wide >= FEW


def test_clients_without_a_random_wait_arrive_in_the_same_second() -> None:
    """Without jitter all clients connect in one second; the default spreads them over two."""
    exact, default = (restart(Setting(FEW, SessionOptions(backoff=one)), 5) for one in (Backoff(jitter=0), Backoff()))
    assert max(exact["connects"]) == FEW
    assert min(default["connects"][:2]) > 0
    assert exact["joined"][-1] == default["joined"][-1] == 1.0


def test_many_channels_are_joined_again_within_the_limit_of_each_client() -> None:
    """A client sends no more joins in a second after a restart than its limit, and all channels are joined again."""
    found = restart(Setting(2, SessionOptions(limits=Limits(joins_per_second=5)), channels=20), 15)
    assert max(found["joins"]) <= 2 * 2 * 5, "two clients, and a second of the count may lie across two windows"
    assert found["joined"][-1] == 1.0
    assert found["all"] is not None and found["all"] >= 3


def test_tokens_that_were_issued_together_are_refreshed_over_several_minutes() -> None:
    """The calls of the token providers are spread over a tenth of the lifetime instead of one minute."""
    together, spread = refresh(FEW * 10, spread=False), refresh(FEW * 10, spread=True)
    assert max(together) == sum(together) == sum(spread) == FEW * 10
    assert [minute for minute, calls in enumerate(spread) if calls] == list(range(45, 51))
    assert max(spread) < 2 * FEW * 10 / 6


def test_a_restart_asks_for_one_token_per_client() -> None:
    """After a restart each client calls its token provider once, within the spread of the reconnects."""
    assert sum(fetches(FEW, 10)) == FEW


@pytest.mark.slow
@pytest.mark.parametrize(("times", "kept_open"), [(0.5, True), (5, False)])
def test_a_share_of_the_budget_keeps_channels_open(times: float, kept_open: bool) -> None:
    """Below the share of the message budget no channel is closed; far above it channels are."""
    limits, most = PLANS["free"]
    assert limits.messages is not None
    share = limits.messages / (most * ROOM)
    assert (budget("free", share * times)["least"] == 1.0) is kept_open


def test_the_recorded_curves_support_what_the_page_says() -> None:
    """In the recorded run of 10,000 clients, spreading the first wait over 20 s needs the fewest attempts."""
    results = kept()["restart"]
    attempts = [sum(results[name]["connects"]) for name in BACKOFFS]
    assert attempts == sorted(attempts, reverse=True)
    assert attempts[-1] >= CLIENTS


def test_the_time_until_all_are_joined_is_that_after_which_they_stay_joined() -> None:
    """A share that is reached and lost again does not count, and one that is never reached is None."""
    assert after([0.0, 0.5, 1.0], 0.5) == 2
    assert after([0.6, 0.2, 0.6], 0.5) == 3
    assert after([0.0, 0.4], 0.5) is None
