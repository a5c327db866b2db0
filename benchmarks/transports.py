"""Compare the ways in which the transport reads and writes: `python -m benchmarks.transports`.

The ways are the values of `Reading`, each with the connections of the event loop and with those of aiofastnet. They
take turns, as in `python -m benchmarks`, over TCP and TLS. The figures are microseconds of CPU per message, the best of
all turns; in brackets is the median of the ratios to the first one.
"""

import argparse
from contextlib import ExitStack
from statistics import median
from typing import Final

from benchmarks import measure
from benchmarks.measure import VARIANTS, Blaster, Player
from benchmarks.report import markdown
from benchmarks.scenarios import BARE, CARRIERS, FAST

NAMES: Final = ("broadcast", "change", "send", "ack", "wake")
WAYS: Final = [name for name in VARIANTS if name != FAST]


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transports", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--messages", type=int, default=20_480)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES)
    options = parser.parse_args()
    print(markdown(["scenario", "over", BARE, *WAYS]))
    print(markdown(["---"] * (3 + len(WAYS))))
    for name in options.only:
        for carrier in CARRIERS:
            print(markdown([name, carrier, *compare(name, carrier, options.messages, options.rounds)]), flush=True)


def compare(name: str, carrier: str, messages: int, rounds: int) -> list[str]:
    """Measure one scenario over one carrier; returns the cells of the bare loop and of each way."""
    with ExitStack() as stack:
        blaster = stack.enter_context(Blaster(carrier))
        clients = [*([] if name == "wake" else [BARE]), *WAYS]
        players = [Player(blaster, stack, name, client) for client in clients]
        measure.take_turns(players, messages, rounds)
    measured = "whole" if name == "wake" else "cpu"
    turns = {player.client: player.figures[measured] for player in players}
    first = turns[WAYS[0]]
    cells = ["–"] if name == "wake" else [f"{min(turns[BARE]):.2f}"]
    for way in WAYS:
        ratio = median(one / other for one, other in zip(turns[way], first, strict=True))
        cells.append(f"{min(turns[way]):.2f} ({ratio:.2f})")
    return cells


if __name__ == "__main__":
    main()
