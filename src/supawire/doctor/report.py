"""The report of `diagnose`: steps, each with its outcome and its findings."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any, Final

from supawire._display import printable

MAX_LINE: Final = 4_000
"""Maximum characters of a line of the report as text."""


class Outcome(StrEnum):
    """The outcome of a step, or the weight of a finding (`warn` or `fail`)."""

    PASS = "pass"  # noqa: S105  an outcome
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong (`fail`) or probably wrong (`warn`).

    `name`: its name in the tables of the documentation, such as `table-unpublished`. `problem`: one line that says what
    is wrong. `remedy`: one line that says what to do. `sql`: statements to run for it, None when there are none.
    `docs`: the address of the section of the documentation about it.
    """

    name: str
    outcome: Outcome
    problem: str
    remedy: str
    sql: str | None = None
    docs: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as values for JSON."""
        return {
            "name": self.name,
            "outcome": self.outcome.value,
            "problem": self.problem,
            "remedy": self.remedy,
            "sql": self.sql,
            "docs": self.docs,
        }


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a diagnosis.

    `name`: such as `publication`. `detail`: one line about what was seen, or why the step was skipped. `seconds`: how
    long it took. `findings`: what is wrong, most important first; none for a step that passed or was skipped.
    """

    name: str
    title: str
    outcome: Outcome
    detail: str
    seconds: float
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the step as values for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "outcome": self.outcome.value,
            "detail": self.detail,
            "seconds": round(self.seconds, 4),
            "findings": [finding.to_dict() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The result of `diagnose`; `str()` is the report as text. It contains no key, no token and no password.

    `address`: host and port of the server. `steps`: all steps in order. `seconds`: the duration of the diagnosis.
    """

    address: str
    steps: tuple[Step, ...]
    seconds: float

    @property
    def healthy(self) -> bool:
        """Whether no step failed. Warnings do not count."""
        return all(step.outcome is not Outcome.FAIL for step in self.steps)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings in the order of the steps."""
        return tuple(finding for step in self.steps for finding in step.findings)

    @property
    def summary(self) -> str:
        """One line about the result."""
        counts = [(outcome, sum(one.outcome is outcome for one in self.findings)) for outcome in _WORDS]
        texts = [f"{count} {_WORDS[outcome]}{'' if count == 1 else 's'}" for outcome, count in counts if count]
        return f"{' and '.join(texts) or 'nothing wrong found'} in {self.seconds:.1f} s"

    def step(self, name: str) -> Step:
        """Return the step with this name. Raises: KeyError."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values for JSON."""
        return {
            "address": self.address,
            "healthy": self.healthy,
            "summary": self.summary,
            "seconds": round(self.seconds, 4),
            "steps": [step.to_dict() for step in self.steps],
        }

    def __str__(self) -> str:
        return "\n".join(line for _, line in self.lines())

    def lines(self) -> Iterator[tuple[Outcome | None, str]]:
        """Yield the lines of the report as text, each with the outcome by which it may be coloured.

        Control characters, as in names of the database, are escaped.
        """
        for outcome, line in self._lines():
            yield outcome, printable(line, MAX_LINE)

    def _lines(self) -> Iterator[tuple[Outcome | None, str]]:
        for outcome, title, step in self._shown():
            time = "" if step.outcome is Outcome.SKIPPED else f"  ({step.seconds:.2f} s)"
            yield outcome, f"{outcome.value:<8}{title:<22} {step.detail}{time}"
            for finding in step.findings:
                yield finding.outcome, f"        {finding.problem}"
                yield None, f"        -> {finding.remedy}"
                for line in (finding.sql or "").splitlines():
                    yield None, f"           {line}"
                if finding.docs is not None:
                    yield None, f"           See {finding.docs}"
        yield None, ""
        yield None, self.summary

    def _shown(self) -> Iterator[tuple[Outcome, str, Step]]:
        """Yield the steps with their titles; neighbours that were skipped for the same reason share a line."""
        for _, group in groupby(self.steps, lambda step: step.detail if step.outcome is Outcome.SKIPPED else step):
            first, *others = group
            title = f"{first.title} to {others[-1].title}" if others else first.title
            yield first.outcome, title, first


_WORDS = {Outcome.FAIL: "problem", Outcome.WARN: "warning"}
