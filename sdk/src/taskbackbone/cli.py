"""The command line: ``python -m taskbackbone``, or ``taskbackbone``.

What a command makes goes to the standard output, and what happens meanwhile to the standard error. Exit codes: 0; 1
if a task failed or the backbone refused; 2 for usage; 3 if the backbone cannot be reached; 4 if the time was up.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import __version__, errors
from ._calls import Deadline, TaskView
from .client import Task, TaskClient

FAILED, USAGE, UNREACHABLE, TIMED_OUT, INTERRUPTED = 1, 2, 3, 4, 130
_BAR_CHARS = 24
_ELSEWHERE = {
    "serve": ("service", "serve", "run a service, such as words:service"),
    "sidecar": ("sidecar", "main", "make any HTTP server a task service"),
    "check": ("check", "main", "check whether a model service keeps the rules"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in _ELSEWHERE:
        module, name, _ = _ELSEWHERE[arguments[0]]
        try:
            return getattr(importlib.import_module("." + module, __package__), name)(arguments[1:])
        except ModuleNotFoundError as error:
            if error.name != f"{__package__}.{module}":
                raise
            return _say(f"{module} is in another package: pip install taskbackbone-testing", USAGE)
    parser, commands = _parsers()
    options = parser.parse_args(arguments)
    if options.command == "completion":
        sys.stdout.write(_completion(options.shell, commands))
        return 0
    try:
        # The key comes from the environment alone: others can read a command line.
        with TaskClient(options.url, retry_for_s=options.retry_for) as client:
            code = _COMMANDS[options.command](client, options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except errors.WaitTimeout as error:
        return _say(error, TIMED_OUT)
    except errors.Unreachable as error:
        return _say(error, UNREACHABLE)
    except errors.BackboneError as error:
        return _say(error, FAILED)
    except (ValueError, OSError) as error:
        return _say(error, USAGE)


def _submit(client: TaskClient, options: argparse.Namespace) -> int:
    query = [tuple(pair.partition("=")[::2]) for pair in options.query]
    files = list(_files(options.file))
    if options.idempotency_key and len(files) > 1:
        raise ValueError("An idempotency key is for one file.")
    tasks: list[tuple[str, Task]] = []
    for file in files:
        task = client.submit(
            options.path,
            file or sys.stdin.buffer,
            content_type=options.content_type,
            query=query,
            priority=options.priority,
            pipeline=options.pipeline,
            idempotency_key=options.idempotency_key,
        )
        tasks.append((file.name if file else "", task))
        if options.output:
            sys.stderr.write(f"{task.id}  {tasks[-1][0]}".rstrip() + "\n")
        else:
            _print(task, options, task.id)
    return _follow(tasks, options) if options.wait or options.output else 0


def _follow(tasks: Sequence[tuple[str, Task]], options: argparse.Namespace) -> int:
    """Wait for the ends of *tasks*, and save their results if they are to be."""
    deadline, code = Deadline(options.timeout), 0
    for number, (name, task) in enumerate(tasks, 1):
        label = f"{number}/{len(tasks)} {name or task.id} " if len(tasks) > 1 else ""
        progress = _Progress(label, is_quiet=options.json)
        try:
            progress.show(task)
            task.wait(None if options.timeout is None else deadline.left_s(), progress.show)
        finally:
            progress.end()
        if options.json:
            _print(task, options, "")
        if task.state != "completed":
            code = FAILED if options.json else _say(label + task.status, FAILED)
        elif options.output:
            _save(task, options, name if len(tasks) > 1 else "")
    return code


def _save(task: Task, options: argparse.Namespace, name: str) -> None:
    target = Path(options.output)
    if name:
        target.mkdir(parents=True, exist_ok=True)
    saved = task.result().save(target)
    if name:
        saved = saved.replace(saved.with_name(name + saved.suffix))
    if not options.json:
        sys.stdout.write(f"{saved}\n")


def _result(client: TaskClient, options: argparse.Namespace) -> int:
    result = client.task(options.id[0]).result(options.timeout)
    if options.output:
        sys.stdout.write(f"{result.save(options.output)}\n")
        return 0
    is_text = result.content_type.startswith("text/") or "json" in result.content_type
    if sys.stdout.isatty() and not is_text:
        raise ValueError(f"The result is {result.content_type}: name a file for it with --output.")
    sys.stdout.flush()
    for part in result:
        sys.stdout.buffer.write(part)
    return 0


def _cancel(client: TaskClient, options: argparse.Namespace) -> int:
    for one in options.id:
        task = client.task(one).cancel()
        _print(task, options, f"{task.id}  {task.state}")
    return 0


def _replay(client: TaskClient, options: argparse.Namespace) -> int:
    for one in options.id:
        task = client.task(one).replay()
        _print(task, options, f"{task.id}  {task.state}  attempt {task.attempt}")
    return 0


def _list(client: TaskClient, options: argparse.Namespace) -> int:
    tasks = client.tasks(options.path, options.status, page_size=min(200, max(1, options.limit)))
    for _, task in zip(range(options.limit), tasks):
        created = str(task.document.get("CreatedAt", ""))[:19]
        _print(task, options, f"{task.id}  {task.state:<9}  {created}  {task.path}  {_plain(task.status, 60)}")
    return 0


def _queues(client: TaskClient, options: argparse.Namespace) -> int:
    queues = [client.queue(options.path)] if options.path else client.queues()
    for queue in queues:
        if options.json:
            sys.stdout.write(json.dumps(queue) + "\n")
            continue
        notes = [word for word in ("Paused", "Draining", "Outage") if queue.get(word)]
        numbers = f"{queue['Waiting']:>7} waiting {queue['InFlight']:>5} in flight {queue['Slots']:>5} slots"
        sys.stdout.write(f"{numbers}  {queue['EndpointPath']}  {' '.join(notes).lower()}".rstrip() + "\n")
    return 0


_COMMANDS: dict[str, Callable[[TaskClient, argparse.Namespace], int]] = {
    "submit": _submit,
    "watch": lambda client, options: _follow([("", client.task(one)) for one in options.id], options),
    "result": _result,
    "cancel": _cancel,
    "replay": _replay,
    "list": _list,
    "queues": _queues,
}


def _files(names: Sequence[str]) -> Iterator[Path | None]:
    """The files to submit, those of folders included; None for the standard input."""
    for name in names:
        path = Path(name)
        if name == "-":
            yield None
        elif path.is_dir():
            found = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
            if not found:
                raise ValueError(f"There is no file in {name}.")
            yield from found
        elif not path.exists():
            raise ValueError(f"There is no file {name}.")
        else:
            yield path


def _print(task: Task, options: argparse.Namespace, line: str) -> None:
    sys.stdout.write((json.dumps(task.document) if options.json else line) + "\n")
    sys.stdout.flush()


def _say(error: object, code: int) -> int:
    sys.stderr.write(f"taskbackbone: {_plain(str(error), 1_000)}\n")
    return code


def _plain(text: str, length: int) -> str:
    """One line of at most *length* characters, with nothing in it that a terminal would obey."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= length else line[: max(0, length - 1)] + "…"


class _Progress:
    """How a task goes on: on a terminal a bar that changes, elsewhere a line for each change."""

    def __init__(self, label: str, *, is_quiet: bool) -> None:
        self._label = label
        self._is_quiet = is_quiet
        self._is_live = sys.stderr.isatty()
        self._last = ""

    def show(self, task: TaskView) -> None:
        text = self._label + _line(task, bar=self._is_live)
        if self._is_quiet or text == self._last:
            return
        self._last = text
        if self._is_live:
            text = "\r\x1b[K" + _plain(text, shutil.get_terminal_size().columns - 1)
        else:
            text = _plain(text, 1_000) + "\n"
        sys.stderr.write(text)
        sys.stderr.flush()

    def end(self) -> None:
        if self._is_live and self._last:
            sys.stderr.write("\n")


def _line(task: TaskView, *, bar: bool) -> str:
    step = f"step {task.step} of {task.steps}, " if task.steps and not task.is_finished else ""
    if task.queue_position is not None:
        return f"{step}waiting, position {task.queue_position}" + _start(task)
    done = 1.0 if task.state == "completed" else task.progress
    parts = [] if done is None else [f"{done:>4.0%}"]
    if bar and done is not None:
        full = round(_BAR_CHARS * done)
        parts.insert(0, "█" * full + "░" * (_BAR_CHARS - full))
    return " ".join([*parts, step + task.status])


def _start(task: TaskView) -> str:
    start = task.estimated_start
    if start is None:
        return ""
    left_s = max(0.0, start.timestamp() - time.time())
    left = f"{left_s:.0f} s" if left_s < 100 else f"{left_s / 60:.0f} min"
    return f", starts at about {start.astimezone():%H:%M:%S}, in {left}"


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The whole parser, and those of its commands."""
    own: dict[str, argparse.ArgumentParser] = {}
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", help="the backbone's URL (BACKBONE_URL); its key is in BACKBONE_KEY")
    common.add_argument("--json", action="store_true", help="print JSON, an object a line")
    common.add_argument(
        "--retry-for", type=float, default=30.0, metavar="S", help="how long an outage is borne (default: 30)"
    )
    waiting = argparse.ArgumentParser(add_help=False)
    waiting.add_argument("--timeout", type=float, metavar="S", help="wait no longer")
    saving = argparse.ArgumentParser(add_help=False)
    saving.add_argument("-o", "--output", metavar="FILE|DIR", help="save the result there")

    parser = argparse.ArgumentParser(prog="taskbackbone", description="Submit tasks to the backbone, and serve them.")
    parser.add_argument("--version", action="version", version=f"taskbackbone {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str, *parents: argparse.ArgumentParser) -> Any:
        own[name] = commands.add_parser(name, help=text, description=text, parents=[common, *parents])
        return own[name].add_argument

    add = command("submit", "submit files as tasks, and print their ids", waiting, saving)
    add("path", metavar="PATH", help="the endpoint, such as /v1/words/count")
    add("file", metavar="FILE|DIR|-", nargs="+", help="each file is a task; a folder is all files in it")
    add("--query", metavar="NAME=VALUE", action="append", default=[], help="a parameter for the model service")
    add("--content-type", metavar="TYPE", help="of the files (default: by their names)")
    add("--pipeline", metavar="PATH", action="append", help="where it goes on afterwards; may be repeated")
    add("--priority", type=int, choices=range(10), help="9 goes first (default: 5)")
    add("--idempotency-key", metavar="KEY", help="the same submit with the same key is the same task")
    add("--wait", action="store_true", help="wait for the ends of the tasks, as --output does")
    command("watch", "show how tasks go on, until their ends", waiting, saving)("id", metavar="ID", nargs="+")
    command("result", "wait for a task's result, and print it", waiting, saving)("id", metavar="ID", nargs=1)
    command("cancel", "cancel tasks")("id", metavar="ID", nargs="+")
    command("replay", "let failed tasks begin again")("id", metavar="ID", nargs="+")
    add = command("list", "list tasks, newest first")
    add("--path", help="of this endpoint only")
    add("--status", choices=("created", "running", "completed", "failed", "cancelled"))
    add("--limit", type=int, default=50, metavar="N", help="how many (default: 50)")
    command("queues", "show the queues")("path", metavar="PATH", nargs="?", help="this one only")
    for name, (_, _, text) in _ELSEWHERE.items():
        own[name] = commands.add_parser(name, help=text, description=text, add_help=False)
    text = "print a script by which a shell completes commands"
    own["completion"] = commands.add_parser("completion", help=text, description=text)
    own["completion"].add_argument("shell", choices=_SHELLS.split())
    return parser, own


_SHELLS = "bash zsh"
_BASH = """_taskbackbone() {
    local words="%(commands)s" current="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    if [ "$COMP_CWORD" -gt 1 ]; then
        case "${COMP_WORDS[1]}:$current" in
        completion:*) words="%(shells)s" ;;
%(cases)s
        *) return 0 ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _taskbackbone taskbackbone
"""
_ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"


def _completion(shell: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """The script by which *shell* completes the command line."""
    flags = {
        name: list(dict.fromkeys(re.findall(r"--[a-z][a-z-]+", parser.format_help())))
        for name, parser in commands.items()
    }
    cases = "\n".join(f'        {name}:-*) words="{" ".join(own)}" ;;' for name, own in flags.items() if own)
    body = _BASH % {"commands": " ".join(commands), "shells": _SHELLS, "cases": cases}
    return _ZSH + body if shell == "zsh" else body
