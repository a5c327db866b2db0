"""How the local server compares with recordings of the real one, from the verdicts that are kept in tests/conformance."""

import re
from collections import Counter
from collections.abc import Iterator

from docs.tables import rows, table
from tests.conformance.verdicts import IDENTICAL, LEVELS, Verdict, known, load

_NAMES = {"memory": "memory level", "postgres": "PostgreSQL level"}
_VERSIONS = ("1.0.0", "2.0.0")
_PATH = re.compile(r"^.* #\d+[^ :]*\.")
"""Where in a frame something differs; the member's name stays, and it is the same in both versions."""


@table("conformance-sum")
def total() -> str:
    """The counts, a sentence for each level."""
    return "\n".join(f"* {_NAMES[level]}: {_sum(level)}" for level in LEVELS)


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
    """Every scenario, and what the judge says of it in each wire version."""
    columns = [(level, vsn) for level in LEVELS for vsn in _VERSIONS]
    found: dict[str, dict[tuple[str, str], str]] = {}
    for level, vsn in columns:
        for verdict in load(level):
            if vsn in verdict.vsn:
                found.setdefault(verdict.scenario, {})[level, vsn] = _said(verdict)
    return rows(
        ["scenario", *(f"{_NAMES[level].partition(' ')[0]}, {vsn}" for level, vsn in columns)],
        [[f"`{name}`", *(said.get(column, "–") for column in columns)] for name, said in sorted(found.items())],
    )


def _said(verdict: Verdict) -> str:
    return f"{verdict.result}, {verdict.frames} frames" if verdict.frames else verdict.result


@table("conformance-differences")
def differences() -> str:
    """What is not identical, why, and each difference in the judge's words."""
    return "\n".join(line for level in LEVELS for line in (f"### At the {_NAMES[level]}", "", *_reasons(level)))


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
