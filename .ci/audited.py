"""Say what an audit by pip-audit has found and how many packages it has looked at: `python .ci/audited.py REPORT`.

pip-audit ends well when it could look at no package at all, as with an index that it does not know. The exit status is
1 when something is known of a package.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield what is known of each package, then how many were looked at, and which were not."""
    packages: list[dict[str, Any]] = report["dependencies"]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    found = 0
    for package in packages:
        for weakness in package.get("vulns", []):
            found += 1
            fixed = ", ".join(weakness.get("fix_versions", [])) or "no version"
            yield f"{package['name']} {package['version']}: {weakness['id']}, fixed in {fixed}"
    seen = len(packages) - len(skipped)
    if not seen:
        yield f"not run: none of {len(packages)} packages could be looked at"
        return
    known = f"{found} known" if found else "nothing known"
    yield f"{known}; {seen} of {len(packages)} packages looked at" + (f", not {', '.join(skipped)}" if skipped else "")


def main() -> int:
    """Print the lines of a report."""
    report: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(*lines(report), sep="\n")
    return any(package.get("vulns") for package in report["dependencies"])


if __name__ == "__main__":
    sys.exit(main())
