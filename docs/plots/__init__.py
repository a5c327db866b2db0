"""Plots in pages. The data of a plot is made from the measured figures and stored in its file.

`python -m docs.tables` draws a plot again when its data or the drawing code has changed. Pages show plots through the
tables `plot-<name>`. `tests/docs/test_plots.py` compares the stored data with the current data, so a new version of the
drawing library causes no change. The library is only needed for drawing.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """A small diagram. along: the label of the horizontal axis. points: pairs of a client or a count, and a cost."""

    title: str
    along: str
    points: tuple[tuple[str | int, float], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot. kind: "dots", "curves" or "times". alt: a description in words. panels: in reading order."""

    kind: str
    title: str
    alt: str
    panels: tuple[Panel, ...]
