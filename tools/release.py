"""``python -m tools.release v1.2.3``: prints the notes of that release, if all files are ready for it.

Standard library only, so that the workflow needs to install nothing.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = {
    "pyproject.toml": r'^version = "(.+)"$',
    "sdk/src/taskbackbone/__init__.py": r'^__version__ = "(.+)"$',
    "sdk/testing/pyproject.toml": r'"taskbackbone==([^"]+)"',
}
"""Which line of which file says the version."""


class NotReady(Exception):
    """Raised when the files are not those of the release. The message says why."""


def versions(root: Path = ROOT) -> dict[str, str]:
    """The version that each file says."""
    found: dict[str, str] = {}
    for name, pattern in PLACES.items():
        lines = re.findall(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        if len(lines) != 1:
            raise NotReady(f"{name} has {len(lines)} lines that say a version.")
        found[name] = lines[0].strip("'\"")
    return found


def notes(tag: str, root: Path = ROOT) -> str:
    """The section of CHANGELOG.md on the version of *tag*.

    Raises:
        NotReady: a file says another version, or the changelog has no date for it.
    """
    wanted = tag.removeprefix("v")
    others = {name: version for name, version in versions(root).items() if version != wanted}
    if not tag.startswith("v") or others:
        said = ", ".join(f"{name} says {version}" for name, version in others.items()) or "a tag begins with v"
        raise NotReady(f"{tag} is no tag of these files: {said}.")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\S+), (.+)\n([^\0]*?)(?=^## |\Z)", changelog, re.MULTILINE)
    for version, day, text in sections:
        if version == wanted and re.fullmatch(r"\d{4}-\d\d-\d\d", day):
            return text.strip()
    raise NotReady(f'CHANGELOG.md has no heading "## {wanted}, YEAR-MONTH-DAY".')


def main() -> int:
    try:
        [tag] = sys.argv[1:]
        print(notes(tag))
    except ValueError:
        print("usage: python -m tools.release TAG", file=sys.stderr)
        return 2
    except NotReady as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
