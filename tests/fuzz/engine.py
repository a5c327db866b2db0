"""Runs a target on inputs from its corpus, changed at random or joined, and on values that are known to cause errors.

Everything comes from one random generator, so that a seed gives the same inputs again. A finding is an exception that
the target does not allow, or an input on which it works for longer than `MOST_SECONDS` of processor time; time that
other programs take does not count.
"""

import json
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Final, Protocol

CORPUS: Final = Path(__file__).resolve().parent / "corpus"
MOST_BYTES: Final = 64_000
MOST_SECONDS: Final = 3.0
"""Limit of CPU time per input in seconds; linear code needs some hundredths."""


class Target(Protocol):
    """A target. name: its folder in the corpus. words: parts of its inputs."""

    name: str
    words: tuple[bytes, ...]

    def run(self, data: bytes) -> None:
        """Process an input. Any exception is a finding."""
        ...

    def make(self, random: Random) -> bytes:
        """Create an input of the right form."""
        ...


class TimeLimitExceeded(BaseException):
    """The time limit is exceeded. Not an Exception, so that no handler catches it."""


@dataclass(frozen=True)
class Finding:
    """An input and its error. kind: what must stay the same while the input is reduced."""

    data: bytes
    kind: str
    text: str


def corpus(target: Target) -> list[bytes]:
    """Return the recorded inputs of a target, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / target.name).iterdir())]


@contextmanager
def bounded(seconds: float) -> Any:
    """Limit the CPU time of a block. Raises: TimeLimitExceeded: it took longer."""

    def over(number: int, frame: FrameType | None) -> None:
        raise TimeLimitExceeded(f"it took more than {seconds} s of processor time")

    began = time.process_time()
    has_signals = hasattr(signal, "SIGVTALRM") and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGVTALRM, over) if has_signals else None
    if before is not None:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        if before is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
    if time.process_time() - began > seconds:  # C code does not check for signals
        raise TimeLimitExceeded(f"it took {time.process_time() - began:.1f} s of processor time")


def run_once(target: Target, data: bytes) -> Finding | None:
    """Run one input; returns the finding, if any."""
    try:
        with bounded(MOST_SECONDS):
            target.run(data)
    except (Exception, TimeLimitExceeded) as error:  # noqa: BLE001  any exception is a finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        kind = type(error).__name__ if isinstance(error, TimeLimitExceeded) else f"{type(error).__name__} {last.name}"
        return Finding(data, kind, "".join(traceback.format_exception(error)))
    return None


def fuzz(target: Target, random: Random, until: Callable[[], bool]) -> tuple[int, Finding | None]:
    """Run inputs until `until` returns true or an error is found; returns their number and the finding."""
    kept = corpus(target)
    count = 0
    for data in kept:
        count += 1
        if (finding := run_once(target, data)) is not None:
            return count, finding
    while not until():
        data = target.make(random) if random.random() < 0.4 else random.choice(kept)
        if random.random() < 0.8:
            data = changed(data, random, kept, target.words)
        count += 1
        if (finding := run_once(target, data)) is not None:
            return count, finding
    return count, None


def after_seconds(seconds: float) -> Callable[[], bool]:
    """Return a function that is true after this many seconds."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def after_inputs(count: int) -> Callable[[], bool]:
    """Return a function that is true after this many calls."""
    left = iter(range(count))
    return lambda: next(left, None) is None


def shrunk(target: Target, finding: Finding, seconds: float) -> Finding:
    """Return the finding with a smaller input, reduced as far as possible in the given time."""
    until = time.monotonic() + seconds
    size = max(1, len(finding.data) // 2)
    while size and time.monotonic() < until:
        at = 0
        while at < len(finding.data) and time.monotonic() < until:
            smaller = run_once(target, finding.data[:at] + finding.data[at + size :])
            if smaller is not None and smaller.kind == finding.kind:
                finding = smaller
            else:
                at += size
        size //= 2
    return finding


# --- inputs


def changed(data: bytes, random: Random, kept: list[bytes], words: tuple[bytes, ...]) -> bytes:
    """Return the input with one to six changes."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        data = random.choice(_CHANGES)(data, random, kept, words)[:MOST_BYTES]
    return data


def _part(data: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.choice((0, 1, 2, 4, 8, 32, 128)))


def _replace(data: bytes, random: Random, kept: list[bytes], words: tuple[bytes, ...]) -> bytes:
    start, end = _part(data, random)
    return data[:start] + random.randbytes(random.choice((0, 1, 2, 4))) + data[end:]


def _insert_word(data: bytes, random: Random, kept: list[bytes], words: tuple[bytes, ...]) -> bytes:
    start, end = _part(data, random)
    return data[:start] + random.choice(words + HURTING) + data[random.choice((start, end)) :]


def _repeat(data: bytes, random: Random, kept: list[bytes], words: tuple[bytes, ...]) -> bytes:
    start, end = _part(data, random)
    return data[:end] + data[start:end] * random.choice((1, 2, 11, 100, 2000, 20_000)) + data[end:]


def _join(data: bytes, random: Random, kept: list[bytes], words: tuple[bytes, ...]) -> bytes:
    other = random.choice(kept)
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _cut(data: bytes, random: Random, kept: list[bytes], words: tuple[bytes, ...]) -> bytes:
    return data[: random.randrange(len(data) + 1)]


_CHANGES: Final = (_replace, _replace, _insert_word, _insert_word, _repeat, _join, _cut)

HURTING: Final = (
    b"1e9999999999999999999",
    b"-0",
    b"1e400",
    b"9" * 5000,
    b"NaN",
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"\\ud800",
    b"\xff",
    b"\x00",
    b"\xe2\x80\xa8",
    b"[" * 2000,
    b"]" * 2000,
    b'{"a":' * 2000,
    b'"',
    b"\\",
    b"%" * 11,
    b"{" * 50,
    b"(" * 50,
    b"eyJhbGciOiJIUzI1NiJ9.e30.x",
    b"a" * 3000,
)
"""Values that are known to break JSON decoders, numbers, patterns and parsers of nested text."""


def any_json(random: Random, depth: int = 3) -> Any:
    """Return a random JSON value, usually an unusual one."""
    kind = random.randrange(9 if depth else 7)
    match kind:
        case 0:
            return random.choice((None, True, False))
        case 1:
            return random.choice((0, 1, -1, 2**31, 2**63, -(2**64), 10**30, 100))
        case 2:
            return random.choice((0.5, -1e308, 1e-320, 1.5e10))
        case 3 | 4:
            return random.choice(TEXTS)
        case 5 | 6:
            return "".join(random.choices('a1 .,:-+{}()[]"\\%_é\U0001f600\x00', k=random.randrange(12)))
        case 7:
            return [any_json(random, depth - 1) for _ in range(random.randrange(4))]
        case _:
            return {random.choice(TEXTS): any_json(random, depth - 1) for _ in range(random.randrange(4))}


TEXTS: Final = (
    "",
    "a",
    "*",
    "room",
    "realtime:room",
    "2026-01-02T03:04:05+00:00",
    "infinity",
    "{1,2,NULL}",
    '{"a,b",{}}',
    "t",
    "\\x00ff",
    "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11",
    "1.10",
    "NaN",
    "24:00:00",
    "10:00:00+05:30",
    "id",
    "public",
    "users",
)


def dumped(value: Any) -> bytes:
    """Return a random JSON value as text."""
    return json.dumps(value).encode()
