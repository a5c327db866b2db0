"""What a user installs and imports."""

import subprocess
import sys

import supawire

HEAVY = ("aiohttp", "cyclopts", "jwt", "opentelemetry", "pytest", "rich")


def test_importing_is_light():
    """`import supawire` brings in none of the packages that take long or belong to an extra (R47)."""
    code = f"import sys, supawire; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_is_there():
    """Each name of `__all__` stands there once and can be imported."""
    assert len(supawire.__all__) == len(set(supawire.__all__)) > 0
    assert [name for name in supawire.__all__ if not hasattr(supawire, name)] == []
