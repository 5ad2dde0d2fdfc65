"""The commands that a reader or a workflow is told to run: found in the docs, the workflows and the scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from local.stack import ROOT

PROGRAMS = ("az", "azd", "docker", "func", "helm", "kubectl")
KNOWN = Path(__file__).with_suffix(".json")
"""What the programs have that nothing here can be asked about, each with its source and the date of that."""

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(rf"`((?:{'|'.join(PROGRAMS)}) [^`]+)`")
_WORD = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_BEFORE_A_COMMAND = {"exec", "nice", "sudo", "time", "xargs"}
"""What stands before the name of a program that it runs."""


@dataclass(frozen=True)
class Use:
    """One call of a program: ``words`` are all before its first option, the command and maybe its arguments."""

    program: str
    words: tuple[str, ...]
    options: tuple[str, ...]
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {' '.join((self.program, *self.words, *self.options))}"


def uses(root: Path = ROOT) -> list[Use]:
    """Every call in the repository."""
    return [use for text, where in shell_texts(root) for use in uses_in(text, where)]


def shell_texts(root: Path) -> Iterator[tuple[str, str]]:
    """Each piece of shell, and the file that has it."""
    pages = [
        *root.glob("*.md"),
        *(file for folder in ("docs", "infra", "charts") for file in root.glob(f"{folder}/**/*.md")),
    ]
    for page in sorted(pages):
        name = str(page.relative_to(root))
        text = page.read_text()
        for indent, language, block in _BLOCK.findall(text):
            lines = "".join(line.removeprefix(indent) for line in block.splitlines(keepends=True))
            if language == "console":
                yield from ((command, name) for command in typed(lines))
            elif language in ("sh", "bash", "shell"):
                yield lines, name
        yield from ((found.replace("\n", " "), name) for found in _INLINE.findall(_BLOCK.sub("", text)))
    for file in sorted(root.glob(".github/workflows/*.yml")):
        jobs = yaml.safe_load(file.read_text())["jobs"].values()
        yield from (
            (step["run"], str(file.relative_to(root))) for job in jobs for step in job["steps"] if "run" in step
        )
    for file in sorted(root.glob("infra/**/*.sh")):
        yield file.read_text(), str(file.relative_to(root))
    if (root / "azure.yaml").exists():
        yield from ((text, "azure.yaml") for text in runs(yaml.safe_load((root / "azure.yaml").read_text())))


def runs(node: Any) -> Iterator[str]:
    """The commands of azd's hooks, wherever they are."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from [value] if name == "run" and isinstance(value, str) else runs(value)
    elif isinstance(node, list):
        for value in node:
            yield from runs(value)


def typed(block: str) -> Iterator[str]:
    """The commands of a console block, each with the lines that continue it, without what they answer."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        size = 1
        while size < len(lines) and is_open("\n".join(lines[:size])):
            size += 1
        yield "\n".join(lines[:size])


def is_open(command: str) -> bool:
    """Whether a command goes on in the next line."""
    return command.endswith("\\") or has_error(command)


def uses_in(text: str, where: str) -> Iterator[Use]:
    """The calls in a piece of shell, those in substitutions and strings too."""
    stack = [parsed(text).root_node]
    while stack:
        node = stack.pop()
        stack.extend(reversed(node.children))
        if node.type != "command":
            continue
        words = [child.text.decode() for child in node.children if child.type != "variable_assignment"]
        while words and words[0] in _BEFORE_A_COMMAND:
            del words[0]
        if words and words[0] in PROGRAMS:
            yield use_of(words[0], words[1:], where)


def use_of(program: str, arguments: list[str], where: str) -> Use:
    if "--" in arguments:  # what follows belongs to another program
        arguments = arguments[: arguments.index("--")]
    if program == "docker" and arguments[:1] == ["run"]:
        arguments = before_the_image(arguments)
    plain: list[str] = []
    for argument in arguments:
        if not _WORD.fullmatch(argument):
            break
        plain.append(argument)
    options = [argument.partition("=")[0] for argument in arguments if re.match(r"--?[A-Za-z]", argument)]
    if program in ("docker", "kubectl"):  # -it is -i and -t
        options = [each for option in options for each in split(option)]
    return Use(program, tuple(plain), tuple(options), where)


def before_the_image(arguments: list[str]) -> list[str]:
    """The arguments of ``docker run`` up to the image: what follows is the command in the container."""
    flags = {"--rm", "--detach", "-d", "-i", "-t", "-it", "--interactive", "--tty", "--init", "--read-only"}
    position = 1
    while position < len(arguments) and arguments[position].startswith("-"):
        has_value = arguments[position] not in flags and "=" not in arguments[position]
        position += 2 if has_value else 1
    return arguments[:position]


def split(option: str) -> list[str]:
    return [option] if option.startswith("--") else [f"-{letter}" for letter in option[1:]]


@cache
def known() -> dict[str, dict[str, Any]]:
    return json.loads(KNOWN.read_text())


def listed(use: Use) -> tuple[str, set[str]] | None:
    """The command of a call and the options it has, by the list."""
    program = known()[use.program]
    commands: dict[str, str] = program["commands"]
    for size in range(len(use.words), 0, -1):
        name = " ".join(use.words[:size])
        if name in commands:
            return name, {*commands[name].split(), *program["everywhere"].split()}
    return None


def has_error(text: str) -> bool:
    return parsed(text).root_node.has_error


def parsed(text: str) -> Any:
    return _parser().parse(text.encode())


@cache
def _parser() -> Any:
    import tree_sitter  # pyright: ignore[reportMissingImports]
    import tree_sitter_bash  # pyright: ignore[reportMissingImports]

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))
