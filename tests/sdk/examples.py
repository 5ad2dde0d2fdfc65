"""``python -m tests.sdk.examples [NAME…]``: runs the examples as their pages say, against a stack of its own.

``examples/README.md`` says how such a page is written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from local.processes import LocalStackError, free_port
from local.stack import ROOT, Stack
from tests.sdk.environments import Failure, clean_environment, environment, say

EXAMPLES = ROOT / "examples"
SDK = ROOT / "sdk"
PATIENCE_S = 180.0
"""How long a service may take until it listens, and a command until it ends."""
_PORT = re.compile(r"\b80(?:8[1-9]|9[0-9])\b")
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANYTHING = "…"


@dataclass(frozen=True)
class Command:
    """A command of a page, and what it prints there."""

    line: str
    prints: str


@dataclass(frozen=True)
class Example:
    """One folder of ``examples/``: commands that go on, and commands that end."""

    name: str
    services: tuple[Command, ...]
    calls: tuple[Command, ...]

    @classmethod
    def of(cls, folder: Path) -> Example:
        page = (folder / "README.md").read_text()
        return cls(folder.name, commands_of(page, "Run it"), commands_of(page, "Call it"))

    @property
    def requirements(self) -> Path | None:
        file = EXAMPLES / self.name / "requirements.txt"
        return file if file.exists() else None


def commands_of(page: str, heading: str) -> tuple[Command, ...]:
    """The commands in the console blocks of a section, each with the lines that follow it."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found: list[Command] = []
    for block in _BLOCK.findall(section):
        # A command goes on in the next line after a backslash.
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, prints = re.sub(r"\\\n\s*(?:> )?", "", part).partition("\n")
            found.append(Command(line, prints.strip()))
    return tuple(found)


def examples() -> list[Example]:
    return [Example.of(page.parent) for page in sorted(EXAMPLES.glob("*/README.md"))]


class Ports:
    """A free port for each one that a page names: the same one wherever it is named."""

    def __init__(self) -> None:
        self._free: dict[str, str] = {}

    def rewrite(self, text: str) -> str:
        return _PORT.sub(lambda port: self._free.setdefault(port[0], str(free_port())), text)

    def restore(self, text: str) -> str:
        """*text* with the ports that the page names."""
        for named, free in self._free.items():
            text = re.sub(rf"\b{free}\b", named, text)
        return text


def main() -> int:
    known = {example.name: example for example in examples()}
    parser = argparse.ArgumentParser(prog="python3 dev.py examples", description="Run the examples.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    chosen: list[str] = parser.parse_args().names or list(known)
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"there is no example {unknown[0]!r}, only {', '.join(known)}")
    ports = Ports()
    backends = json.loads(ports.rewrite((EXAMPLES / "backends.json").read_text()))
    failed: list[str] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="examples-") as directory,
            Stack(Path(directory, "stack"), backends=backends) as stack,
        ):
            for name in chosen:
                began_s = time.monotonic()
                try:
                    run(known[name], stack, ports, Path(directory))
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


def run(example: Example, stack: Stack, ports: Ports, directory: Path) -> None:
    """Start its services, make its calls, compare what they print.

    Raises:
        Failure: a service did not start, or a call failed or printed something else.
    """
    variables = {**clean_environment(), "BACKBONE_URL": stack.url, "BACKBONE_KEY": stack.key, "COLUMNS": "120"}
    variables["PATH"] = f"{python_of(example).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with ExitStack() as services:
        for number, command in enumerate(example.services):
            log = directory / f"{example.name}-{number}.log"
            services.enter_context(going_on(ports.rewrite(command.line), variables, log))
        for command in example.calls:
            printed = ports.restore(printed_by(ports.rewrite(command.line), variables))
            if not matches(command.prints, printed):
                logs = "\n".join(log.read_text() for log in sorted(directory.glob(f"{example.name}-*.log")))
                raise Failure(f"$ {command.line}\nprinted\n{printed}\nand not\n{command.prints}\n{logs}")


def python_of(example: Example) -> Path:
    """The Python that runs the example: the repository's own, or one with what the example needs."""
    if example.requirements is None:
        return Path(sys.executable)
    requirements = [example.requirements, f"-e{SDK}[async]"]
    return environment(f"example-{example.name}", sys.executable, requirements)


def printed_by(line: str, variables: Mapping[str, str]) -> str:
    command = ["bash", "-euo", "pipefail", "-c", line]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"$ {line}\ntook over {PATIENCE_S:g} s") from None
    if done.returncode != 0:
        raise Failure(f"$ {line}\nended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def matches(expected: str, printed: str) -> bool:
    """Whether something printed is what a page says, where ``…`` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in normal(expected).split(_ANYTHING))
    return re.fullmatch(pattern, normal(printed), re.DOTALL) is not None


def normal(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@contextmanager
def going_on(line: str, variables: Mapping[str, str], log: Path) -> Generator[None]:
    """Run a command as in a terminal of its own; at the end, Ctrl-C.

    Raises:
        Failure: it does not listen at ``PORT``, or at the first port that its line names.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", line],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        until_listening(process, line, log)
        yield
    finally:
        # Ctrl-C reaches all processes of the terminal.
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(30)
            except (ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
                continue


def until_listening(process: subprocess.Popen[bytes], line: str, log: Path) -> None:
    told = re.search(r"\bPORT=(\d+)", line) or re.search(r"\b(1\d{4}|20\d{3})\b", line)
    if told is None:
        raise Failure(f"$ {line}\nnames no port from 8081 to 8099")
    deadline_s = time.monotonic() + PATIENCE_S
    while not listens(int(told[1])):
        if process.poll() is not None:
            raise Failure(f"$ {line}\nended with {process.returncode}:\n{log.read_text()}")
        if time.monotonic() > deadline_s:
            raise Failure(f"$ {line}\ndoes not listen at {told[1]}:\n{log.read_text()}")
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    sys.exit(main())
