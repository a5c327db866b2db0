"""Tables of what `supawire doctor` examines and can find, from the tables in its code."""

import re

from docs.tables import rows, table
from supawire.doctor.problems import CHECKS, PROBLEMS
from supawire.doctor.report import Outcome

_PLACE = re.compile(r"\{(\w+)(?::[^}]*)?\}")
_NAMES = {"quoted": "role", "literal": "topic", "name": "day", "hint": "how the URL should look"}
"""What some places in texts stand for, where their names do not say it."""


@table("doctor-steps")
def steps() -> str:
    """Return the table of the steps."""
    lines = [(f"`{check.name}`", check.title, check.examines) for check in CHECKS]
    return rows(["step", "shown as", "examines"], lines)


@table("doctor-problems")
def problems() -> str:
    """Return the table of what is found, by step."""
    lines = [
        (
            f"`{problem.name}`",
            "warning" if problem.outcome is Outcome.WARN else "",
            _text(problem.says),
            _text(problem.remedy) + (f" `{_text(problem.sql)}`" if problem.sql else ""),
        )
        for problem in PROBLEMS
    ]
    return rows(["name", "", "what is wrong", "what to do"], lines)


def _text(text: str) -> str:
    """Return a text with its places as words: `{table}` becomes TABLE."""
    return _PLACE.sub(lambda place: _NAMES.get(place[1], place[1]).upper(), text)
