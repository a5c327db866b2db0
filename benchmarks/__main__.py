"""Measure and compare all clients: `python -m benchmarks`. README.md in this folder describes the method.

With `--strict` the exit status is 1 when a budget (`budgets.py`) is missed.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from benchmarks.budgets import Run, judged
from benchmarks.budgets import table as budget_table
from benchmarks.fanout import fan_out
from benchmarks.growth import grow
from benchmarks.measure import Blaster, run
from benchmarks.peers import ROOT, install_node, install_python, versions
from benchmarks.report import KEPT, lines, load, markdown, save, table
from benchmarks.scenarios import (
    BARE,
    CARRIERS,
    FAST,
    NODE,
    OURS,
    PLAIN,
    PYTHON,
    SCENARIOS,
    SECTIONS,
    SYNC,
    TCP,
    TLS,
    groups,
)

FANOUT = "fan-out"
GROWTH = "growth"


def main() -> int:
    """Measure, print and write the figures, and compare them with the budgets."""
    options = arguments()
    clients = present(options.without)
    names = options.only or [*SCENARIOS, FANOUT, GROWTH]
    result: Run = load() if options.only and options.write else {"scenarios": {}, "tls": {}, "growth": {}}
    result |= {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}",
        "versions": versions(clients),
        "on": time.strftime("%Y-%m-%d"),
        "rounds": options.rounds,
        "together": len(options.over) > 1 and not options.only,
    }
    print(*map(markdown, (table(result)[0], ["---"] * len(table(result)[0]))), sep="\n", flush=True)
    with ExitStack() as stack:
        blasters = [stack.enter_context(Blaster(carrier)) for carrier in carriers(options.over)]
        for group in groups(names):
            for carrier, found in run(blasters, group, clients, options.messages, options.rounds).items():
                result[SECTIONS[carrier]] |= found
                print(
                    *(markdown(line) for name in group for line in lines(result, name, carrier)), sep="\n", flush=True
                )
            save(result, options.json)
    if FANOUT in names:
        result["scenarios"] |= fan_out(options.rounds)
    if GROWTH in names:
        result["growth"] = grow()
    save(result, options.json)
    if options.write:
        save(result, KEPT)
    head, judgement = budget_table(result)
    print("", *map(markdown, (head, ["---"] * len(head), *judgement)), sep="\n")
    return options.strict and not all(budget.met(value) for budget, value in judged(result))


def arguments() -> argparse.Namespace:
    """Parse the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = [*SCENARIOS, FANOUT, GROWTH]
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each client")
    parser.add_argument("--messages", type=int, default=20_480, help="in each turn; a slow client gets fewer")
    parser.add_argument("--without", nargs="*", default=[], choices=[FAST, PLAIN, PYTHON, NODE], help="omit these")
    parser.add_argument("--over", nargs="+", default=CARRIERS, choices=CARRIERS, help="tcp: ws://, tls: wss://; both")
    parser.add_argument("--strict", action="store_true", help="fail when a budget is missed")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "build" / "benchmarks.json", help="where to write the figures"
    )
    parser.add_argument(
        "--write", action="store_true", help="store the figures for the page; then run python -m docs.tables"
    )
    return parser.parse_args()


def carriers(wanted: Sequence[str]) -> list[str]:
    """Return what to measure over; reports that TLS is left out when no certificate can be made."""
    if TLS in wanted and find_spec("trustme") is None:
        print("without TLS: trustme is not installed", file=sys.stderr)
        return [TCP]
    return list(wanted)


def present(without: Sequence[str]) -> set[str]:
    """Install the clients to compare with and return their names; report those that cannot be installed."""
    clients = {OURS, BARE, SYNC}
    if FAST not in without:
        clients |= {FAST} if find_spec("aiofastnet") else set()
    for names, install in (((PYTHON, PLAIN), install_python), ((NODE,), install_node)):
        wanted = set(names) - set(without)
        if not wanted:
            continue
        if (why := install()) is None:
            clients |= wanted
        else:
            print(f"without {', '.join(wanted)}: {why}", file=sys.stderr)
    return clients


if __name__ == "__main__":
    sys.exit(main())
