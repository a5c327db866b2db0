"""Plots show the recorded figures."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from benchmarks.growth import CURVES
from benchmarks.report import load
from docs.plots import files
from docs.plots.files import PLOTS, file_of
from docs.tables import ROOT


@pytest.mark.parametrize("name", PLOTS)
def test_plots_show_what_was_measured(name: str):
    """A plot has the recorded figures and was drawn by the current code; `python -m docs.tables` draws it."""
    assert files.is_fresh(name)


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_stale_as_soon_as_a_figure_differs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A plot with another figure, drawn by other code, or missing is not up to date."""
    plot, text = PLOTS[name](), file_of(name).read_text(encoding="utf-8")
    (tmp_path / "drawing.py").write_bytes((files.HERE / "drawing.py").read_bytes())
    monkeypatch.setattr(files, "HERE", tmp_path)
    assert not files.is_fresh(name)
    who, cost = plot.panels[0].points[0]
    old, new = (json.dumps([who, figure]) for figure in (cost, cost + 1))
    assert old in text
    file_of(name).write_text(text.replace(old, new), encoding="utf-8")
    assert not files.is_fresh(name)
    file_of(name).write_text(text, encoding="utf-8")
    assert files.is_fresh(name)
    (tmp_path / "drawing.py").write_text("# another", encoding="utf-8")
    assert not files.is_fresh(name)


def test_every_file_is_a_plot():
    """Every plot file belongs to a plot."""
    assert sorted(path.stem for path in files.HERE.glob("*.svg")) == sorted(PLOTS)


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_can_be_read_without_seeing_it(name: str):
    """A plot file has a description in words, and all its labels are stored as text."""
    text, plot = unescape(file_of(name).read_text(encoding="utf-8")), PLOTS[name]()
    written = re.findall(r"<text [^>]*>([^<]+)</text>", text)
    names = [who for panel in plot.panels for who, _ in panel.points if isinstance(who, str)]
    assert f"<desc>{plot.alt}</desc>" in text
    assert {*names, *(panel.title for panel in plot.panels), *(panel.along for panel in plot.panels)} <= set(written)


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_drawn_alike_each_time(name: str):
    """The same figures give the same file, without dates, paths or pixels."""
    pytest.importorskip("matplotlib", reason="not run: matplotlib belongs to the extra dev")
    from docs.plots.drawing import svg

    one, other = (svg(PLOTS[name](), "") for _ in range(2))
    assert one == other
    assert not re.search(r"<dc:|20\d\d-\d\d|<image", one) and ROOT.as_posix() not in one


@pytest.mark.parametrize("name", CURVES)
def test_no_cost_grows_faster_than_the_page_says(name: str):
    """In the recorded run the largest count costs at most a quarter more than the cheapest, a half for a backlog."""
    costs = [cost for _, cost in load()["growth"][name]]
    assert costs[-1] <= (1.5 if name == "backlog" else 1.25) * min(costs)
