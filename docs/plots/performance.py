"""What the plots of the page about performance show, from the run that is kept in benchmarks/results.json."""

from typing import Final

from benchmarks.budgets import Figure
from benchmarks.growth import CURVES
from benchmarks.report import load
from benchmarks.scenarios import BLOCKING, CLIENTS, OURS
from docs.plots import Panel, Plot

_SHOWN: Final = (
    # title, scenario, and that of the blocking door
    ("a broadcast received", "broadcast", "broadcast-blocking"),
    ("the same, a binary frame", "binary", ""),
    ("a change received, row read", "change", "change-blocking"),
    ("a presence diff among 10,000", "diff", ""),
    ("a broadcast sent", "send", ""),
    ("sent and acked, one by one", "ack", ""),
)

_SCALE: Final = "µs of CPU for each message; each step of the same length is the same ratio"


def clients() -> Plot:
    """What each client needs at its best for a message of the main kinds."""
    run = load()
    panels: list[Panel] = []
    for title, scenario, blocking in _SHOWN:
        costs = {client: Figure(blocking if client == BLOCKING else scenario, client).of(run) for client in CLIENTS}
        points = tuple((client, round(cost, 2)) for client, cost in costs.items() if cost is not None)
        if points:
            panels.append(Panel(title, _SCALE, points))
    alt = "What a message costs each client, in µs of CPU. " + "; ".join(map(_range, panels)) + "."
    return Plot("dots", "What a message costs each client", alt, tuple(panels))


def _range(panel: Panel) -> str:
    """What we need, and who needs least and most."""
    costs = {str(name): cost for name, cost in panel.points}
    least, most = min(costs, key=costs.__getitem__), max(costs, key=costs.__getitem__)
    ours = f"{OURS} {costs[OURS]:.3g}, " if OURS in costs and OURS not in (least, most) else ""
    return f"{panel.title[0].upper()}{panel.title[1:]}: {least} {costs[least]:.3g}, {ours}{most} {costs[most]:.3g}"


def growth() -> Plot:
    """The curves: what one more costs when there are more of something."""
    measured = load()["growth"]
    panels = tuple(
        Panel(f"µs for {curve.each}", curve.says, tuple((int(count), cost) for count, cost in measured[name]))
        for name, curve in CURVES.items()
        if measured.get(name)
    )
    alt = "What one more costs, from the fewest to the most. " + "; ".join(map(_ends, panels)) + "."
    return Plot("curves", "How cost grows", alt, panels)


def _ends(panel: Panel) -> str:
    """The cost at both ends."""
    (few, first), (many, last) = panel.points[0], panel.points[-1]
    return f"{panel.along}, {few:,} to {many:,}: {first:.2f} to {last:.2f} {panel.title}"
