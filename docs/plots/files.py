"""The files of plots, the data stored in them, and whether it is up to date."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from html import escape, unescape
from pathlib import Path
from typing import Any, Final

from docs.plots import Plot
from docs.plots.performance import clients, growth
from docs.plots.scale import joins, restart, tokens

HERE: Final = Path(__file__).resolve().parent

PLOTS: Final[dict[str, Callable[[], Plot]]] = {
    "performance-clients": clients,
    "performance-growth": growth,
    "scale-restart": restart,
    "scale-joins": joins,
    "scale-tokens": tokens,
}
"""The functions that create the plots, by the name of the file."""

_SHOWS: Final = re.compile(r'<metadata id="shows">(.*?)</metadata>', re.DOTALL)


def file_of(name: str) -> Path:
    """Return the path of a plot."""
    return HERE / f"{name}.svg"


def current_data(name: str) -> Any:
    """Return the data that the file of a plot should contain: everything shown, and a hash of the drawing code."""
    drawing = sha256((HERE / "drawing.py").read_bytes()).hexdigest()
    return json.loads(json.dumps({"drawing": drawing, **asdict(PLOTS[name]())}))


def stored_data(text: str) -> Any:
    """Return the data stored in a file, or None."""
    found = _SHOWS.search(text)
    return found and json.loads(unescape(found[1]))


def is_fresh(name: str) -> bool:
    """Return whether the file exists and is up to date."""
    return file_of(name).exists() and stored_data(file_of(name).read_text(encoding="utf-8")) == current_data(name)


def draw(name: str) -> None:
    """Draw a plot and write its file."""
    from docs.plots.drawing import svg

    shows = escape(json.dumps(current_data(name), ensure_ascii=False), quote=False)
    file_of(name).write_text(svg(PLOTS[name](), f'<metadata id="shows">{shows}</metadata>'), encoding="utf-8")
