"""``python -m tests.sdk.examples [NAME…]``: runs the examples, and the code on the SDK's pages, as they are printed.

They all run against one stack. ``examples/README.md`` says how an example is written, and ``Page`` how a page is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.azurite import find_node
from local.processes import LocalStackError
from local.stack import ROOT, Stack
from tests.sdk import package
from tests.sdk.commands import Command, Ports, Terminal, commands_in
from tests.sdk.environments import Failure, clean_environment, environment, say

EXAMPLES = ROOT / "examples"
PAGES = ("sdk/README.md", "docs/model-services.md", "docs/calling.md")
ALONE = "sdk/README.md"
"""This page is for somebody who has nothing but the SDK."""
_FOR_NOTEBOOKS = ("nbclient>=0.10,<1", "ipykernel>=6.29,<8")
_ANYTHING = "…"
_ELSEWHERE = re.compile(r"(?:python3 dev\.py|git|pip|export|cd|\.|source|python3 -m venv)\s")
"""Commands that were run before: they install, start the stack, or tell where it is."""
_BLOCK = re.compile(r"^([^\n]*)\n\n?```(python|javascript)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BACKEND = re.compile(r"--backend (/\S+)=(http://\S+)")


@dataclass(frozen=True)
class Example:
    """One folder of ``examples/``: commands that go on, and commands that end."""

    name: str

    @property
    def backends(self) -> dict[str, str]:
        """Those of all examples."""
        return json.loads((EXAMPLES / "backends.json").read_text())

    def run(self, variables: Mapping[str, str], ports: Ports, folder: Path) -> None:
        """Start its services and make its calls.

        Raises:
            Failure: a service did not start, or a call failed or printed something else.
        """
        text = (EXAMPLES / self.name / "README.md").read_text()
        terminal = Terminal(ROOT, with_programs_of(self._python(), variables), ports)
        with ExitStack() as services:
            for number, command in enumerate(commands_in(section(text, "Run it"))):
                services.enter_context(terminal.going_on(command, folder / f"{number}.log"))
            for command in commands_in(section(text, "Call it")):
                terminal.call(command)

    def _python(self) -> Path:
        """The Python that runs it: the repository's own, or one with what the example needs."""
        requirements = EXAMPLES / self.name / "requirements.txt"
        if not requirements.exists():
            return Path(sys.executable)
        return environment(f"example-{self.name}", sys.executable, [requirements, f"-e{package.SDK}[async]"])


@dataclass(frozen=True)
class Notebook:
    """A notebook of ``examples/``. Commands in its texts that set ``PORT`` start the services that it calls."""

    name: str

    @property
    def backends(self) -> dict[str, str]:
        """None of its own."""
        return {}

    def run(self, variables: Mapping[str, str], ports: Ports, folder: Path) -> None:
        """Run all of its cells.

        Raises:
            Failure: a service did not start, or a cell failed.
        """
        source = (EXAMPLES / self.name).read_text()
        cells: list[dict[str, Any]] = json.loads(source)["cells"]
        text = "\n".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "markdown")
        here = Terminal(ROOT, with_programs_of(Path(sys.executable), variables), ports)
        python = environment("notebook", sys.executable, [*_FOR_NOTEBOOKS, f"-e{package.SDK}[async]"])
        (folder / self.name).write_text(ports.rewrite(source))
        with ExitStack() as services:
            for number, command in enumerate(commands_in(text)):
                if re.search(r"\bPORT=", command.line):
                    services.enter_context(here.going_on(command, folder / f"{number}.log"))
            there = Terminal(folder, with_programs_of(python, variables), ports)
            there.call(Command(f"jupyter execute --timeout=180 {self.name}", _ANYTHING))


@dataclass(frozen=True)
class Page:
    """A page with code.

    A block of Python or JavaScript is a file if the line before it ends with the file's name, such as `words.py`, and
    a colon. The commands of the page run in a folder with these files, in their order. One that sets ``PORT`` goes on
    to the page's end. Other blocks run as they are, after those of their section that stand before them.
    """

    name: str

    @property
    def text(self) -> str:
        file = ROOT / self.name
        return file.read_text() if file.exists() else ""

    @property
    def backends(self) -> dict[str, str]:
        """The services that the page has registered, by ``dev.py up --backend``."""
        return dict(_BACKEND.findall(self.text))

    def run(self, variables: Mapping[str, str], ports: Ports, folder: Path) -> None:
        """Run all that is on the page.

        Raises:
            Failure: a service did not start, or a command or a block failed or printed something else.
        """
        terminal = Terminal(folder, with_programs_of(self._python(), variables), ports)
        for before, _, source in _BLOCK.findall(self.text):
            if name := file_of(before):
                (folder / name).write_text(ports.rewrite(source))
        with ExitStack() as services:
            for number, command in enumerate(commands_in(self.text)):
                if _ELSEWHERE.match(command.line):
                    continue
                if re.search(r"\bPORT=", command.line):
                    services.enter_context(terminal.going_on(command, folder / f"{number}.log"))
                else:
                    terminal.call(command)
            for number, source in enumerate(fragments(self.text)):
                (folder / f"fragment_{number}.py").write_text(ports.rewrite(source))
                terminal.call(Command(f"python fragment_{number}.py", _ANYTHING))

    def _python(self) -> Path:
        if self.name != ALONE:
            return Path(sys.executable)
        return package.installed("alone", sys.executable, package.build(), package.build(package.TESTING))


def section(page: str, heading: str) -> str:
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def file_of(before: str) -> str:
    """The name of the file that a block is, by the line before it."""
    found = re.search(r"`([\w-]+\.(?:py|mjs))`:?$", before)
    return found[1] if found else ""


def fragments(page: str) -> list[str]:
    """The blocks of Python that are no files: of each section all of them, one after the other."""
    found: list[str] = []
    for part in re.split(r"^#{2,3} ", page, flags=re.MULTILINE):
        sources = [
            source
            for before, language, source in _BLOCK.findall(part)
            if language == "python" and not file_of(before)
        ]
        if sources:
            found.append("\n".join(sources))
    return found


def with_programs_of(python: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """The *variables* with the programs beside this Python on PATH, and Node.js."""
    node, _ = find_node()
    path = [str(python.parent), str(node.parent), os.environ.get("PATH", "")]
    return {**variables, "PATH": os.pathsep.join(path)}


def main() -> int:
    found = [Example(page.parent.name) for page in sorted(EXAMPLES.glob("*/README.md"))]
    pages = [page for page in map(Page, PAGES) if "from taskbackbone import" in page.text]
    notebooks = [Notebook(file.name) for file in sorted(EXAMPLES.glob("*.ipynb"))]
    known: dict[str, Example | Notebook | Page] = {each.name: each for each in (*found, *notebooks, *pages)}
    parser = argparse.ArgumentParser(prog="python3 dev.py examples", description="Run the examples and the pages.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    chosen: list[str] = parser.parse_args().names or list(known)
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"there is no example {unknown[0]!r}, only {', '.join(known)}")
    ports = Ports()
    registered = {path: url for each in known.values() for path, url in each.backends.items()}
    failed: list[str] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="examples-") as directory,
            Stack(Path(directory, "stack"), backends=json.loads(ports.rewrite(json.dumps(registered)))) as stack,
        ):
            variables = {
                **clean_environment(),
                "BACKBONE_URL": stack.url,
                "BACKBONE_KEY": stack.key,
                "COLUMNS": "120",
            }
            for name in chosen:
                folder = Path(directory, name.replace("/", "-"))
                folder.mkdir()
                began_s = time.monotonic()
                try:
                    known[name].run(variables, ports, folder)
                except Failure as failure:
                    failed.append(name)
                    say(f"{name}: {failure}")
                else:
                    say(f"{name}: right ({time.monotonic() - began_s:.0f} s)")
    except LocalStackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    say(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
