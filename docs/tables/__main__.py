"""`python -m docs.tables` writes the tables of all pages again and says which pages changed."""

from docs.tables import ROOT, load, pages, rewritten

load()
for page in pages():
    text = rewritten(page)
    if text != page.read_text(encoding="utf-8"):
        page.write_text(text, encoding="utf-8")
        print(page.relative_to(ROOT).as_posix())
