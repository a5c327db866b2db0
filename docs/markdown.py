"""A Sphinx extension that writes each page as Markdown too, and the files llms.txt and llms-full.txt.

The Markdown of a page is at its address plus `.md`. Pages are written in Markdown, so it is the source with the
included files in place and without directives for the layout. Pages of the API reference are made by autodoc; they are
written from the document tree. Extensions that write all pages from the tree lose what the source says better, such as
the form of tables; extensions that copy the sources leave autodoc and includes unresolved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

from docutils import nodes
from sphinx import addnodes

from supawire.errors import DOCS_URL

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

_FENCE: Final = re.compile(r"^(`{3,})(.*?)\n(.*?)^\1[ ]*$", re.MULTILINE | re.DOTALL)
_INLINE_CODE: Final = re.compile(r"(`[^`\n]+`)")
_LAYOUT: Final = re.compile(r"^(?::{3,}.*|\{\.[\w-]+\}|<!-- .*? -->)\n", re.MULTILINE)
_ATTRIBUTES: Final = re.compile(r"^.*\{\.only-dark\}\n|(?<=\))\{\.only-light\}", re.MULTILINE)
_PAGE_LINK: Final = re.compile(r"(\]\()(?![a-z]+:|#)([\w./-]+?)\.md(#[^)\s]*)?(?=\))")
_IMAGE: Final = re.compile(r"(!\[(?:[^][]|\[[^][]*\])*\]\()(?![a-z]+:)(?:[\w./-]*/)?([\w-]+\.(?:svg|png))(?=\))")
_ANY_LINK: Final = re.compile(r"(\]\()(?![a-z]+:)([^)\s]+)(?=\))")
_MANY_LINES: Final = re.compile(r"\n{3,}")
_DESCRIPTION: Final = 250
"""Most characters of a line about a page in llms.txt."""


def page_as_markdown(env: BuildEnvironment, name: str, app: Sphinx) -> str:
    """Return a page as Markdown, with links to other pages in the same form."""
    path = Path(env.doc2path(name))
    source = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    if "```{eval-rst}" in source:
        tree = env.get_and_resolve_doctree(name, app.builder)
        text = "\n\n".join(_blocks(tree, 0))
    else:
        text = _resolved(source, path.parent)
    return _MANY_LINES.sub("\n\n", text).strip() + "\n"


def _resolved(source: str, folder: Path) -> str:
    """Return the source of a page without directives."""
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(source):
        parts.append(_prose(source[end : fence.start()]))
        end = fence.end()
        language = fence[2].strip()
        if language.startswith("{include}"):
            included = (folder / language.removeprefix("{include}").strip()).resolve()
            parts.append(_resolved(included.read_text(encoding="utf-8"), included.parent))
        elif not language.startswith("{toctree}"):
            parts.append(fence[0])
    return "".join([*parts, _prose(source[end:])])


def _prose(text: str) -> str:
    """Return text between blocks of code, without marks of the layout and with links to Markdown."""
    parts = _INLINE_CODE.split(_IMAGE.sub(r"\1_images/\2", _ATTRIBUTES.sub("", _LAYOUT.sub("", text))))
    parts[::2] = [
        _PAGE_LINK.sub(lambda link: f"{link[1]}{link[2]}.html.md{link[3] or ''}", part) for part in parts[::2]
    ]
    return "".join(parts)


# --- pages of the reference


_WITHOUT_TEXT: Final = (addnodes.toctree, addnodes.index, nodes.comment, nodes.raw, nodes.target)


def _blocks(node: nodes.Node, depth: int) -> Iterator[str]:
    """Yield the blocks below a node."""
    for child in node.children:
        yield from _block(child, depth)


def _block(node: nodes.Node, depth: int) -> Iterator[str]:
    if isinstance(node, _WITHOUT_TEXT):
        return
    match node:
        case nodes.section():
            yield from _blocks(node, depth + 1)
        case nodes.title():
            yield f"{'#' * depth} {_text(node)}"
        case nodes.paragraph():
            yield _text(node)
        case nodes.literal_block():
            yield f"```{node.get('language', '').replace('default', 'python')}\n{node.astext()}\n```"
        case nodes.bullet_list():
            yield "\n".join(_item(item, depth) for item in node.children)
        case nodes.field():
            name, body = node.children
            text = "\n\n".join(_blocks(body, depth))
            yield f"**{name.astext()}**:{chr(10) if text.startswith('* ') else ' '}{text}"
        case addnodes.desc():
            yield from _described(node, depth)
        case _:
            yield from _blocks(node, depth)


def _described(node: addnodes.desc, depth: int) -> Iterator[str]:
    """Yield name, signature and description of a class, a function or a member."""
    for signature in node.children[:-1]:
        assert isinstance(signature, addnodes.desc_signature)
        name, text = signature["fullname"], signature.astext().replace("[source]", "").strip()
        yield f"{'#' * min(depth + 1, 6)} {name}"
        if text != name:
            yield f"```python\n{text}\n```"
    yield from _blocks(node.children[-1], depth + 1)


def _item(item: nodes.Node, depth: int) -> str:
    return "* " + "\n\n".join(_blocks(item, depth)).replace("\n", "\n  ")


def _text(node: nodes.Node) -> str:
    """Return the text of a paragraph, with code, emphasis and links."""
    parts: list[str] = []
    for child in node.children:
        match child:
            case nodes.literal():
                parts.append(f"`{child.astext()}`")
            case nodes.strong():
                parts.append(f"**{child.astext()}**")
            case nodes.emphasis():
                parts.append(f"*{child.astext()}*")
            case nodes.reference():
                address: str = child.get("refuri") or f"#{child.get('refid', '')}"
                address = re.sub(r"^(?![a-z]+:)([\w./-]+)\.html", r"\1.html.md", address)
                parts.append(f"[{_text(child)}]({address})")
            case nodes.Text():
                parts.append(child.astext())
            case _:
                parts.append(_text(child))
    return "".join(parts).replace("\n", " ")


# --- the two files about all pages


def contents(env: BuildEnvironment) -> Iterator[tuple[str, list[str]]]:
    """Yield caption and pages of each part of the table of contents, sub-pages after their page."""
    for tree in env.get_doctree(env.config.root_doc).findall(addnodes.toctree):
        yield tree["caption"] or "", [name for _, top in tree["entries"] for name in _with_children(env, top)]


def _with_children(env: BuildEnvironment, name: str) -> Iterator[str]:
    yield name
    for child in env.toctree_includes.get(name, ()):
        yield from _with_children(env, child)


def first_sentence(env: BuildEnvironment, name: str) -> str:
    """Return the first sentence of a page as plain text, on one line."""
    for paragraph in env.get_doctree(name).findall(nodes.paragraph):
        text = paragraph.astext().replace("\n", " ")
        sentence = re.split(r"(?<=[.?!:])\s", text)[0].rstrip(":.")
        return f"{sentence}." if len(sentence) <= _DESCRIPTION else sentence[:_DESCRIPTION].rsplit(" ", 1)[0] + " …"
    return ""


def index_of_pages(env: BuildEnvironment) -> str:
    """Return llms.txt: one line for each page, with its address, title and first sentence."""
    lines = [
        f"# {env.config.project}\n\n> {first_sentence(env, env.config.root_doc)}\n",
        f"Each page is Markdown at its address plus `.md`. All pages in one file: <{DOCS_URL}llms-full.txt>.",
    ]
    for caption, names in contents(env):
        lines.append(f"\n## {caption}\n")
        for name in names:
            title = _text(env.titles[name])
            lines.append(f"- [{title}]({DOCS_URL}{name}.html.md): {first_sentence(env, name)}")
    return "\n".join(lines) + "\n"


def all_pages(env: BuildEnvironment, pages: dict[str, str]) -> str:
    """Return llms-full.txt: the text of all pages in the order of the table of contents, with absolute links."""
    order = [env.config.root_doc, *(name for _, names in contents(env) for name in names)]
    return "\n\n---\n\n".join(
        f"Address: {DOCS_URL}{name}.html\n\n{_with_absolute_links(pages[name], name)}" for name in order
    )


def _with_absolute_links(text: str, name: str) -> str:
    """Return the text of a page with absolute links, outside blocks of code."""

    def absolute(link: re.Match[str]) -> str:
        return link[1] + urljoin(f"{DOCS_URL}{name}.html", link[2].replace(".html.md", ".html"))

    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(text):
        parts += _ANY_LINK.sub(absolute, text[end : fence.start()]), fence[0]
        end = fence.end()
    return "".join([*parts, _ANY_LINK.sub(absolute, text[end:])])


def write(app: Sphinx, error: Exception | None) -> None:
    """Write the files beside the pages; called by Sphinx after the build."""
    if error is not None or app.builder.format != "html":
        return
    env, folder = app.env, Path(app.outdir)
    pages = {name: page_as_markdown(env, name, app) for name in sorted(env.found_docs)}
    for name, text in pages.items():
        (folder / f"{name}.html.md").write_text(text, encoding="utf-8")
    (folder / "llms.txt").write_text(index_of_pages(env), encoding="utf-8")
    (folder / "llms-full.txt").write_text(all_pages(env, pages), encoding="utf-8")


def announce(_app: Sphinx, name: str, _template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Add a link to the Markdown of a page to its head; called by Sphinx for each page."""
    if doctree is not None:
        tag = f'<link rel="alternate" type="text/markdown" href="{name}.html.md" />'
        context["metatags"] = context.get("metatags", "") + tag


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension; called by Sphinx."""
    app.connect("build-finished", write)
    app.connect("html-page-context", announce)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
