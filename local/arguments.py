"""The arguments of ``python -m local``. With the standard library only: ``dev.py`` reads them before it installs."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit

PORT = 7071
GATEWAY_PORT = 7080
_BACKEND = (
    "PATH=URL[,lease_s=N][,limit=N] is expected, such as /v1/mine=http://127.0.0.1:8081, or PATH=JSON as in BACKENDS"
)
_MADE = ("LOCAL_HOST_KEY", "LOCAL_MASTER_KEY", "LOCAL_EVENTGRID_KEY", "LOCAL_FUNCTION_KEYS")
_PATH = re.compile(r"(?:/(?!(?:\.|%2[Ee]){1,2}(?:/|$))(?:[A-Za-z0-9._~:@+,-]|%[0-9A-Fa-f]{2})+)+/?")
"""What the app takes for a path. It says so itself, but only after all is installed and started."""
_OPTION = re.compile(r"\s*,\s*(lease_s|limit)\s*=\s*([^,]*)$")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage around it."""

    def error(self, message: str) -> NoReturn:
        print(f"{message.removeprefix('argument ')} (python3 {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def parse(arguments: list[str]) -> argparse.Namespace:
    """
    Raises:
        SystemExit: the arguments make no sense, which has been said, or ask for help.
    """
    command = next((word for word in arguments if word in ("demo", "up")), "")
    parser = _Parser(prog=f"dev.py {command}".strip(), description="The local stack of the task backbone.")
    commands = parser.add_subparsers(prog="dev.py", dest="command", required=True, parser_class=_Parser)
    demonstration = commands.add_parser(
        "demo", help="send five photographs through a real model, an unsupervised segmentation, and back"
    )
    demonstration.add_argument("--json", action="store_true", help="print JSON lines")
    demonstration.add_argument("--results", metavar="DIR", help="folder for the result pictures")
    _offer_core_tools(demonstration)
    up = commands.add_parser("up", help="start the stack and keep it running until Ctrl-C")
    up.add_argument("--port", type=_port, default=PORT, metavar="N", help=f"the function app's port (default {PORT})")
    up.add_argument(
        "--backend",
        type=_backend,
        action="append",
        default=[],
        metavar="PATH=URL[,lease_s=N][,limit=N]",
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
    up.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="give the app a setting, such as RETENTION_S=3600; may be repeated",
    )
    app = up.add_mutually_exclusive_group()
    _offer_core_tools(app)
    app.add_argument("--without-app", action="store_true", help="start all but the app, which a debugger then starts")
    up.add_argument(
        "--gateway",
        type=_port,
        nargs="?",
        const=GATEWAY_PORT,
        metavar="PORT",
        help=f"put the local gateway in front of the app, at this port (default {GATEWAY_PORT})",
    )
    return parser.parse_args(arguments)


def _offer_core_tools(command: argparse._ActionsContainer) -> None:
    command.add_argument("--func", action="store_true", help="run the app under Azure Functions Core Tools")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text} is no port: a number from 1 to 65535 is expected")
    return int(text)


def _backend(text: str) -> tuple[str, object]:
    """Returns the path, and the entry of ``BACKENDS``."""
    path, _, entry = text.partition("=")
    if not path.startswith("/"):
        raise argparse.ArgumentTypeError(f"{path} does not begin with /: {_BACKEND}")
    if not _PATH.fullmatch(path):
        raise argparse.ArgumentTypeError(f"{path} is no path of an endpoint, such as /v1/mine")
    if entry.startswith("{"):
        return path, _json_object(entry)
    options: dict[str, object] = {}
    while option := _OPTION.search(entry):
        options[option[1]] = _positive(option[1], option[2])
        entry = entry[: option.start()]
    if not _is_url(entry):
        raise argparse.ArgumentTypeError(f"{entry or text} is no address of a model service: {_BACKEND}")
    return path, {"url": entry, **options} if options else entry


def _json_object(text: str) -> object:
    try:
        entry: object = json.loads(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no JSON: {_BACKEND}") from None
    url = cast("dict[str, Any]", entry).get("url")
    if not isinstance(url, str) or not _is_url(url):
        raise argparse.ArgumentTypeError(f'{text} has no "url" that is the address of a model service')
    return entry


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and "," not in text
    except ValueError:  # such as a port of 80000
        return False


def _positive(name: str, text: str) -> float | int:
    is_whole = text.isascii() and text.isdigit()
    if not (is_whole or (name == "lease_s" and re.fullmatch(r"\d*\.\d+", text, re.ASCII))) or not float(text):
        expected = "a number of seconds" if name == "lease_s" else "a whole number"
        raise argparse.ArgumentTypeError(f"{name}={text} makes no sense: {expected} above 0 is expected")
    return int(text) if is_whole else float(text)


def _pipeline(text: str) -> tuple[str, list[str]]:
    path, _, steps = text.partition("=")
    if not path.startswith("/") or not steps.startswith("/"):
        raise argparse.ArgumentTypeError(
            "PATH=STEP,STEP is expected, such as /v1/count=/v1/text/split,/v1/text/count"
        )
    return path, re.split(r"\s*,\s*(?=/)", steps)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or "\0" in value:
        raise argparse.ArgumentTypeError(f"{text} is no setting: NAME=VALUE is expected, such as RETENTION_S=3600")
    if name == "BACKENDS":
        raise argparse.ArgumentTypeError("BACKENDS is made of --backend and --pipeline: use these")
    if name in _MADE:
        raise argparse.ArgumentTypeError(f"{name} is the stack's own: it is in .local/up/key")
    return name, value
