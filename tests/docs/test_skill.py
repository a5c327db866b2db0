"""The skill file for coding agents."""

import re

from docs.tables import ROOT

SKILL = ROOT / "skills" / "supawire" / "SKILL.md"


def test_the_front_matter_has_a_name_and_a_description():
    """The name is that of the folder, and name and description keep to the limits of the format."""
    front = re.match(r"---\nname: ([a-z0-9-]{1,64})\ndescription: ([^\n]{1,1024})\n---\n", SKILL.read_text("utf-8"))
    assert front is not None
    assert front[1] == SKILL.parent.name
    assert ": " not in front[2] and "<" not in front[2]  # plain text in YAML


def test_it_is_short_and_names_pages_that_exist():
    """An agent reads the whole file, so it has at most 10 kB; each page that it names exists."""
    text = SKILL.read_text("utf-8")
    assert len(text.encode()) < 10_000
    names = re.findall(r"`([a-z-]+)`", text[text.index("Start with") :].partition(". ")[0])
    assert names and [name for name in names if not (ROOT / "docs" / f"{name}.md").exists()] == []
