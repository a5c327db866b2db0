"""Measure what receiving costs, side by side: `python -m benchmarks`; README.md beside this says how.

The exit status is 1 when a ratio misses what is wanted of it by more than the margin.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import Blaster, run
from benchmarks.peers import ROOT, install_node, install_python, versions
from benchmarks.report import KEPT, Run, complaints, markdown, save, table
from benchmarks.scenarios import BARE, BLOCKING, NODE, PYTHON, SCENARIOS

QUICK = ("broadcast", "binary", "change", "broadcast-both")


def main() -> int:
    """Measure, print, write, judge."""
    options = arguments()
    clients = present(options.without)
    names = options.only or (QUICK if options.quick else tuple(SCENARIOS))
    messages, rounds = (20_000, 3) if options.quick else (options.messages, options.rounds)
    result: Run = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}",
        "versions": versions(clients),
        "on": time.strftime("%Y-%m-%d"),
        "messages": messages,
        "rounds": rounds,
        "scenarios": {},
    }
    with Blaster() as blaster:
        for name in names:
            figures = run(blaster, name, SCENARIOS[name], clients, messages, rounds)
            result["scenarios"][name] = {client: asdict(one) for client, one in figures.items()}
            print_line(name, result)
    save(result, options.json)
    if options.write:
        save(result, KEPT)
    missed = list(complaints(result, options.margin))
    print(*missed, sep="\n", end="\n" if missed else "")
    return bool(missed)


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=7, help="turns of each client")
    parser.add_argument("--messages", type=int, default=100_000, help="in each turn; a slow client gets fewer")
    parser.add_argument("--without", nargs="*", default=[], choices=[PYTHON, NODE], help="leave these out")
    parser.add_argument("--quick", action="store_true", help="a few short rounds, for CI")
    parser.add_argument("--margin", type=float, default=1.0, help="how far a ratio may be off before this fails")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "benchmarks.json", help="where the figures go")
    parser.add_argument(
        "--write", action="store_true", help="keep the figures for the page; then python -m docs.tables"
    )
    return parser.parse_args()


def present(without: Sequence[str]) -> set[str]:
    """The clients to compare with; one that is not there is named and left out."""
    clients = {BARE, BLOCKING}
    for client, install in ((PYTHON, install_python), (NODE, install_node)):
        if client in without:
            continue
        if (why := install()) is None:
            clients.add(client)
        else:
            print(f"without {client}: {why}", file=sys.stderr)
    return clients


def print_line(name: str, result: Run) -> None:
    """One scenario's line of the table, after the head."""
    head, lines = table(result)
    if len(lines) == 1:
        print(markdown(head), markdown(["---"] * len(head)), sep="\n")
    print(markdown(lines[-1]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
