"""A Sphinx extension that checks every link of the built pages, without a network.

Links within the site, relative or absolute, must lead to an existing file and anchor. Addresses of other sites are only
checked for their form. Absolute addresses of the site in the repository, such as those in README, are checked too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from supawire.errors import DOCS_URL

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_ADDRESS: Final = re.compile(re.escape(DOCS_URL) + r"[\w./#%-]*[\w/]")
_ID: Final = re.compile(r'<[^<>]* id="([^"]+)"')
_LINK: Final = re.compile(r'<(?:a|link|img|script) [^<>]*?(?:href|src)="([^"]+)"')
_CODE: Final = re.compile(r"^(`{3,}).*?^\1$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_SEARCHED: Final = ("*.md", "*.toml", ".github/**/*.*", "src/**/*.*", "examples/**/*.*", "skills/**/*.md")
"""Files of the repository that may contain addresses of the site."""


class _Page(NamedTuple):
    """The anchors and links of one page."""

    anchors: set[str]
    links: set[str]


@cache
def _parsed(file: Path) -> _Page:
    text = file.read_text(encoding="utf-8")
    anchors = {unescape(name) for name in _ID.findall(text)}
    return _Page({"", "top", *anchors}, {unescape(link) for link in _LINK.findall(text)})


def problem_of(link: str, base: str, folder: Path) -> str | None:
    """Return what is wrong with a link on the page with the address `base`, or None."""
    address = urljoin(base, link)
    if not address.startswith(DOCS_URL):
        parts = urlsplit(address)
        if parts.scheme in ("mailto", "data"):
            return None
        is_web = parts.scheme in ("http", "https") and "." in (parts.hostname or "")
        return None if is_web and not re.search(r"[\s<>`]", address) else "is not an address of a web page"
    page, _, anchor = address.removeprefix(DOCS_URL).partition("#")
    file = folder / (unquote(page.partition("?")[0]) or "index.html")
    if not file.is_file():
        return "leads to no page"
    if anchor and file.suffix == ".html" and unquote(anchor) not in _parsed(file).anchors:
        return "leads to no section of that page"
    return None


def _links(folder: Path, repository: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each link with the file that has it and the address that it is relative to."""
    for file in sorted(folder.glob("*.html")):
        yield from ((link, file.name, DOCS_URL + file.name) for link in sorted(_parsed(file).links))
    for file in sorted([*folder.glob("*.md"), *folder.glob("*.txt")]):
        text = _CODE.sub("", file.read_text(encoding="utf-8"))
        # anchors of sections are those of the page in HTML
        found = {link.replace(".html.md", ".html") for link in re.findall(r"\]\(([^)\s]+)\)", text)}
        base = DOCS_URL + (file.name.removesuffix(".md") if file.suffix == ".md" else "")
        yield from ((link, file.name, base) for link in sorted(found))
    for pattern in _SEARCHED:
        for file in sorted(repository.glob(pattern)):
            if file.is_file() and file.suffix not in (".pyc", ".png"):
                found = set(_ADDRESS.findall(file.read_text(encoding="utf-8")))
                yield from ((link, file.relative_to(repository).as_posix(), "") for link in sorted(found))


def problems(folder: Path, repository: Path) -> Iterator[str]:
    """Yield a line for each wrong link of the site built in a folder, and in files of its repository."""
    _parsed.cache_clear()
    for link, file, base in _links(folder, repository):
        problem = problem_of(link, base, folder)
        if problem:
            yield f"{file}: the link {link} {problem}"


def check(app: Sphinx, error: Exception | None) -> None:
    """Report each wrong link as a warning; called by Sphinx after the build."""
    from sphinx.util import logging

    if error is None and app.builder.format == "html":
        for line in problems(Path(app.outdir), Path(app.srcdir).parent):
            logging.getLogger(__name__).warning(line)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension; called by Sphinx."""
    app.connect("build-finished", check, priority=900)  # after the other files are written
    return {"parallel_read_safe": True, "parallel_write_safe": True}
