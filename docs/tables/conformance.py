"""Tables that compare the local server with recordings of the real one, from the verdicts in tests/conformance."""

import re
from collections import Counter
from collections.abc import Iterator

from docs.tables import rows, table
from tests.conformance.verdicts import IDENTICAL, LEVELS, Verdict, known, load

_NAMES = {"memory": "without a database", "postgres": "with PostgreSQL"}
_VERSIONS = ("1.0.0", "2.0.0")
_PATH = re.compile(r"^.* #\d+[^ :]*\.")
"""The position in a frame of a difference, without the member's name; it is the same in both versions."""


@table("conformance-sum")
def total() -> str:
    """Return the counts, one sentence per backend."""
    return "\n".join(f"* {_heading(level)}: {_sum(level)}" for level in LEVELS)


def _heading(level: str) -> str:
    return _NAMES[level][0].upper() + _NAMES[level][1:]


def _sum(level: str) -> str:
    counts = Counter(verdict.result for verdict in load(level))
    frames = sum(verdict.frames for verdict in load(level) if verdict.result == IDENTICAL)
    parts = [f"{counts[IDENTICAL]} are identical ({frames} frames from the server compared)"]
    parts += [
        f"{count} {'differ' if result == 'differs' else 'are ' + result}"
        for result, count in sorted(counts.items())
        if result != IDENTICAL
    ]
    return f"of {counts.total()} recorded scenarios {', '.join(parts)}."


@table("conformance")
def scenarios() -> str:
    """Return the table of all scenarios with the verdict for each protocol version."""
    columns = [(level, vsn) for level in LEVELS for vsn in _VERSIONS]
    found: dict[str, dict[tuple[str, str], str]] = {}
    for level, vsn in columns:
        for verdict in load(level):
            if vsn in verdict.vsn:
                found.setdefault(verdict.scenario, {})[level, vsn] = _verdict(verdict)
    return rows(
        ["scenario", *(f"{_NAMES[level]}, {vsn}" for level, vsn in columns)],
        [[f"`{name}`", *(verdicts.get(column, "–") for column in columns)] for name, verdicts in sorted(found.items())],
    )


def _verdict(verdict: Verdict) -> str:
    return f"{verdict.result}, {verdict.frames} frames" if verdict.frames else verdict.result


@table("conformance-differences")
def differences() -> str:
    """Return the scenarios that are not identical, with reasons and each difference."""
    return "\n".join(line for level in LEVELS for line in (f"### {_heading(level)}", "", *_reasons(level)))


def _reasons(level: str) -> Iterator[str]:
    verdicts = load(level)
    for reason in known(level):
        explained = [verdict for verdict in verdicts if reason.explains(verdict)]
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(verdict.scenario for verdict in explained))
        yield f"**{reason.result}**: {names}. {reason.reason}\n"
        found: dict[tuple[str, str], list[str]] = {}
        for verdict in explained:
            for line in verdict.differences:
                found.setdefault((verdict.scenario, _PATH.sub("", line)), []).append(verdict.vsn)
        yield from (f"* {name}, {' and '.join(versions)}: ``{line}``" for (name, line), versions in found.items())
        yield ""
