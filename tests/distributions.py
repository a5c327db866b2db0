"""Check the files and the metadata of built distributions: `python -m tests.distributions WHEEL SOURCE`.

Compares them with the files of the checkout, so that a file that is missing or too much is noticed before a release.
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ONLY_IN_CHECKOUT = {".gitignore"}
"""Files of the repository that the source distribution need not have; the build adds .gitignore itself."""


def problems_of(wheel: Path, source: Path, tracked: set[str]) -> list[str]:
    """Return what is wrong with the two files, for a checkout with these files."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        (name,) = (name for name in packed if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    with tarfile.open(source) as archive:
        unpacked = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    wanted = {name.removeprefix("src/") for name in tracked if name.startswith("src/supawire/")}
    in_package = {name for name in packed if ".dist-info/" not in name}
    return [
        *(f"{name} is not in the wheel" for name in sorted(wanted - in_package)),
        *(f"{name} is in the wheel, but not in the repository" for name in sorted(in_package - wanted)),
        *(f"{name} is not in the source distribution" for name in sorted(tracked - unpacked - ONLY_IN_CHECKOUT)),
        *(f"{name} is in the source distribution only" for name in sorted(unpacked - tracked - {"PKG-INFO"})),
        *(() if any(name.endswith("/LICENSE") for name in packed) else ["LICENSE is not in the wheel"]),
        *_problems_of_metadata(metadata),
    ]


def _problems_of_metadata(metadata: Message) -> list[str]:
    text = metadata.get_payload()
    assert isinstance(text, str)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    relative = [target for target in targets if not target.startswith(("https://", "#"))]
    labels = {line.partition(",")[0] for line in metadata.get_all("Project-URL", [])}
    missing = {"Documentation", "Source", "Issues", "Changelog"} - labels
    return [
        *(f"a link on the index's page is relative: {target}" for target in relative),
        *(() if targets else ["the index's page has no links"]),
        *(f"there is no project URL {label}" for label in sorted(missing)),
    ]


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    problems = problems_of(Path(sys.argv[1]), Path(sys.argv[2]), tracked)
    print(*(problems or ["the distributions have the files of the repository, and nothing else"]), sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
