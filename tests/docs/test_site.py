"""What the build of the pages adds: Markdown of each page, files about all pages, and the check of links."""

import subprocess
import sys
from pathlib import Path

import pytest

from supawire.errors import DOCS_URL

pytest.importorskip("myst_parser", reason="not run: Sphinx belongs to the extra dev")

from docs import links
from docs.tables import ROOT

CONF = """
project = "small"
extensions = ["myst_parser", "sphinx.ext.autodoc", "docs.docstrings", "docs.markdown", "docs.links"]
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence"]
myst_heading_anchors = 3
default_role = "code"
html_theme = "basic"
exclude_patterns = ["part.md"]
"""
INDEX = """---
hide-toc: true
---

# Small

It is *small*. It has pages.

![One [1]](one.png){.only-light}
![Other](other.png){.only-dark}

{.cards}
* [Calls](calls.md#more)

:::{container}
`[code](nowhere.md)`
:::

```{toctree}
:caption: All of it

calls
api
```
"""
CALLS = """# Calls

Calls do something:

<!-- table: numbers -->

| a | b |
| --- | --- |

<!-- end of table -->

```{include} part.md
```

## More

```python
"[not a link](x.md)"
```
"""
API = """# API

Made from code.

```{eval-rst}
.. autoclass:: supawire.OperationTimeout
.. autofunction:: supawire.server.serve
```
"""


def build(folder: Path, **pages: str) -> tuple[Path, str]:
    """Build a site with the given pages, and return the folder with it and the warnings."""
    docs, out = folder / "docs", folder / "out"
    docs.mkdir()
    (folder / "README.md").write_text(f"[gone]({DOCS_URL}gone.html)" if pages else "", encoding="utf-8")
    (docs / "conf.py").write_text(CONF, encoding="utf-8")
    files = {"index": INDEX, "calls": CALLS, "part": "Included: [the API](api.md).\n", "api": API} | pages
    for name, text in files.items():
        (docs / f"{name}.md").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(docs), str(out)]
    for name in ("one", "other"):
        (docs / f"{name}.png").write_bytes((ROOT / "docs" / "pictures" / "inspector-light.png").read_bytes())
    ran = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    return out, ran.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with a site that is built without a warning."""
    out, warnings = build(tmp_path_factory.mktemp("site"))
    assert warnings == ""
    return out


@pytest.mark.slow
def test_each_page_is_there_as_markdown(site: Path):
    """The Markdown of a page has what it includes, no directives, and links to Markdown; code is unchanged."""
    assert (site / "index.html.md").read_text(encoding="utf-8") == (
        "# Small\n\nIt is *small*. It has pages.\n\n![One [1]](_images/one.png)\n\n"
        "* [Calls](calls.html.md#more)\n\n`[code](nowhere.md)`\n"
    )
    calls = (site / "calls.html.md").read_text(encoding="utf-8")
    assert "| --- | --- |\n\nIncluded: [the API](api.html.md).\n" in calls
    assert "<!--" not in calls and '"[not a link](x.md)"' in calls
    api = (site / "api.html.md").read_text(encoding="utf-8")
    assert api.startswith("# API\n\nMade from code.\n\n## OperationTimeout\n\n")
    assert "## serve\n\n```python\nasync supawire.server.serve(options: HubOptions, *, " in api
    assert "\nclass supawire.OperationTimeout\n" in api  # without the arguments of its constructor
    assert "**Raises**:" in api
    assert '<link rel="alternate" type="text/markdown" href="api.html.md" />' in (site / "api.html").read_text()


@pytest.mark.slow
def test_files_about_all_pages(site: Path):
    """llms.txt has a line for each page; llms-full.txt has all pages, with absolute links."""
    index = (site / "llms.txt").read_text(encoding="utf-8")
    assert index.startswith("# small\n\n> It is small.\n")
    assert index.endswith(
        f"## All of it\n\n- [Calls]({DOCS_URL}calls.html.md): Calls do something.\n"
        f"- [API]({DOCS_URL}api.html.md): Made from code.\n"
    )
    full = (site / "llms-full.txt").read_text(encoding="utf-8")
    assert f"* [Calls]({DOCS_URL}calls.html#more)" in full and f"Address: {DOCS_URL}api.html\n\n# API\n" in full


@pytest.mark.slow
def test_wrong_links_are_warnings(tmp_path: Path):
    """A link to a missing page or section, also an absolute one, and a malformed address are warnings of the build."""
    bad = f"# API\n\n[a]({DOCS_URL}gone.html) [b]({DOCS_URL}calls.html#gone) [c](https://nowhere) [d](calls.md#more)\n"
    _, warnings = build(tmp_path, api=bad)
    assert f"api.html: the link {DOCS_URL}gone.html leads to no page" in warnings
    assert f"api.html: the link {DOCS_URL}calls.html#gone leads to no section of that page" in warnings
    assert "api.html: the link https://nowhere is not an address of a web page" in warnings
    assert f"README.md: the link {DOCS_URL}gone.html leads to no page" in warnings
    assert "#more" not in warnings


@pytest.mark.parametrize("picture", [*(ROOT / "docs").rglob("*.png")], ids=lambda path: path.name)
def test_pictures_are_small(picture: Path):
    """A picture has less than 300 kB, since all of them are in the source distribution."""
    assert picture.stat().st_size < 300_000


@pytest.mark.parametrize("link", ["https://example.com/a#b", "mailto:a@example.com", "calls.html", "#", "calls.html#x"])
def test_right_links_are_no_problem(link: str, tmp_path: Path):
    """Links to files and anchors that exist and well-formed addresses of other sites have no problem."""
    (tmp_path / "calls.html").write_text('<p class="a" id="x">', encoding="utf-8")
    assert links.problem_of(link, f"{DOCS_URL}calls.html", tmp_path) is None
