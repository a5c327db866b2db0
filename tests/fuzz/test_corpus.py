"""The corpus of each fuzzer and a few new inputs cause no error."""

from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest

from tests.fuzz.engine import Finding, Target, TimeLimitExceeded, after_inputs, bounded, corpus, fuzz, run_once, shrunk
from tests.fuzz.targets import TARGETS


def shown(finding: Finding | None) -> str:
    return "" if finding is None else f"{finding.text}\n{finding.data!r}"


@pytest.mark.parametrize("make", TARGETS.values(), ids=TARGETS)
def test_the_corpus_causes_no_error(make: Callable[[], Target]):
    """Recorded inputs, and the first new ones of a seed, raise only documented errors within the time limit."""
    target = make()
    assert corpus(target), "it has a corpus"
    count, finding = fuzz(target, Random(1), after_inputs(40))
    assert shown(finding) == ""
    assert count == len(corpus(target)) + 40


class RaisesForOneByte:
    """A target that raises for one byte."""

    name = "codec"
    words: tuple[bytes, ...] = (b"x",)

    def run(self, data: bytes) -> None:
        if b"!" in data:
            raise KeyError(data)

    def make(self, random: Random) -> bytes:
        return random.randbytes(200)


class Recording:
    """A target that records its inputs."""

    def __init__(self, target: Target) -> None:
        self.name, self.words, self.make = target.name, target.words, target.make
        self.inputs: list[bytes] = []

    def run(self, data: bytes) -> None:
        self.inputs.append(data)


@pytest.mark.parametrize("make", TARGETS.values(), ids=TARGETS)
def test_the_same_seed_gives_the_same_inputs(make: Callable[[], Target]):
    """A seed gives the same inputs each time, so CI fails only when the code has changed."""
    first, second, other = (Recording(make()) for _ in range(3))
    for target, seed in ((first, 7), (second, 7), (other, 8)):
        fuzz(target, Random(seed), after_inputs(200))
    assert first.inputs == second.inputs != other.inputs
    assert len(first.inputs) == len(corpus(first)) + 200


def test_the_same_seed_gives_the_same_finding():
    """A finding can be repeated by its seed and by its input, and its input is reduced."""
    findings = [fuzz(RaisesForOneByte(), Random(5), until=lambda: False) for _ in range(2)]
    assert findings[0] == findings[1]
    finding = findings[0][1]
    assert finding is not None and finding.kind == "KeyError run"
    assert shrunk(RaisesForOneByte(), finding, seconds=5).data == b"!"
    assert run_once(RaisesForOneByte(), b"!") is not None and run_once(RaisesForOneByte(), b"?") is None


def test_code_that_exceeds_the_time_limit_is_stopped():
    """The time limit also applies to code that catches exceptions."""
    with pytest.raises(TimeLimitExceeded), bounded(0.05):
        never_end()


def never_end() -> None:
    while True:
        with suppress(Exception):
            sum(range(1000))
