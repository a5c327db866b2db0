"""What the judge said, kept beside the code, and the reason of everything that is not identical."""

import json
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, NamedTuple

HERE: Final = Path(__file__).resolve().parent
VERDICTS: Final = HERE / "verdicts.json"
KNOWN: Final = HERE / "known.toml"
LEVELS: Final = ("memory", "postgres")
IDENTICAL: Final = "identical"


class Verdict(NamedTuple):
    """The judge's word on one scenario of one wire version. Nothing in it depends on the time or on chance."""

    scenario: str
    vsn: str
    """`1.0.0`, `2.0.0`, or both for the one scenario that has clients of both."""
    result: str
    frames: int
    differences: tuple[str, ...]


class Known(NamedTuple):
    """Why scenarios are not identical."""

    scenarios: tuple[str, ...]
    result: str
    reason: str

    def explains(self, verdict: Verdict) -> bool:
        """Whether this is the reason of that verdict."""
        return verdict.result == self.result and any(fnmatchcase(verdict.scenario, one) for one in self.scenarios)


def verdict_of(result: dict[str, Any]) -> Verdict:
    """A verdict from the judge's results."""
    scenario, _, version = result["scenario"].partition(" v")
    vsn = f"{version}.0.0" if version else "1.0.0 and 2.0.0"
    return Verdict(scenario, vsn, result["result"], result["frames"], tuple(result["differences"]))


def load(level: str) -> list[Verdict]:
    """The verdicts that are kept."""
    kept: list[dict[str, Any]] = json.loads(VERDICTS.read_text(encoding="utf-8"))[level]
    return [Verdict(**one)._replace(differences=tuple(one["differences"])) for one in kept]


def save(level: str, verdicts: Iterable[Verdict]) -> None:
    """Keep these."""
    kept = json.loads(VERDICTS.read_text(encoding="utf-8")) if VERDICTS.exists() else {}
    kept[level] = [one._asdict() for one in verdicts]
    VERDICTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def known(level: str) -> list[Known]:
    """The reasons that are given."""
    rows = tomllib.loads(KNOWN.read_text(encoding="utf-8"))[level]
    return [Known(tuple(row["scenarios"]), row["result"], row["reason"]) for row in rows]


def unexplained(verdicts: Iterable[Verdict], reasons: Iterable[Known]) -> list[Verdict]:
    """What is not identical and has no reason."""
    every = list(reasons)
    return [one for one in verdicts if one.result != IDENTICAL and not any(reason.explains(one) for reason in every)]


def unneeded(verdicts: Iterable[Verdict], reasons: Iterable[Known]) -> list[str]:
    """Patterns of the reasons that explain nothing."""
    every = list(verdicts)
    return [
        pattern
        for reason in reasons
        for pattern in reason.scenarios
        if not any(reason._replace(scenarios=(pattern,)).explains(one) for one in every)
    ]


def changed(kept: Iterable[Verdict], now: Iterable[Verdict]) -> list[str]:
    """What is said otherwise now, a line for each."""
    before, after = ({(one.scenario, one.vsn): one for one in some} for some in (kept, now))
    return [
        f"{name} {vsn}: was {_shown(before.get((name, vsn)))}, is {_shown(after.get((name, vsn)))}"
        for name, vsn in sorted({*before, *after})
        if before.get((name, vsn)) != after.get((name, vsn))
    ]


def _shown(verdict: Verdict | None) -> str:
    if verdict is None:
        return "not there"
    return "\n    ".join((f"{verdict.result}, {verdict.frames} frames", *verdict.differences))
