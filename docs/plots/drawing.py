"""Plots as SVG for light and dark pages.

Colours are drawn for a white background. A style sheet in the file replaces them in dark mode, and the plot has its own
background, so that it is legible on any page. The colours are distinguishable with colour blindness, and each kind of
client has its own shape. Text is stored as text: it can be searched, copied and read aloud.
"""

import io
from html import escape
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from benchmarks.scenarios import BARE, CLIENTS, FAST, NODE, OURS, PLAIN, PYTHON, SYNC
from docs.plots import Panel, Plot

INK: Final = "#1b1f24"
FAINT: Final = "#59626e"
RULE: Final = "#dce0e5"
GROUND: Final = "#ffffff"
BLUE: Final = "#0072b2"
ORANGE: Final = "#b84a00"
DARK: Final = {INK: "#e6e8eb", FAINT: "#a3abb5", RULE: "#343a42", GROUND: "#16181c", BLUE: "#5cb8f0", ORANGE: "#f2a65a"}
"""The colours in dark mode."""

WIDTH: Final = 7.6
"""The width of a page's text in inches."""

_KINDS: Final = {
    "supawire": (BLUE, "o", "full"),
    "aiohttp or websockets without a client": (FAINT, "s", "none"),
    "the official clients": (ORANGE, "D", "full"),
}
_KIND_OF: Final[dict[str, int]] = dict(
    zip((OURS, FAST, SYNC, BARE, PLAIN, PYTHON, NODE), (0, 0, 0, 1, 1, 2, 2), strict=True)
)
_STEPS: Final = (1, 3)
_BEHIND: Final = {"facecolor": GROUND, "edgecolor": "none", "pad": 0.4}

_LOOK: Final[dict[Any, Any]] = {
    "svg.fonttype": "none", "svg.hashsalt": "supawire", "font.family": "DejaVu Sans", "font.size": 8.5,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": RULE, "axes.titlesize": 9,
    "axes.titlelocation": "left", "axes.titlecolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": FAINT, "ytick.labelcolor": FAINT,
    "grid.color": RULE, "grid.linewidth": 0.7, "figure.facecolor": GROUND, "axes.facecolor": "none",
}  # fmt: skip


def svg(plot: Plot, metadata: str) -> str:
    """Return the SVG file: title and description for screen readers, the metadata, and the drawing."""
    text = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context():
        mpl.rcdefaults()  # without the user's own settings of matplotlib
        mpl.rcParams.update(_LOOK)
        _DRAWN_BY[plot.kind](plot).savefig(text, format="svg", metadata=nothing)
    head, opening, rest = text.getvalue().partition("<svg ")
    attributes, _, body = rest.partition(">")
    words = f"<title>{escape(plot.title)}</title>\n <desc>{escape(plot.alt)}</desc>"
    lines = "\n".join(line.rstrip() for line in body.splitlines())
    return f'{head}{opening}role="img" {attributes}>\n {words}\n {metadata}\n <style>{_style()}</style>{lines}\n'


def _style() -> str:
    night = "".join(
        f'[style*="{what}: {day}"] {{ {what}: {dark} !important; }}'
        for day, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    return (
        'text { font-family: "DejaVu Sans", Verdana, Geneva, sans-serif !important; }'
        f"@media (prefers-color-scheme: dark) {{ {night} }}"
    )


def _panels(plot: Plot, height: float, **more: Any) -> tuple[Figure, list[tuple[Axes, Panel]]]:
    """Return a figure with three panels in a row."""
    rows = -(-len(plot.panels) // 3)
    figure = Figure(figsize=(WIDTH, height * rows + 0.6), layout="constrained")
    axes = [axis for line in figure.subplots(rows, 3, squeeze=False, **more) for axis in line]
    for axis in axes[len(plot.panels) :]:
        axis.set_visible(False)
    return figure, list(zip(axes, plot.panels, strict=False))


def dots(plot: Plot) -> Figure:
    """Draw a row per client on a logarithmic scale, with a line at the cost of the bare loop."""
    figure, panels = _panels(plot, 1.75, sharex=True, sharey=True)
    every = [cost for panel in plot.panels for _, cost in panel.points]
    measured: set[str | int] = {client for panel in plot.panels for client, _ in panel.points}
    clients: list[str] = [client for client in CLIENTS if client in measured]
    ticks = [step * 10.0**power for power in range(-2, 8) for step in _STEPS]
    lowest, highest = min(every) / 2, max(every) * 2.2
    ticks = [tick for tick in ticks if lowest <= tick <= highest]
    for axis, panel in panels:
        costs = dict(panel.points)
        axis.set_title(panel.title)
        axis.set_xscale("log")
        axis.set_xlim(lowest, highest)
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_yticks(range(len(clients)), clients)
        axis.set_ylim(len(clients) - 0.5, -0.5)
        axis.tick_params(length=0, axis="y")
        axis.tick_params(length=3, axis="x", labelsize=7)
        axis.grid(visible=True, axis="x")
        axis.spines["left"].set_visible(False)
        if BARE in costs:
            axis.axvline(costs[BARE], color=FAINT, linewidth=0.9)
        for row, client in enumerate(clients):
            _dot(axis, row, costs.get(client), costs.get(BARE), tuple(_KINDS.values())[_KIND_OF[client]])
    for label in (label for axis, _ in panels for label in axis.get_yticklabels()):
        label.set_color(BLUE if label.get_text() in (OURS, FAST, SYNC) else INK)
    figure.supxlabel(plot.panels[0].along, fontsize=8.5)
    handles = [_mark(kind, label=name) for name, kind in _KINDS.items()]
    handles.append(Line2D([], [], color=FAINT, linewidth=0.9, marker="|", markersize=0, label="the bare loop"))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=4, frameon=False, handletextpad=0.5, columnspacing=1.6
    )
    return figure


def _dot(axis: Axes, row: int, cost: float | None, bare: float | None, kind: tuple[str, str, str]) -> None:
    if cost is None:
        axis.annotate("–", (0, row), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                      va="center", color=FAINT)  # fmt: skip
        return
    if bare is not None and bare != cost:
        axis.plot([bare, cost], [row, row], color=kind[0], linewidth=1.4, solid_capstyle="butt")
    axis.add_line(_mark(kind, [cost], [row]))
    left = bare is not None and cost < bare
    axis.annotate(f"{cost:#.3g}".rstrip("."), (cost, row), xytext=(-6 if left else 6, 0), textcoords="offset points",
                  va="center", ha="right" if left else "left", fontsize=8)  # fmt: skip


def _mark(kind: tuple[str, str, str], x: Any = (), y: Any = (), **more: Any) -> Line2D:
    colour, shape, fill = kind
    return Line2D(
        x, y, color=colour, marker=shape, linestyle="none", markersize=5 if shape == "D" else 6,
        markerfacecolor=colour if fill == "full" else GROUND, markeredgecolor=colour, markeredgewidth=1.3, **more,
    )  # fmt: skip


def curves(plot: Plot) -> Figure:
    """Draw a panel per curve: the count on a logarithmic axis, the cost on an axis that starts at zero."""
    figure, panels = _panels(plot, 1.75)
    for axis, panel in panels:
        counts, costs = [float(count) for count, _ in panel.points], [cost for _, cost in panel.points]
        axis.set_title(panel.title)
        axis.set_xscale("log")
        axis.set_xlim(counts[0] / 1.8, counts[-1] * 1.8)
        axis.xaxis.set_major_locator(FixedLocator(counts))
        axis.xaxis.set_major_formatter(FixedFormatter([_short(count) for count in counts]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(panel.along, color=FAINT)
        axis.set_ylim(0, max(costs) * 1.3)
        axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.tick_params(length=3)
        axis.grid(visible=True, axis="y")
        axis.plot(counts, costs, color=BLUE, linewidth=1.6)
        axis.add_line(_mark((BLUE, "o", "full"), counts, costs))
        for count, cost, before in zip(counts, costs, costs[:1] + costs, strict=False):
            falls = before - cost > max(costs) / 4  # then the curve comes from above, where the figure would stand
            axis.annotate(f"{cost:.2f}", (count, cost), xytext=(3 if falls else 0, 6), textcoords="offset points",
                          ha="left" if falls else "center", fontsize=8, bbox=_BEHIND)  # fmt: skip
    return figure


def _short(count: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{letter}"
    return f"{count:g}"


def times(plot: Plot) -> Figure:
    """Draw a panel per course in time, both axes linear; panels with the same label have the same vertical axis."""
    figure, panels = _panels(plot, 1.75)
    highest: dict[str, float] = {}
    for panel in plot.panels:
        highest[panel.along] = max(highest.get(panel.along, 0.0), *(value for _, value in panel.points))
    for axis, panel in panels:
        instants, values = [float(at) for at, _ in panel.points], [value for _, value in panel.points]
        axis.set_title(panel.title)
        axis.set_xlabel(panel.along, color=FAINT)
        axis.set_xlim(0, instants[-1])
        axis.set_ylim(0, highest[panel.along] * 1.08)
        axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axis.tick_params(length=3)
        axis.grid(visible=True, axis="y")
        axis.plot(instants, values, color=BLUE, linewidth=1.6)
    return figure


_DRAWN_BY: Final = {"dots": dots, "curves": curves, "times": times}
