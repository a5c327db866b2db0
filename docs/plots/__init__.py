"""Plots in pages: what each shows is data, made from what was measured, and written into the file that shows it.

`python -m docs.tables` draws those again whose data or drawing changed, and pages show them through the tables
`plot-<name>`. `tests/docs/test_plots.py` compares what a file says that it shows with what it ought to show, so another
version of the library that draws is no reason to draw again. That library is needed for drawing only.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """A small diagram. along: what its lower axis says. points: pairs of who or how many, and a cost."""

    title: str
    along: str
    points: tuple[tuple[str | int, float], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """kind: how it is drawn, "dots" or "curves". alt: what it shows, in words. panels: in reading order."""

    kind: str
    title: str
    alt: str
    panels: tuple[Panel, ...]
