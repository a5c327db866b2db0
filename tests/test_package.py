"""What a user installs and imports."""

import importlib
import importlib.metadata
import subprocess
import sys

import pytest

import supawire
import supawire.server

HEAVY = ("aiohttp", "cyclopts", "jwt", "opentelemetry", "pytest", "rich")


def test_importing_is_light():
    """`import supawire` brings in none of the packages that take long or belong to an extra (R47)."""
    code = f"import sys, supawire; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


WITHOUT_EXTRAS = """
import sys
extras = ("jwt", "cyclopts", "rich", "psycopg", "aiohttp_socks", "pytest", "pydantic")
sys.modules.update(dict.fromkeys(extras))
"""


def test_a_star_import_needs_no_extra():
    """`from supawire import *` works with the two dependencies alone, as do the events of `supawire.testing`."""
    code = f"{WITHOUT_EXTRAS}\nfrom supawire import *\nimport supawire as m\nprint(set(m.__all__) - set(globals()))"
    code += "\nfrom supawire.testing import insert, broadcast, presence, row_inserted"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", ["supawire", "supawire.server", "supawire.testing", "supawire.transport"])
def test_dir_shows_what_is_found_when_it_is_first_used(name: str):
    """`dir()` and so the completion of a shell list every public name."""
    module = importlib.import_module(name)
    assert set(module.__all__) <= set(dir(module))


def test_the_version_and_the_server_are_there_too():
    """`supawire.__version__` is that of the installed package; `supawire.LocalServer` is found though it is no star."""
    assert supawire.__version__ == importlib.metadata.version("supawire")
    assert supawire.LocalServer is supawire.server.LocalServer
    assert {"LocalServer", "__version__"} <= set(dir(supawire))


def test_the_package_can_be_run():
    """`python -m supawire` is the command line."""
    done = subprocess.run([sys.executable, "-m", "supawire", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"supawire {supawire.__version__}\n"


def test_every_public_name_is_there():
    """Each name of `__all__` stands there once and can be imported."""
    assert len(supawire.__all__) == len(set(supawire.__all__)) > 0
    assert [name for name in supawire.__all__ if not hasattr(supawire, name)] == []
