"""Random schedules over client and hub: the invariants of the simulation hold (see `simulation`)."""

import random

import pytest

from .simulation.asking import AskingWorld
from .simulation.play import Failure, play

FOUND = (
    3240,  # a deadline on socket time stood before the clock by rounding: the session span
    177,  # a channel that waited for a deliberate rejoin was asked to join after it had ended
    197,  # a gap was forgotten when the user left before events flowed again
    2739,  # changes between the call of listen() and its rejoin, held up by the token provider, were in no gap
    5330,  # a gap opened late hid an earlier loss
    11387,  # what a blocked socket hid for five seconds was in no gap
    13494,  # an unanswered presence request: the client believed that it was not present
    14855,  # the same behind a join that had timed out
    19426,  # a rejoin overtook a presence request, and the channel met its own ghost
    307083,  # a gap was called complete while the replayed messages waited behind another channel's join
    712189,  # a presence wish was left to a rejoin that was not needed any more
    20421,  # a token that came after close() armed a deadline
    361842971,  # a presence diff of a join that was left came behind the answer to the next one: a ghost of ourselves
    559089178,  # the judge took a deaf socket, on which everything seemed ready, for a healed one
)
"""Seeds that once broke an invariant, with what they found."""

FRESH = 1000
CHUNK = 50


@pytest.mark.parametrize("seed", FOUND)
def test_a_schedule_that_once_failed_holds(seed: int) -> None:
    """A stored schedule keeps every invariant of the simulation (R12, R22, R31, R44, R45)."""
    failure = play(seed)
    assert failure is None, str(failure)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(FRESH // CHUNK))
def test_fresh_schedules_hold(part: int) -> None:
    """Schedules that nobody has seen before keep every invariant; a failure names the seed that replays it (R31)."""
    start = random.SystemRandom().randrange(10**9) + part
    failures: list[Failure] = [failure for seed in range(start, start + CHUNK) if (failure := play(seed)) is not None]
    assert not failures, f"python -m tests.linked.simulation --seed {failures[0].seed}\n{failures[0]}"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_fresh_schedules_hold_with_a_server_that_waits_for_its_database(part: int) -> None:
    """Every invariant holds where rights, replays and subscriptions are answered up to half a second later (R31)."""
    start = random.SystemRandom().randrange(10**9) + part
    seeds = range(start, start + CHUNK)
    failures = [failure for seed in seeds if (failure := play(seed, make=AskingWorld)) is not None]
    assert not failures, str(failures[0])
