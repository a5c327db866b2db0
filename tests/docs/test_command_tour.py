"""The output of commands in the page of the command line is that of real runs."""

import re
import sys

import pytest

from docs.command_tour import PAGE, names, rewritten, texts
from supawire.cli import COMMANDS


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the tour uses programs of Unix")
def test_the_tour_of_the_command_line_is_up_to_date():
    """Each output equals that of a new run; `python -m docs.command_tour` writes them."""
    page = PAGE.read_text(encoding="utf-8")
    shown = texts()
    assert sorted(names(page)) == sorted(shown)
    assert rewritten(page, shown) == page


def test_each_command_is_shown_with_its_call():
    """The page has a call of each command, as typed in a shell, or says how it is called."""
    page = PAGE.read_text(encoding="utf-8")
    called = set(re.findall(r"(?:\$ |`|\| |\()supawire ([a-z]+)", page))
    assert {command.name for command in COMMANDS} <= called
