"""Commands as pages print them: found, run, and held to what stands below them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local.processes import free_port
from tests.sdk.environments import Failure
from tests.waiting import eventually

PATIENCE_S = 180.0
"""How long a service may take until it listens, and a command until it ends."""
_STOP_S = 60.0
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PORT = re.compile(r"\b80(?:8[1-9]|9[0-9])\b")
_ANYTHING = "…"


@dataclass(frozen=True)
class Command:
    """A command of a page, and what it prints there."""

    line: str
    prints: str = ""


def commands_in(text: str) -> tuple[Command, ...]:
    """The commands in the console blocks of a page, each with the lines that follow it."""
    found: list[Command] = []
    for block in _BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            # A command goes on in the next line after a backslash.
            line, _, prints = re.sub(r"\\\n\s*(?:> )?", "", part).partition("\n")
            found.append(Command(line, prints.strip()))
    return tuple(found)


class Ports:
    """A free port for each one from 8081 to 8099 that a page names: the same one wherever it is named."""

    def __init__(self) -> None:
        self._free: dict[str, str] = {}

    def rewrite(self, text: str) -> str:
        return _PORT.sub(self._free_one, text)

    def restore(self, text: str) -> str:
        """*text* with the ports that the page names."""
        for named, free in self._free.items():
            text = re.sub(rf"\b{free}\b", named, text)
        return text

    def _free_one(self, port: re.Match[str]) -> str:
        if port[0] not in self._free:
            self._free[port[0]] = str(free_port())
        return self._free[port[0]]


@dataclass(frozen=True)
class Terminal:
    """Where commands are run: a folder, variables, and free ports in place of those that the page names."""

    folder: Path
    variables: Mapping[str, str]
    ports: Ports

    def call(self, command: Command) -> None:
        """Run a command that ends.

        Raises:
            Failure: it failed, or printed something else than stands below it.
        """
        line = self.ports.rewrite(command.line)
        bash = ["bash", "-euo", "pipefail", "-c", line]
        try:
            done = subprocess.run(
                bash,
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"$ {command.line}\ntook over {PATIENCE_S:g} s") from None
        printed = self.ports.restore(done.stdout)
        if done.returncode != 0:
            raise Failure(f"$ {command.line}\nended with {done.returncode}:\n{printed}")
        if not matches(command.prints, printed):
            raise Failure(f"$ {command.line}\nprinted\n{printed}\nand not\n{command.prints}")

    @contextmanager
    def going_on(self, command: Command, log: Path) -> Generator[None]:
        """Run a command as in a terminal of its own; at the end, Ctrl-C.

        Raises:
            Failure: it does not listen at ``PORT``, or at the first port that its line names.
        """
        line = self.ports.rewrite(command.line)
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", line],
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            _until_listening(process, line, log)
            yield
        except Failure as failure:
            raise Failure(f"{failure}\n$ {command.line}\nprinted\n{log.read_text()}") from None
        finally:
            _interrupt(process)


def matches(expected: str, printed: str) -> bool:
    """Whether something printed is what a page says, where ``…`` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in _normal(expected).split(_ANYTHING))
    return re.fullmatch(pattern, _normal(printed), re.DOTALL) is not None


def _normal(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, which reaches all processes of a terminal; then none of them is left."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_STOP_S)
        except (ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
            continue


def _until_listening(process: subprocess.Popen[bytes], line: str, log: Path) -> None:
    told = re.search(r"\bPORT=(\d+)", line) or re.search(r"\b(1\d{4}|20\d{3})\b", line)
    if told is None:
        raise Failure(f"$ {line}\nnames no port from 8081 to 8099")
    port = int(told[1])
    eventually(lambda: _listens(port) or process.poll() is not None)
    if process.poll() is not None:
        raise Failure(f"$ {line}\nended with {process.returncode}:\n{log.read_text()}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
