"""The lines of pages that show a plot, with its description."""

import re
from collections.abc import Callable

from docs.plots.files import PLOTS, file_of
from docs.tables import ROOT, table


def shown(name: str) -> Callable[[], str]:
    """Return the function that prints the line of a plot for a page in docs/."""

    def image() -> str:
        alt = re.sub(r"\[(\w+)\]", r" with \1", PLOTS[name]().alt)  # brackets in a description look like a link
        return f"![{alt}]({file_of(name).relative_to(ROOT / 'docs').as_posix()})"

    return image


for name in PLOTS:
    table(f"plot-{name}")(shown(name))
