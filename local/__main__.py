"""``python -m local demo|up``: the commands that ``dev.py`` runs once everything is installed."""

from __future__ import annotations

import argparse
import fcntl
import json
import re
import signal
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from local import demo
from local.processes import LocalStackError
from local.sample_model import SEGMENT_PATH
from local.sample_model.pictures import photograph
from local.stack import ROOT, Stack

PORT = 7071
GATEWAY_PORT = 7080


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py", description="The local stack of the task backbone.")
    commands = parser.add_subparsers(dest="command", required=True)
    demonstration = commands.add_parser("demo", help="send real pictures through a real model and back")
    demonstration.add_argument("--json", action="store_true", help="print JSON lines")
    demonstration.add_argument(
        "--results", type=Path, default=ROOT / "demo-results", help="folder for the result pictures"
    )
    _offer_core_tools(demonstration)
    up = commands.add_parser("up", help="start the stack and keep it running until Ctrl-C")
    up.add_argument("--port", type=int, default=PORT, help=f"the function app's port (default {PORT})")
    up.add_argument(
        "--backend",
        type=_backend,
        action="append",
        default=[],
        metavar="PATH=URL",
        help="register a model service of your own, such as /v1/mine=http://127.0.0.1:8081; in place of the URL, a "
        "JSON object as in BACKENDS; may be repeated",
    )
    up.add_argument(
        "--pipeline",
        type=_pipeline,
        action="append",
        default=[],
        metavar="PATH=STEP,STEP",
        help="give a pipeline a name, such as /v1/count=/v1/text/split,/v1/text/count; may be repeated",
    )
    app = up.add_mutually_exclusive_group()
    _offer_core_tools(app)
    app.add_argument("--without-app", action="store_true", help="start all but the app, which a debugger then starts")
    up.add_argument(
        "--gateway",
        type=int,
        nargs="?",
        const=GATEWAY_PORT,
        metavar="PORT",
        help=f"put the local gateway in front of the app, at this port (default {GATEWAY_PORT})",
    )
    options = parser.parse_args()
    # For both signals, because a shell starts its background jobs with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        if options.command == "demo":
            return demo.run(options.results.resolve(), as_json=options.json, core_tools=options.func)
        backends = dict(options.backend)
        if options.pipeline:
            backends["pipelines"] = dict(options.pipeline)
        return _up(
            options.port,
            backends,
            gateway_port=options.gateway,
            core_tools=options.func,
            with_app=not options.without_app,
        )
    except LocalStackError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def _offer_core_tools(command: argparse._ActionsContainer) -> None:
    command.add_argument("--func", action="store_true", help="run the app under Azure Functions Core Tools")


def _up(port: int, backends: dict[str, object], *, gateway_port: int | None, core_tools: bool, with_app: bool) -> int:
    _refuse_taken_port(port, "--port")
    if gateway_port is not None:
        _refuse_taken_port(gateway_port, "--gateway")
    directory = ROOT / ".local" / "up"
    # Where the examples' services will be, if anybody starts them.
    examples = ROOT / "examples" / "backends.json"
    backends = {**json.loads(examples.read_text()), **backends}
    stack = Stack(
        directory,
        port=port,
        backends=backends,
        gateway_port=gateway_port,
        core_tools=core_tools,
        with_app=with_app,
    )
    with _sole_user(directory), stack:
        try:
            print(_welcome(stack) if with_app else _welcome_debugger(stack, port), flush=True)
            if stack.gateway is not None:
                print(_welcome_caller(stack, stack.gateway.url), flush=True)
            while True:
                stack.check()
                time.sleep(0.5)
        except KeyboardInterrupt:
            print("\nStopping …", flush=True)
            return 0


def _backend(text: str) -> tuple[str, object]:
    path, _, entry = text.partition("=")
    if path.startswith("/") and entry.startswith(("http://", "https://")):
        return path, entry
    try:
        options: object = json.loads(entry)
    except ValueError:
        options = None
    if not path.startswith("/") or not isinstance(options, dict):
        raise argparse.ArgumentTypeError(
            "PATH=URL is expected, such as /v1/mine=http://127.0.0.1:8081, or PATH=JSON as in BACKENDS"
        )
    return path, cast("object", options)


def _pipeline(text: str) -> tuple[str, list[str]]:
    path, _, steps = text.partition("=")
    if not path.startswith("/") or not steps.startswith("/"):
        raise argparse.ArgumentTypeError(
            "PATH=STEP,STEP is expected, such as /v1/count=/v1/text/split,/v1/text/count"
        )
    return path, re.split(r"\s*,\s*(?=/)", steps)


def _refuse_taken_port(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise LocalStackError(
                f"Port {port} is taken: stop the program that listens there, or give another {option}."
            ) from None


@contextmanager
def _sole_user(directory: Path) -> Generator[None]:
    """Keeps a second stack off the data in *directory*: two would corrupt it."""
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalStackError("The stack is up already: stop it first.") from None
        yield


def _welcome(stack: Stack) -> str:
    assert stack.model is not None
    key = f"-H 'x-functions-key: {stack.key}'"
    photo = photograph("china.jpg")
    return f"""
The stack is up. Ctrl-C stops all of it; its data and logs are in {stack.directory.relative_to(ROOT)}/.

  function app   {stack.url}/api
  key            {stack.key}
  sample model   {stack.model.url}{SEGMENT_PATH}
  Event Grid     {stack.event_grid_url}/control/stats
  Redis          {stack.redis.url}
  Azurite        {stack.azurite.url}

Try:

  curl -i {key} -H 'Content-Type: image/jpeg' --data-binary @{photo} '{stack.url}/api/v1/submit{SEGMENT_PATH}'
  curl -i {key} '{stack.url}/api/v1/tasks/TASK_ID?wait=30'
  curl {key} '{stack.url}/api/v1/tasks/TASK_ID/result' -o segments.png
  curl {key} '{stack.url}/api/v1/queues/'
  curl '{stack.url}/api/v1/health'
"""


def _welcome_caller(stack: Stack, url: str) -> str:
    directory = stack.directory.relative_to(ROOT)
    photo = photograph("china.jpg")
    header = f'-H "Ocp-Apim-Subscription-Key: {stack.subscription_key}"'
    return f"""Through the gateway, as a caller with a subscription:

  gateway            {url}
  subscription key   {stack.subscription_key} ({directory}/subscription-key)
  operator's key     {directory}/operator-key

  curl -i {header} -H 'Content-Type: image/jpeg' --data-binary @{photo} '{url}/api/v1/submit{SEGMENT_PATH}'
  curl -i {header} '{url}/api/v1/tasks/TASK_ID?wait=30'
"""


def _welcome_debugger(stack: Stack, port: int) -> str:
    file = stack.directory / "app.env"
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}='{value}'\n" for name, value in stack.app_environment.items()))
    shown = file.relative_to(ROOT)
    return f"""
The stack is up without the app. Ctrl-C stops it; its data and logs are in {stack.directory.relative_to(ROOT)}/.

Start the app with the settings of {shown}: in Visual Studio Code by F5 ("The app"), or

  set -a; . {shown}; set +a; .venv/bin/python -m local.functions_host --port {port}

Event Grid finds the app within a second. The app's key is in {stack.directory.relative_to(ROOT)}/key.
"""


if __name__ == "__main__":
    sys.exit(main())
