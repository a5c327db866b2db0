"""Play schedules: one, or many on all cores."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from supawire.testing.linked import World

from . import checks
from .acts import ACTS
from .database import DatabaseWorld
from .stage import InvariantError, Stage

STEPS = 60

PLAIN: Final = "plain"
DATABASE: Final = "database"
WORLDS: Final[Mapping[str, type[World]]] = {PLAIN: World, DATABASE: DatabaseWorld}
"""A server that answers all queries itself, and one that queries a database."""

_CHOICES, _WEIGHTS = list(ACTS), list(ACTS.values())


@dataclass(frozen=True, slots=True)
class Failure:
    """A schedule that broke an invariant."""

    seed: int
    steps: int
    message: str
    trace: tuple[str, ...]
    world: str = PLAIN

    @property
    def command(self) -> str:
        """Return the command that plays the schedule again and shrinks it."""
        world = "" if self.world == PLAIN else f" --world {self.world}"
        return f"python -m tests.linked.simulation{world} --seed {self.seed}"

    def __str__(self) -> str:
        lines = "\n".join(f"  {line}" for line in self.trace)
        return f"{self.command}\nseed {self.seed}, {self.steps} steps: {self.message}\n{lines}"


def play(seed: int, steps: int = STEPS, skip: frozenset[int] = frozenset(), world: str = PLAIN) -> Failure | None:
    """Play one schedule; return None when everything holds. `skip`: steps to leave out, to find those that matter."""
    stage = Stage(seed, WORLDS[world])
    stage.acts = {act.__name__: act for act in ACTS}
    chooser = random.Random(seed * 7 + 3)
    trace = stage.history.trace
    try:
        for step in range(steps):
            act = chooser.choices(_CHOICES, _WEIGHTS)[0]
            stage.rng.seed(seed * 1000 + step)
            if step in skip:
                continue
            trace.append(f"{step:3} {stage.now.mono:9.3f} {act(stage)}")
            checks.always(stage)
        trace.append(f"    {stage.now.mono:9.3f} heal")
        checks.healed(stage)
        checks.closed(stage)
        checks.sends(stage)
        checks.deliveries(stage)
    except InvariantError as broken:
        return Failure(seed, steps, str(broken), tuple(trace), world)
    except Exception as error:  # noqa: BLE001  any exception out of the core is a finding, with its schedule
        return Failure(seed, steps, f"{type(error).__name__}: {error}", tuple(trace), world)
    return None


def shrink(failure: Failure) -> Failure:
    """Leave out steps that are not needed for the failure."""
    kind = failure.message[:2]
    skip: frozenset[int] = frozenset()
    best = failure
    size = STEPS // 4
    while size:
        for begin in range(0, STEPS, size):
            tried = skip | frozenset(range(begin, begin + size))
            again = play(failure.seed, failure.steps, tried, failure.world)
            if again is not None and again.message[:2] == kind:
                skip, best = tried, again
        size //= 2
    return best


def play_many(seeds: Iterable[int], world: str = PLAIN) -> list[Failure]:
    """Play schedules one after another and return those that failed."""
    return [failure for seed in seeds if (failure := play(seed, world=world)) is not None]
