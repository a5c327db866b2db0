"""The judgement of one step, before it gets its name and title."""

from msgspec import Struct

from supawire.doctor.facts import Timed
from supawire.doctor.report import Finding, Outcome


class Verdict(Struct, frozen=True):
    """Outcome, detail, duration and findings of a step."""

    outcome: Outcome
    detail: str
    seconds: float = 0.0
    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, *findings: Finding, timed: Timed | None = None, seconds: float = 0.0) -> "Verdict":
        """Return the verdict for these findings, of which there is at least one; the worst decides."""
        worst = Outcome.FAIL if any(one.outcome is Outcome.FAIL for one in findings) else Outcome.WARN
        names = ", ".join(one.name for one in findings)
        return cls(worst, names, seconds if timed is None else timed.seconds, findings)


def ok(detail: str, timed: Timed | None = None, seconds: float = 0.0) -> Verdict:
    """Return the verdict of a step that passed."""
    return Verdict(Outcome.PASS, detail, seconds if timed is None else timed.seconds)


def skip(reason: str) -> Verdict:
    """Return the verdict of a step that was not tried."""
    return Verdict(Outcome.SKIPPED, reason)
