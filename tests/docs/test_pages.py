"""The pages are complete, and their commands and links exist."""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import supawire
from docs.tables import ROOT, pages
from docs.tables.commands import leaves
from supawire import _server_errors as codes
from supawire._server_errors import Known
from supawire.cli import COMMANDS, build
from supawire.errors import DOCS_URL, TREE, RealtimeError
from supawire.options import Backoff, ChannelOptions, ClientOptions, Limits
from supawire.testing import plugin

NO_ASGI = pytest.mark.skipif(not find_spec("starlette"), reason="this part needs the extra asgi")
README = (ROOT / "README.md").read_text(encoding="utf-8")
WRITTEN = [
    page
    for page in pages()
    if page.name not in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "design.md", "states.md")
    and not page.name.startswith("reference")
]
KNOWN = [
    row
    for value in vars(codes).values()
    for row in (value if isinstance(value, tuple) else [value])
    if isinstance(row, Known)
]


def shown(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def names_in_pages() -> set[str]:
    """Return every word that is marked as code in a page for users."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in WRITTEN)
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    return {word for part in code for word in re.findall(r"[A-Za-z_]\w*", part)}


def test_readme_has_one_command_for_the_demo_and_one_for_the_tests():
    """README has exactly two shell commands, of one line each: one runs the demo, one passes the tests."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    demo, tests = (block.rstrip("\n") for block in blocks)
    assert "\n" not in demo + tests
    assert demo.startswith("python3 -m venv .venv && ") and demo.endswith(".venv/bin/supawire demo")
    assert tests.startswith("python3 -m venv .venv && ") and re.search(r"\.venv/bin/pytest( -n \d+)?\Z", tests)


@pytest.mark.parametrize("page", pages(), ids=shown)
def test_links_lead_to_files(page: Path):
    """Each link to a file of this repository leads to an existing file."""
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_files_and_functions_in_the_architecture_exist():
    """ARCHITECTURE.md has at most 8 KB, and each file and function that it names exists."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 8192
    files = re.findall(r"`([\w/]+\.py)`", text)
    assert len(files) >= 30
    assert [name for name in files if not (ROOT / "src/supawire" / name).exists()] == []
    walked = re.findall(r"`([\w/]+\.py)`\s`((?:\w+\.)?\w+)`", text)
    assert len(walked) >= 15
    missing = [
        f"{file}: {name}"
        for file, name in walked
        for owner, _, function in [name.rpartition(".")]
        for source in [(ROOT / "src/supawire" / file).read_text(encoding="utf-8")]
        if not re.search(rf"^ *(?:async )?def {function}\(", source, re.MULTILINE)
        or (owner and not re.search(rf"^class {owner}\b", source, re.MULTILINE))
    ]
    assert missing == []


def public(kind: type[object]) -> set[str]:
    """Return the public methods, properties and fields of a class, including inherited ones."""
    if issubclass(kind, Enum):
        return {member.value for member in kind}
    if issubclass(kind, ClientOptions | ChannelOptions):  # they also have properties that the client itself uses
        return {field.name for field in fields(kind)}
    ours = [base for base in kind.__mro__ if base.__module__.startswith("supawire")]
    annotated = {name for base in ours for name in inspect.get_annotations(base)}
    own = annotated.union(*map(vars, ours)) & annotated.union(dir(kind))  # `dir` leaves out names of other clients
    return {name for name in own if not name.startswith("_")}


def test_every_public_name_is_in_a_page():
    """Each public name is in a written page, not only in the reference."""
    assert sorted(set(supawire.__all__) - names_in_pages()) == []


@pytest.mark.parametrize(
    "module", ["", pytest.param(".asgi", marks=NO_ASGI), ".server", ".testing", ".transport", ".worker", ".bridge"]
)
def test_every_public_name_is_in_the_reference(module: str):
    """Each public name is in exactly one page docs/reference-*.md; the names of unions are in the text."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("reference-*.md"))
    listed = re.findall(
        rf"^\.\. auto(?:class|function|exception):: supawire{re.escape(module)}\.(\w+)$", text, re.MULTILINE
    )
    in_text = [name for name in import_module(f"supawire{module}").__all__ if f"`{name}` is the " in text]
    names = [name for name in import_module(f"supawire{module}").__all__ if not name.startswith("_")]
    assert sorted(listed + in_text) == sorted(names)


@pytest.mark.parametrize(
    "module", [pytest.param("asgi", marks=NO_ASGI), "doctor", "server", "testing", "transport", "worker", "bridge"]
)
def test_every_name_of_a_part_is_in_a_page(module: str):
    """Each public name of a subpackage for users is in a page."""
    assert sorted(set(import_module(f"supawire.{module}").__all__) - names_in_pages()) == []


def test_every_fixture_is_in_a_page():
    """Each fixture of the pytest plugin is in a page."""
    fixtures = {name for name in vars(plugin) if name.startswith("realtime_")}
    assert fixtures and sorted(fixtures - names_in_pages()) == []


PUBLIC = sorted({*supawire.__all__, "LocalServer"})  # needs an extra, so it is not in `__all__`
CLASSES = [name for name in PUBLIC if isinstance(getattr(supawire, name), type)]
NOT_FOR_USERS = {"default_retryable"}  # an argument between classes of errors


@pytest.mark.parametrize("name", CLASSES)
def test_everything_on_a_public_class_is_in_a_page(name: str):
    """Each method, property and field of a public class is in a page, including each fault of the local server."""
    assert sorted(public(getattr(supawire, name)) - NOT_FOR_USERS - names_in_pages()) == []


def keywords(function: Callable[..., object]) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_keyword_of_a_call_is_in_a_page(name: str):
    """Each keyword argument of a public function or method is in a page."""
    it = getattr(supawire, name)
    calls = [it] if inspect.isfunction(it) else [call for _, call in inspect.getmembers(it, inspect.isfunction)]
    keyword_names = set[str]().union(*(keywords(call) for call in calls if not call.__name__.startswith("_")))
    assert sorted(keyword_names - names_in_pages()) == []


def test_every_error_is_in_the_page_of_errors():
    """Each error class is in the page that an error's `docs` names."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert [kind.__name__ for kind in TREE if f"`{kind.__name__}`" not in text] == []


@pytest.mark.parametrize("row", [*KNOWN], ids=lambda row: f"{row.slug}-{row.code}-{row.starts}")
def test_the_page_that_an_error_names_has_its_section(row: Known):
    """The section that `docs` of an error names exists."""
    address, _, anchor = row.docs.partition("#")
    assert address == f"{DOCS_URL}errors.html"
    assert f"\n### {anchor}\n" in (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_the_page_has_the_section_of_each_error_class(kind: type[RealtimeError]):
    """An error that is not an answer of the server names the section of its class, which exists."""
    address, _, anchor = kind("x").docs.partition("#")
    assert address == f"{DOCS_URL}errors.html"
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [heading for heading in headings if heading.lower() == anchor] == [kind.__name__]


def test_every_command_and_its_options_are_in_the_page_of_commands():
    """Each command of `supawire` has a section with its options."""
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (supawire [\w-]+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    assert list(sections) == [f"supawire {each.name}" for each in COMMANDS]
    app = build()
    for each in COMMANDS:
        section = sections[f"supawire {each.name}"]
        for words, command in leaves(each.name, app[each.name]):
            table_name = f"{words.replace(' ', '-')}-options"
            assert f"<!-- table: {table_name} -->" in section
            options = [argument.names[0] for argument in command.assemble_argument_collection() if argument.show]
            assert [option for option in options if f"`{option}`" not in text] == []


def test_every_page_is_in_the_table_of_contents():
    """Each page of docs/ is listed once, in a table of contents of the first page or of another one."""
    trees = [
        tree
        for page in (ROOT / "docs").glob("*.md")
        for tree in re.findall(r"^```{toctree}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]
    listed = [name for tree in trees for name in re.findall(r"^([a-z][a-z0-9-]*)$", tree, re.MULTILINE)]
    assert sorted(listed) == sorted(page.stem for page in (ROOT / "docs").glob("*.md") if page.stem != "index")


@pytest.mark.parametrize("kind", [ClientOptions, ChannelOptions, Backoff, Limits], ids=lambda kind: kind.__name__)
def test_every_option_is_in_a_page(kind: type[ClientOptions | ChannelOptions | Backoff | Limits]):
    """Each option that users may set is in a page."""
    assert sorted({field.name for field in fields(kind)} - names_in_pages()) == []
