"""The Lua scripts, put together from their files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from shared.task_store.packing import TAGS

_HERE: Final = Path(__file__).parent
_JOINT: Final = {
    "create": {"scripts": ("create", "withdraw"), "queue_scripts": ("offer",)},
    "step": {"scripts": ("move",), "queue_scripts": ("leave", "accepted")},
}
"""Which scripts a joint script calls."""
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_DECLARATION = re.compile(r"local (?:function )?(\w+(?:, \w+)*)")


def read_scripts() -> dict[str, str]:
    """All scripts by their names, each with what it uses of its lib."""
    common = _read(_HERE / "common.lua")
    families = {folder: _read_folder(folder) for folder in ("scripts", "queue_scripts")}
    libs = {folder: files.pop("lib") for folder, files in families.items()}
    scripts = {
        name: _with_needed(libs["scripts"], f"begin(KEYS, ARGV)\n{body}")
        for name, body in families["scripts"].items()
    }
    for name, body in families["queue_scripts"].items():
        script = f"{_function('local script', body)}local reply = script(KEYS, ARGV)\nwrite_queues()\nreturn reply\n"
        scripts[f"queue/{name}"] = _with_needed(libs["queue_scripts"], script)
    joint_scripts = _read_folder("joint_scripts")
    tags = ", ".join(f"[{ord(f'{digit:x}')}] = '{{{tag}}}'" for digit, tag in enumerate(TAGS))
    joint_lib = f"local TAGS = {{ {tags} }}\n{joint_scripts.pop('lib')}"
    for joint, body in joint_scripts.items():
        blocks: list[str] = []
        for folder, names in _JOINT[joint].items():
            functions = "".join(_function(name, families[folder][name]) for name in names)
            if folder == "queue_scripts":
                names, functions = (*names, "save_queues"), f"{functions}save_queues = write_queues\n"
            blocks.append(f"local {', '.join(names)}\ndo\n{_with_needed(libs[folder], functions)}end\n")
        scripts[f"joint/{joint}"] = "".join(blocks) + _with_needed(joint_lib, body)
    return {name: _with_needed(common, script) for name, script in scripts.items()}


def _function(name: str, body: str) -> str:
    return f"{name} = function(KEYS, ARGV)\nbegin(KEYS, ARGV)\n{body}end\n"


def _with_needed(lib: str, script: str) -> str:
    """A script after those of the lib's declarations that it uses: each costs time whenever the script runs."""
    text = script
    # A declaration uses those before it.
    for declaration in reversed(re.split(r"^(?=local )", lib, flags=re.MULTILINE)):
        names = _DECLARATION.match(declaration)
        if names and re.search(rf"\b(?:{names[1].replace(', ', '|')})\b", text):
            text = declaration + text
    return text


def _read_folder(name: str) -> dict[str, str]:
    return {file.stem: _read(file) for file in (_HERE / name).glob("*.lua")}


def _read(file: Path) -> str:
    return _COMMENT.sub("", file.read_text())
