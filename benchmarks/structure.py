"""Measure the structure of the package: `python -m benchmarks.structure` prints a table.

Beside today's figures stand those before modules were merged and renamed, and the goals. `--list` also prints what was
counted: circles, names, and the files of each walk. The walks run a local server, and one of them a PostgreSQL.
"""

import argparse
import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Final, NamedTuple

from benchmarks.report import markdown
from benchmarks.walks import walks

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "src"
SMALL: Final = 61
"""Lines below which a module counts as small."""

_TWINS: Final = ("aio", "sync")
"""Folders that may hold a file of the same name on purpose."""

_REFERENCE: Final = re.compile(r"\b(?:protocol|api|architecture|reliability) §|\(R\d+")


class Measure(NamedTuple):
    """One line of the table. shows: what was counted."""

    before: str
    now: str
    goal: str
    shows: Sequence[str] = ()


BEFORE: Final = {
    "`await room.broadcast(…)`": ("16 · 25", "8 · 14"),
    "`await room.subscribe()` to the ok": ("35 · 124", "14 · 45"),
    "PostgreSQL row to WebSocket": ("26 · 70", "16 · 40"),
    "frame to plain handler": ("6 · 9", "6 · 9"),
    "websockets' `send`, for comparison": ("4 · 8", "–"),
}
"""Files and moves of each walk, before and as the goal."""


def modules() -> dict[str, Path]:
    """Return the modules of the package by their dotted name."""
    found: dict[str, Path] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path], *, every: bool) -> set[str]:
    """Return the modules of the package that a module imports at run time, or with `every` also lazily or for types."""

    def of(body: Sequence[ast.stmt]) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    yield name if name in known else node.module
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif every or not (_is_for_types(node) or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
                for field in ("body", "orelse", "handlers", "finalbody"):
                    yield from of(getattr(node, field, None) or [])

    return {name for name in of(ast.parse(path.read_text(encoding="utf-8")).body) if name in known}


def _is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def circles(known: dict[str, Path], *, every: bool) -> list[list[str]]:
    """Return the groups of modules that import each other."""
    edges = {name: imported(path, known, every=every) - {name} for name, path in known.items()}
    reach = {name: _reached(name, edges) for name in known}
    groups = {
        frozenset(other for other in reach[name] if name in reach[other]) for name in known if name in reach[name]
    }
    return sorted(sorted(group) for group in groups)


def _reached(start: str, edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    left = [*edges[start]]
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += edges[name]
    return found


def repeated_files(known: dict[str, Path]) -> list[str]:
    """Return the file names that occur in several folders, without `__init__`, `__main__` and twins."""
    folders: dict[str, set[str]] = defaultdict(set)
    for path in known.values():
        folders[path.name].add(path.parent.relative_to(SOURCE / "supawire").as_posix())
    return sorted(
        f"{name}: {', '.join(sorted(found))}"
        for name, found in folders.items()
        if len(found) > 1 and not name.startswith("__") and found != set(_TWINS)
    )


def repeated_classes(known: dict[str, Path]) -> list[str]:
    """Return the names of classes that several modules define."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, path in known.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(name.removeprefix("supawire."))
    return sorted(f"{name}: {', '.join(found)}" for name, found in places.items() if len(found) > 1)


def references(known: dict[str, Path]) -> list[str]:
    """Return the lines that refer to a section of a document outside of the repository."""
    return [
        f"{name}:{number}"
        for name, path in known.items()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for _ in _REFERENCE.findall(line)
    ]


def function_lengths(known: dict[str, Path]) -> list[int]:
    """Return the lines of each function."""
    return [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in known.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def static() -> dict[str, Measure]:
    """Return what can be measured without running anything."""
    known = modules()
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in known.items()}
    small = [
        f"{name}: {count}" for name, count in lines.items() if count < SMALL and not known[name].name.startswith("__")
    ]
    runtime, every = circles(known, every=False), circles(known, every=True)
    files, classes, old = repeated_files(known), repeated_classes(known), references(known)
    size = len((ROOT / "ARCHITECTURE.md").read_bytes()) / 1000
    return {
        "modules": Measure("206", str(len(known)), "130"),
        "median lines of a module": Measure("122", f"{median(lines.values()):g}", "180 or more"),
        f"modules under {SMALL} lines, without `__init__` and `__main__`": Measure("42", str(len(small)), "0", small),
        "mean lines of a function": Measure("7.1", f"{mean(function_lengths(known)):.1f}", "9 to 14"),
        "import circles at run time": Measure("–", str(len(runtime)), "0", [" ".join(one) for one in runtime]),
        "import circles with lazy imports and those for types": Measure(
            "5", str(len(every)), "0", [" ".join(one) for one in every]
        ),
        "file names that occur twice, without twins": Measure("17", str(len(files)), "0", files),
        "class names with several meanings": Measure("20", str(len(classes)), "0", classes),
        "references to documents outside of the repository": Measure("223", str(len(old)), "0", old),
        "ARCHITECTURE.md": Measure("23 KB", f"{size:.1f} KB", "8 KB"),
    }


def walked() -> dict[str, Measure]:
    """Return the files and moves of each walk."""
    found: dict[str, Measure] = {}
    for name, walk in walks().items():
        before, goal = BEFORE[name]
        if isinstance(walk, str):
            found[name] = Measure(before, walk, goal)
        else:
            found[name] = Measure(before, f"{walk.files} · {walk.moves}", goal, [" > ".join(walk.path)])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structure", description=__doc__)
    parser.add_argument("--list", action="store_true", help="also print what was counted")
    parser.add_argument("--static", action="store_true", help="leave out the walks, which run the package")
    options = parser.parse_args()
    measures = static() if options.static else static() | walked()
    print(markdown(["measure", "before", "now", "goal"]), markdown(["---"] * 4), sep="\n")
    for name, measure in measures.items():
        print(markdown([name, measure.before, measure.now, measure.goal]))
    if options.list:
        for name, measure in measures.items():
            if measure.shows:
                print("", f"{name}:", *(f"  {line}" for line in measure.shows), sep="\n")


if __name__ == "__main__":
    main()
