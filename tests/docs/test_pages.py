"""The pages are complete and their commands and links are real."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import supawire
from docs.tables import ROOT, pages
from supawire.options import Backoff, ChannelOptions, ClientOptions, Limits

README = (ROOT / "README.md").read_text(encoding="utf-8")
WRITTEN = [
    page for page in pages() if page.name not in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "reference.md")
]


def shown(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def names_in_pages() -> set[str]:
    """Every word that stands as code in a page for users."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in WRITTEN)
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    return {word for part in code for word in re.findall(r"[A-Za-z_]\w*", part)}


def test_setting_up_takes_one_line_for_each_purpose():
    """README has exactly two shell commands, of one line each: one runs the demo, one passes the tests."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    demo, tests = (block.rstrip("\n") for block in blocks)
    assert "\n" not in demo + tests
    assert demo.startswith("python3 -m venv .venv && ") and demo.endswith(".venv/bin/supawire demo")
    assert tests.startswith("python3 -m venv .venv && ") and tests.endswith(".venv/bin/pytest")


@pytest.mark.parametrize("page", pages(), ids=shown)
def test_links_lead_somewhere(page: Path):
    """Each link to a file of this repository finds it."""
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_files_named_in_the_architecture_exist():
    """The walk from README to the wire names files that are there."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|docs)/[\w./]+\.\w+)`", text)
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_public_name_is_in_a_page():
    """Each name that users import stands in a page that was written, not only in the reference."""
    assert sorted(set(supawire.__all__) - names_in_pages()) == []


@pytest.mark.parametrize("kind", [ClientOptions, ChannelOptions, Backoff, Limits], ids=lambda kind: kind.__name__)
def test_every_option_is_in_a_page(kind: type[ClientOptions | ChannelOptions | Backoff | Limits]):
    """Each option that users may set stands in a page."""
    assert sorted({field.name for field in fields(kind)} - names_in_pages()) == []
