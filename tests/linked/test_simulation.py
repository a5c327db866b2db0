"""Random schedules over a client and the hub keep the invariants of the simulation (see `simulation`)."""

import random

import pytest

from tests.conftest import FRESH

from .simulation.play import DATABASE, PLAIN, play, play_many

FOUND = (
    3240,  # a deadline in socket time was before the present time because of rounding, and the session never slept
    177,  # a channel that waited for a requested rejoin was joined after it had ended
    197,  # a gap was forgotten when the user left before events flowed again
    2739,  # changes between the call of listen() and its rejoin, held up by the token provider, were in no gap
    5330,  # a gap opened late hid an earlier loss
    11387,  # events that a suspended socket delayed for five seconds were in no gap
    13494,  # after an unanswered presence request the client assumed that it was not present
    14855,  # the same behind a join that had timed out
    19426,  # a rejoin overtook a presence request, and a stale presence entry of the client stayed
    307083,  # a gap was reported as complete while the replayed messages waited behind another channel's join
    712189,  # a presence change waited for a rejoin that was not needed any more
    20421,  # a token received after close() set a deadline
    361842971,  # a presence diff of an earlier join arrived after the reply to the next one and left a stale entry
    559089178,  # the checks mistook a half-open connection, on which everything seemed ready, for a working one
    135052169,  # the checks expected 1.0.0 to name the join of "Subscribed"; the reply to the newer join was dropped
    135052503,  # the same where the older join was unanswered, and the server handled both at once
)
"""Seeds that once broke an invariant, with what they found."""

FOUND_WITH_DATABASE = (
    70003645,  # the checks expected changes before the first `Subscribed to PostgreSQL`, which are not promised
    70006147,  # the same after a reconnect
    70012456,  # the same with a short timeout
    70016213,  # the same after a broken connection
    59589984,  # presence was checked while a client whose clock was behind joined again with a fresh token
    70013376,  # the checks mistook the join of a subscription that was left at the same instant for the new one
)
"""Seeds of the world whose server waits for its database."""

STORED = [*((PLAIN, seed) for seed in FOUND), *((DATABASE, seed) for seed in FOUND_WITH_DATABASE)]
CHUNK = 50
START = 590_000_000
"""The first seed. With SUPAWIRE_TEST_FRESH=1 each run takes others."""
PARTS = [*((PLAIN, part) for part in range(20)), *((DATABASE, part) for part in range(4))]
"""1,000 schedules, and 200 where rights, replays and subscriptions are answered up to half a second later."""


@pytest.mark.parametrize(("world", "seed"), STORED)
def test_a_schedule_that_once_failed_holds(world: str, seed: int) -> None:
    """A stored schedule keeps every invariant."""
    failure = play(seed, world=world)
    assert failure is None, str(failure)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "part"), PARTS)
def test_schedules_hold(world: str, part: int) -> None:
    """Schedules keep every invariant; a failure names the command that replays it."""
    start = (random.SystemRandom().randrange(10**9) if FRESH else START) + part * CHUNK
    failures = play_many(range(start, start + CHUNK), world)
    assert not failures, str(failures[0])
