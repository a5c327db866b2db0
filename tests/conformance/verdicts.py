"""The recorded verdicts of the judge, and the reasons for scenarios that are not identical."""

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
    """The judge's result for a scenario in one wire version. It is the same in every run."""

    scenario: str
    vsn: str
    """`1.0.0`, `2.0.0`, or both for the one scenario that has clients of both."""
    result: str
    frames: int
    differences: tuple[str, ...]


class Known(NamedTuple):
    """The reason why some scenarios are not identical."""

    scenarios: tuple[str, ...]
    result: str
    reason: str

    def explains(self, verdict: Verdict) -> bool:
        """Return whether this reason applies to a verdict."""
        return verdict.result == self.result and any(fnmatchcase(verdict.scenario, one) for one in self.scenarios)


def verdict_of(result: dict[str, Any]) -> Verdict:
    """Create a verdict from a result of the judge."""
    scenario, _, version = result["scenario"].partition(" v")
    vsn = f"{version}.0.0" if version else "1.0.0 and 2.0.0"
    return Verdict(scenario, vsn, result["result"], result["frames"], tuple(result["differences"]))


def load(level: str) -> list[Verdict]:
    """Return the recorded verdicts."""
    recorded: list[dict[str, Any]] = json.loads(VERDICTS.read_text(encoding="utf-8"))[level]
    return [Verdict(**one)._replace(differences=tuple(one["differences"])) for one in recorded]


def save(level: str, verdicts: Iterable[Verdict]) -> None:
    """Record these verdicts."""
    recorded = json.loads(VERDICTS.read_text(encoding="utf-8")) if VERDICTS.exists() else {}
    recorded[level] = [one._asdict() for one in verdicts]
    VERDICTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def known(level: str) -> list[Known]:
    """Return the reasons in known.toml."""
    rows = tomllib.loads(KNOWN.read_text(encoding="utf-8"))[level]
    return [Known(tuple(row["scenarios"]), row["result"], row["reason"]) for row in rows]


def unexplained(verdicts: Iterable[Verdict], reasons: Iterable[Known]) -> list[Verdict]:
    """Return the verdicts that are not identical and have no reason."""
    every = list(reasons)
    return [one for one in verdicts if one.result != IDENTICAL and not any(reason.explains(one) for reason in every)]


def unneeded(verdicts: Iterable[Verdict], reasons: Iterable[Known]) -> list[str]:
    """Return the patterns of reasons that apply to no verdict."""
    every = list(verdicts)
    return [
        pattern
        for reason in reasons
        for pattern in reason.scenarios
        if not any(reason._replace(scenarios=(pattern,)).explains(one) for one in every)
    ]


def changed(recorded: Iterable[Verdict], now: Iterable[Verdict]) -> list[str]:
    """Return a line for each verdict that differs from the recorded one."""
    before, after = ({(one.scenario, one.vsn): one for one in some} for some in (recorded, now))
    return [
        f"{name} {vsn}: was {_shown(before.get((name, vsn)))}, is {_shown(after.get((name, vsn)))}"
        for name, vsn in sorted({*before, *after})
        if before.get((name, vsn)) != after.get((name, vsn))
    ]


def _shown(verdict: Verdict | None) -> str:
    if verdict is None:
        return "missing"
    return "\n    ".join((f"{verdict.result}, {verdict.frames} frames", *verdict.differences))
