"""The lines of pages that show a plot, with its description."""

from collections.abc import Callable

from docs.plots.files import PLOTS, file_of
from docs.tables import ROOT, table


def shown(name: str) -> Callable[[], str]:
    """Return the function that prints the line of a plot for a page in docs/."""
    return lambda: f"![{PLOTS[name]().alt}]({file_of(name).relative_to(ROOT / 'docs').as_posix()})"


for name in PLOTS:
    table(f"plot-{name}")(shown(name))
