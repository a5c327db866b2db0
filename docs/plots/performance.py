"""The plots of the page of performance, from the recorded run in benchmarks/results.json."""

from typing import Final

from benchmarks.budgets import Figure
from benchmarks.growth import CURVES
from benchmarks.report import load
from benchmarks.scenarios import CLIENTS, OURS, SYNC
from docs.plots import Panel, Plot

_SHOWN: Final = (
    # title, scenario, scenario of the sync client
    ("a broadcast received", "broadcast", "broadcast-sync"),
    ("the same, a binary frame", "binary", ""),
    ("a change received, row read", "change", "change-sync"),
    ("a presence diff among 10,000", "diff", ""),
    ("a broadcast sent", "send", ""),
    ("a broadcast sent with ack", "ack", ""),
)

_SCALE: Final = "µs of CPU per message, logarithmic scale"


def clients() -> Plot:
    """Return the plot of each client's cost per message for the main kinds, by its best turn."""
    run = load()
    panels: list[Panel] = []
    for title, scenario, sync_scenario in _SHOWN:
        costs = {client: Figure(sync_scenario if client == SYNC else scenario, client).of(run) for client in CLIENTS}
        points = tuple((client, round(cost, 2)) for client, cost in costs.items() if cost is not None)
        if points:
            panels.append(Panel(title, _SCALE, points))
    alt = "Cost of a message in each client, in µs of CPU. " + "; ".join(map(_range, panels)) + "."
    return Plot("dots", "Cost of a message in each client", alt, tuple(panels))


def _range(panel: Panel) -> str:
    """Return a text with the costs of supawire and of the cheapest and most expensive client."""
    costs = {str(name): cost for name, cost in panel.points}
    least, most = min(costs, key=costs.__getitem__), max(costs, key=costs.__getitem__)
    ours = f"{OURS} {costs[OURS]:.3g}, " if OURS in costs and OURS not in (least, most) else ""
    return f"{panel.title[0].upper()}{panel.title[1:]}: {least} {costs[least]:.3g}, {ours}{most} {costs[most]:.3g}"


def growth() -> Plot:
    """Return the plot of the curves of cost by count."""
    measured = load()["growth"]
    panels = tuple(
        Panel(f"µs for {curve.each}", curve.says, tuple((int(count), cost) for count, cost in measured[name]))
        for name, curve in CURVES.items()
        if measured.get(name)
    )
    alt = "Cost by count, from the smallest count to the largest. " + "; ".join(map(_ends, panels)) + "."
    return Plot("curves", "How cost grows", alt, panels)


def _ends(panel: Panel) -> str:
    """Return a text with the costs at both ends."""
    (few, first), (many, last) = panel.points[0], panel.points[-1]
    return f"{panel.along}, {few:,} to {many:,}: {first:.2f} to {last:.2f} {panel.title}"
