"""`python -m docs.tables` writes the tables and plots of all pages again and prints the changed files."""

from docs.plots.files import PLOTS, draw, file_of, is_fresh
from docs.tables import ROOT, load, pages, rewritten

load()
for page in pages():
    text = rewritten(page)
    if text != page.read_text(encoding="utf-8"):
        page.write_text(text, encoding="utf-8")
        print(page.relative_to(ROOT).as_posix())
for name in PLOTS:
    if not is_fresh(name):
        draw(name)
        print(file_of(name).relative_to(ROOT).as_posix())
