"""The lock file pins every package that production installs, down to the byte."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from local.stack import ROOT

PYTHONS = ("3.11", "3.12", "3.13")
LOCK = (ROOT / "requirements.lock").read_text()

# One requirement: its first line, and the following lines with its hashes.
ENTRIES = re.findall(r"^[^#\s].*(?:\n .*)*", LOCK, re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def requirement(entry: str) -> Requirement:
    return Requirement(entry.partition(" \\\n")[0])


def required_packages() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def locked(python: str) -> dict[str, str]:
    """The versions for Linux, by the canonical name of the package."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    versions: dict[str, str] = {}
    for required in map(requirement, ENTRIES):
        if required.marker is None or required.marker.evaluate(machine):
            name = canonicalize_name(required.name)
            assert name not in versions, f"{name} is locked twice for Python {python}"
            [pin] = required.specifier
            versions[name] = pin.version
    return versions


def test_every_package_is_pinned_to_one_version_with_its_hashes() -> None:
    assert len(ENTRIES) > 20
    for entry in ENTRIES:
        [pin] = requirement(entry).specifier
        assert pin.operator == "==", entry
        assert requirement(entry).url is None
        options = entry.split(" \\\n")[1:]
        assert options, entry
        assert [option for option in options if not _HASH.fullmatch(option.strip())] == [], entry


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_the_requirements(python: str) -> None:
    """If this fails, run the command at the head of the lock file."""
    versions = locked(python)
    for required in required_packages():
        version = versions.get(canonicalize_name(required.name))
        assert version is not None, f"{required.name} is not locked for Python {python}"
        assert required.specifier.contains(version), f"{required} and {version}"


def test_the_lock_names_the_command_that_renews_it_and_no_package_index() -> None:
    head = LOCK.splitlines()[:2]
    assert all(line.startswith("#") for line in head)
    assert "pip compile" in head[1]
    assert re.search(r"https?:|index-url|find-links|file:", LOCK) is None
