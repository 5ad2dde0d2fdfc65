"""``dev.py up``: keeps the local stack up, and shows the tasks as they move."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shlex
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from local.processes import LocalStackError
from local.sample_model import SEGMENT_PATH
from local.sample_model.pictures import photograph
from local.stack import ROOT, Stack

_POLL_INTERVAL_S = 0.2


def run(options: argparse.Namespace) -> int:
    """Start the stack, and keep it up until a Ctrl-C.

    Raises:
        LocalStackError: it is up already, a part does not start, or a part has ended by itself.
    """
    directory = ROOT / ".local" / "up"
    own = dict(options.backend)
    pipelines = dict(options.pipeline)
    # Where the examples' services will be, if anybody starts them.
    examples = json.loads((ROOT / "examples" / "backends.json").read_text())
    directory.mkdir(parents=True, exist_ok=True)
    with _sole_user(directory, options.port):
        _refuse_taken_port(options.port, "--port")
        if options.gateway is not None:
            _refuse_taken_port(options.gateway, "--gateway")
        stack = Stack(
            directory,
            port=options.port,
            # As Core Tools have it: the app logs each transition then.
            settings={"AZURE_FUNCTIONS_ENVIRONMENT": "Development", **dict(options.set)},
            backends={**examples, **own, **({"pipelines": pipelines} if pipelines else {})},
            gateway_port=options.gateway,
            core_tools=options.func,
            with_app=not options.without_app,
        )
        with stack:
            try:
                print(_welcome_debugger(stack, options.port) if options.without_app else _welcome(stack), flush=True)
                if own or pipelines:
                    print(_registered(own, pipelines), flush=True)
                if stack.gateway is not None:
                    print(_welcome_caller(stack, stack.gateway.url), flush=True)
                if not options.without_app:
                    print("Each step of a task will be a line here.\n", flush=True)
                _follow(stack)
            except KeyboardInterrupt:
                print("\nStopping …", flush=True)
        return 0


def _follow(stack: Stack) -> None:
    """Show what the app logs about tasks, until a part ends."""
    moves = TaskMoves(stack.host.log_path)
    while True:
        for line in moves.new():
            print(line, flush=True)
        stack.check()
        time.sleep(_POLL_INTERVAL_S)


class TaskMoves:
    """A line for each thing that the app has logged about a task, from now on.

    The log may be that of the development host or of Core Tools.
    """

    _TASK = re.compile(
        r"(?P<date>\d{4}-\d\d-\d\d)[ T](?P<time>\d\d:\d\d:\d\d)\S* .*?\b(?P<what>task [0-9a-f-]{36} at /.*)"
    )

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read_bytes = log.stat().st_size if log.exists() else 0
        self._rest = b""

    def new(self) -> list[str]:
        if not self._log.exists():
            return []
        with self._log.open("rb") as log:
            log.seek(self._read_bytes)
            read = log.read()
        self._read_bytes += len(read)
        *lines, self._rest = (self._rest + read).split(b"\n")
        found = [self._TASK.search(line.decode(errors="replace")) for line in lines]
        # A path is the caller's, and a terminal obeys some characters.
        return [
            "".join(character for character in f"{move['time']}  {move['what']}" if character.isprintable())
            for move in found
            if move
        ]


def _refuse_taken_port(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise LocalStackError(f"Port {port} is for root alone: give another {option}, above 1023.") from None
        except OSError:
            raise LocalStackError(
                f"Port {port} is taken: stop the program that listens there, or give another {option}."
            ) from None


@contextmanager
def _sole_user(directory: Path, port: int) -> Generator[None]:
    """Keeps a second stack off the data in *directory*: two would corrupt it. The lock's file says who has it."""
    with (directory / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid, _, its_port = lock.read().strip().partition(" ")
            who = f", as process {pid} at port {its_port}" if its_port else ""
            raise LocalStackError(
                f"The stack is up already{who}: stop it first, by Ctrl-C or kill {pid or 'PID'}."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()} {port}\n")
        lock.flush()
        yield


def curl(header: str, *rest: str) -> str:
    return f"  curl {'-i ' if '-o' not in rest else ''}-H {shlex.quote(header)} {shlex.join(rest)}"


def curl_submit(header: str, url: str) -> str:
    photo = f"@{photograph('china.jpg')}"
    content_type = ("-H", "Content-Type: image/jpeg")
    return curl(header, *content_type, "--data-binary", photo, f"{url}/api/v1/submit{SEGMENT_PATH}")


def _welcome(stack: Stack) -> str:
    assert stack.model is not None
    key = f"x-functions-key: {stack.key}"
    return f"""
The stack is up. Ctrl-C stops all of it; its data and logs are in {stack.directory}/.

  console        {stack.console_url("operate")}
  function app   {stack.url}/api
  key            {stack.key}
  sample model   {stack.model.url}{SEGMENT_PATH}
  Event Grid     {stack.event_grid_url}/control/stats
  Redis          {stack.redis.url}
  Azurite        {stack.azurite.url}

Try:

{curl_submit(key, stack.url)}
{curl(key, f"{stack.url}/api/v1/tasks/TASK_ID?wait=30")}
{curl(key, f"{stack.url}/api/v1/tasks/TASK_ID/result", "-o", "segments.png")}
{curl(key, f"{stack.url}/api/v1/queues/")}
  curl {stack.url}/api/v1/health
"""


def _registered(own: dict[str, object], pipelines: dict[str, list[str]]) -> str:
    lines = ["Registered on top of the examples' services and the sample model:", ""]
    for path, entry in own.items():
        options = cast(
            "dict[str, Any]", {"url": entry} if isinstance(entry, str) else {**cast("dict[str, Any]", entry)}
        )
        url = options.pop("url")
        shown = ", ".join(f"{name} {json.dumps(value)}" for name, value in options.items())
        lines.append(f"  {path}   {url}{f'   {shown}' if shown else ''}")
    lines += [f"  {path}   {' → '.join(steps)}" for path, steps in pipelines.items()]
    return "\n".join([*lines, ""])


def _welcome_caller(stack: Stack, url: str) -> str:
    header = f"Ocp-Apim-Subscription-Key: {stack.subscription_key}"
    return f"""Through the gateway, as a caller with a subscription:

  gateway            {url}
  subscription key   {stack.subscription_key} (also in {stack.directory}/subscription-key)
  operator's key     in {stack.directory}/operator-key

{curl_submit(header, url)}
{curl(header, f"{url}/api/v1/tasks/TASK_ID?wait=30")}
"""


def _welcome_debugger(stack: Stack, port: int) -> str:
    file = stack.directory / "app.env"
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={_quoted(value)}\n" for name, value in stack.app_environment.items()))
    folder, settings = shlex.quote(str(ROOT)), shlex.quote(str(file))
    command = f"cd {folder}; set -a; . {settings}; set +a; .venv/bin/python -m local.functions_host --port {port}"
    return f"""
The stack is up without the app. Ctrl-C stops it; its data and logs are in {stack.directory}/.

Start the app with the settings of {file}: in Visual Studio Code by F5 ("The app"), or

  {command}

Event Grid finds the app within a second. The app's key is in {stack.directory}/key. The console is then at

  {stack.console_url("operate")}
"""


def _quoted(value: str) -> str:
    """A value as a shell and the editor read it: in single quotes, with none inside as far as JSON can do without."""
    if value.startswith("{"):
        value = value.replace("'", "\\u0027")
    quoted = value.replace("'", "'\"'\"'")
    return f"'{quoted}'"
