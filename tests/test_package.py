"""The installed package and its imports."""

import importlib
import importlib.metadata
import subprocess
import sys

import pytest

import supawire
import supawire.server

HEAVY = ("aiohttp", "cyclopts", "jwt", "opentelemetry", "pytest", "rich")


def test_importing_is_light():
    """`import supawire` imports no package that is slow to import or belongs to an extra (R47)."""
    code = f"import sys, supawire; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


WITHOUT_EXTRAS = """
import sys
extras = ("jwt", "cyclopts", "rich", "psycopg", "aiohttp_socks", "pytest", "pydantic")
sys.modules.update(dict.fromkeys(extras))
"""


def test_a_star_import_needs_no_extra():
    """`from supawire import *` and the events of `supawire.testing` work with the two dependencies alone."""
    code = f"{WITHOUT_EXTRAS}\nfrom supawire import *\nimport supawire as m\nprint(set(m.__all__) - set(globals()))"
    code += "\nfrom supawire.testing import insert, broadcast, presence, row_inserted"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", ["supawire", "supawire.server", "supawire.testing", "supawire.transport"])
def test_dir_lists_names_that_are_imported_on_first_use(name: str):
    """`dir()`, and thus the completion of a shell, lists every public name."""
    module = importlib.import_module(name)
    assert set(module.__all__) <= set(dir(module))


def test_the_version_and_the_local_server_are_available():
    """`__version__` is that of the installed package; `LocalServer` can be imported, but not by `*`."""
    assert supawire.__version__ == importlib.metadata.version("supawire")
    assert supawire.LocalServer is supawire.server.LocalServer
    assert {"LocalServer", "__version__"} <= set(dir(supawire))


def test_the_package_can_be_run():
    """`python -m supawire` is the command line."""
    done = subprocess.run([sys.executable, "-m", "supawire", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"supawire {supawire.__version__}\n")


def test_every_public_name_exists():
    """Each name of `__all__` is listed once and can be imported."""
    assert len(supawire.__all__) == len(set(supawire.__all__)) > 0
    assert [name for name in supawire.__all__ if not hasattr(supawire, name)] == []
