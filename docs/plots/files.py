"""The files of plots: which there are, what each says that it shows, and whether that is so."""

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

HERE: Final = Path(__file__).resolve().parent

PLOTS: Final[dict[str, Callable[[], Plot]]] = {"performance-clients": clients, "performance-growth": growth}
"""By the name of the file."""

_SHOWS: Final = re.compile(r'<metadata id="shows">(.*?)</metadata>', re.DOTALL)


def file_of(name: str) -> Path:
    """Where a plot is."""
    return HERE / f"{name}.svg"


def wanted(name: str) -> Any:
    """What the file of a plot ought to say: everything that it shows, and by which code it was drawn."""
    drawing = sha256((HERE / "drawing.py").read_bytes()).hexdigest()
    return json.loads(json.dumps({"drawing": drawing, **asdict(PLOTS[name]())}))


def said(text: str) -> Any:
    """What a file says, None when it says nothing."""
    found = _SHOWS.search(text)
    return found and json.loads(unescape(found[1]))


def is_fresh(name: str) -> bool:
    """Whether the file is there and says what it ought to."""
    return file_of(name).exists() and said(file_of(name).read_text(encoding="utf-8")) == wanted(name)


def draw(name: str) -> None:
    """Write the file of a plot."""
    from docs.plots.drawing import svg

    shows = escape(json.dumps(wanted(name), ensure_ascii=False), quote=False)
    file_of(name).write_text(svg(PLOTS[name](), f'<metadata id="shows">{shows}</metadata>'), encoding="utf-8")
