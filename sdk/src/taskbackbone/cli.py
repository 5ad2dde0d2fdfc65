"""The command line: ``python -m taskbackbone``, or ``taskbackbone``.

What a command makes goes to the standard output, and what happens meanwhile to the standard error. Exit codes: 0; 1
if a task failed or the backbone refused; 2 for usage; 3 if the backbone cannot be reached; 4 if the time was up.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import __version__, errors
from ._batching import files_in
from ._calls import Deadline, TaskView, moment
from .batch import Batch
from .client import Task, TaskClient

FAILED, USAGE, UNREACHABLE, TIMED_OUT, INTERRUPTED = 1, 2, 3, 4, 130
_BAR_CHARS, _FULL, _EMPTY = 24, "█", "░"
_CALM_S = 60.0
"""After a call that was repeated: the next one is of another outage."""
_LOOKS = 60
"""At a batch, of which its rate is made."""
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
        with TaskClient(options.url, retry_for_s=options.retry_for) as client, _outages_told(options.retry_for):
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
    how: dict[str, Any] = {
        "content_type": options.content_type,
        "query": _pairs(options.query),
        "priority": options.priority,
        "pipeline": options.pipeline,
        "start_after": options.start_after,
        "start_before": options.start_before,
        "max_run_s": options.max_run,
        "callback": options.callback,
    }
    files = list(_files(options.file))
    if len(files) > 1 or Path(options.file[0]).is_dir():
        return _submit_all(client, options, files, how)
    if options.name or options.then:
        raise ValueError("--name and --then are for several files.")
    [file] = files
    task = client.submit(options.path, file or sys.stdin.buffer, idempotency_key=options.idempotency_key, **how)
    if options.output:
        sys.stderr.write(f"{task.id}  {file.name if file else ''}".rstrip() + "\n")
    else:
        _print(task, options, task.id)
    return _follow([task], options) if options.wait or options.output else 0


def _pairs(query: Sequence[str]) -> list[Any]:
    return [tuple(pair.partition("=")[::2]) for pair in query]


def _submit_all(
    client: TaskClient, options: argparse.Namespace, files: Sequence[Path | None], how: Mapping[str, Any]
) -> int:
    """Submit a batch. The same command with the same output goes on with the same one."""
    if options.idempotency_key:
        raise ValueError("An idempotency key is for one file; --name is for several.")
    name = options.name
    if options.output and not name:
        places = [str(Path(place).resolve()) for place in (*options.file, options.output)]
        told = hashlib.sha256("\n".join(places).encode()).hexdigest()[:8]
        name = f"{Path(places[0]).name[:80]} {told}"
    progress = _Progress("", is_quiet=options.json)

    def items() -> Iterator[Any]:
        for number, file in enumerate(files, 1):
            progress.tell(f"submitting {number} of {len(files)}", live_only=True)
            yield file or sys.stdin.buffer

    try:
        batch = client.map(options.path, items(), name=name, then=options.then, **how)
    finally:
        progress.end()
    if options.output:
        sys.stderr.write(f"{batch.id}  batch of {batch.total}\n")
    else:
        _print(batch, options, batch.id)
    return _follow([batch], options) if options.wait or options.output else 0


def _follow(tasks: Sequence[Task], options: argparse.Namespace) -> int:
    """Wait for the ends of *tasks*, and save their results if they are to be."""
    deadline, code = Deadline(options.timeout), 0
    for number, task in enumerate(tasks, 1):
        label = f"{number}/{len(tasks)} {task.id} " if len(tasks) > 1 else ""
        progress = _Progress(label, is_quiet=options.json)
        left_s = None if options.timeout is None else deadline.left_s()
        saved, lost = list[Path](), ""
        try:
            progress.show(task)
            if isinstance(task, Batch) and options.output:
                saved = task.save(options.output, left_s, progress.show)
            task.wait(left_s, progress.show)
        except errors.BatchFailed as error:
            saved, lost = error.saved, str(error)
        finally:
            progress.end()
        if options.json:
            _print(task, options, "")
        if options.output and not isinstance(task, Batch) and task.state == "completed":
            saved = [task.result().save(options.output)]
        for file in () if options.json else sorted(saved):
            sys.stdout.write(f"{file}\n")
        if lost or task.state != "completed":
            code = FAILED if options.json else _say(label + (lost or task.status), FAILED)
    return code


def _found(client: TaskClient, task_id: str) -> Task:
    """A task, or the batch that it is."""
    task = client.task(task_id)
    return client.batch(task_id) if "Total" in task.document else task


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


def _purge(client: TaskClient, options: argparse.Namespace) -> int:
    for one in options.id:
        task = client.task(one)
        task.purge()
        _print(task, options, f"{task.id}  purged")
    return 0


def _batches(client: TaskClient, options: argparse.Namespace) -> int:
    for _, batch in zip(range(options.limit), client.batches(page_size=min(200, max(1, options.limit)))):
        created = str(batch.document.get("CreatedAt", ""))[:19]
        counts = f"{batch.total - batch.unfinished:>5} of {batch.total:>5} ended {batch.failed:>5} failed"
        _print(batch, options, f"{batch.id}  {batch.state:<9}  {created} {counts}  {_plain(batch.name or '', 60)}")
    return 0


def _list(client: TaskClient, options: argparse.Namespace) -> int:
    size = min(200, max(1, options.limit))
    tasks = client.tasks(options.path, options.status, batch=options.batch, page_size=size)
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


def _schedule(client: TaskClient, options: argparse.Namespace) -> int:
    schedules, what, name = client.schedules, options.action, options.name
    if what == "list":
        found = schedules.list()
    elif not name:
        raise ValueError("Which schedule? Give its name.")
    elif what == "run":
        task = schedules.run(name)
        _print(task, options, task.id)
        return 0
    elif what == "delete":
        schedules.delete(name)
        return 0
    elif what == "put":
        if not (options.path and options.cron):
            raise ValueError("A schedule needs a path and --cron.")
        body = next(_files([options.file])) or sys.stdin.buffer if options.file else None
        members = "cron", "time_zone", "overlap", "catch_up", "until", "content_type", "priority", "callback"
        how = {member: getattr(options, member) for member in members}
        how |= {"start_before_s": options.start_before, "max_run_s": options.max_run}
        found = [schedules.put(name, options.path, body, query=_pairs(options.query), **how)]
    else:
        found = [schedules.get(name) if what == "show" else getattr(schedules, what)(name)]
    for one in found:
        following = "paused" if one["Paused"] else f"next {one['NextTime'] or 'never'}"
        line = f"{one['Name']}  {one['Cron']}  {one['TimeZone']}  {one['Path']}  {following}"
        runs = [f"\n  {run['Due']}  {run['Outcome']}  {run['TaskId'] or ''}" for run in one.get("Runs", ())]
        sys.stdout.write((json.dumps(one) if options.json else line + "".join(runs)) + "\n")
    return 0


_COMMANDS: dict[str, Callable[[TaskClient, argparse.Namespace], int]] = {
    "submit": _submit,
    "watch": lambda client, options: _follow([_found(client, one) for one in options.id], options),
    "result": _result,
    "cancel": _cancel,
    "replay": _replay,
    "purge": _purge,
    "list": _list,
    "batches": _batches,
    "queues": _queues,
    "schedule": _schedule,
}


def _files(names: Sequence[str]) -> Iterator[Path | None]:
    """The files to submit, those of folders included; None for the standard input."""
    for name in names:
        path = Path(name)
        if name == "-":
            yield None
        elif path.is_dir():
            yield from files_in(path)
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


@contextmanager
def _outages_told(retry_for_s: float) -> Generator[None, None, None]:
    """Say once of each outage that calls are being repeated: nothing else happens meanwhile."""
    logger, last_s = logging.getLogger("taskbackbone"), [-_CALM_S]

    def tell(record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and len(record.args) == 4 and record.created - last_s[0] > _CALM_S:
            before = "\r\x1b[K" if sys.stderr.isatty() else ""
            why = _plain(str(record.args[2]), 200)
            sys.stderr.write(f"{before}taskbackbone: no answer yet ({why}); trying for {retry_for_s:g} s\n")
        last_s[0] = record.created
        return False

    logger.addFilter(tell)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeFilter(tell)


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
        self._seen: list[tuple[float, int]] = []

    def show(self, task: TaskView) -> None:
        if isinstance(task, Batch):
            self._seen = [*self._seen[-_LOOKS:], (time.monotonic(), task.total - task.unfinished)]
            self.tell(self._label + _line_of_batch(task, self._seen, bar=self._is_live))
        else:
            self.tell(self._label + _line(task, bar=self._is_live))

    def tell(self, text: str, *, live_only: bool = False) -> None:
        if self._is_quiet or text == self._last or (live_only and not self._is_live):
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
    if task.start_at is not None and task.state == "created" and task.start_at.timestamp() > time.time():
        return step + _when("starts", task.start_at.timestamp())
    done = 1.0 if task.state == "completed" else task.progress
    parts = [] if done is None else [*_bar(done, bar), f"{done:>4.0%}"]
    return " ".join([*parts, step + task.status])


def _line_of_batch(batch: Batch, seen: Sequence[tuple[float, int]], *, bar: bool) -> str:
    """How many of its tasks have ended, and how fast by what was *seen*: moments with the numbers of then."""
    ended = batch.total - batch.unfinished
    parts = [f"{ended} of {batch.total} ended"]
    parts += [f"{batch.failed} failed"] if batch.failed else []
    parts += [f"{batch.cancelled} cancelled"] if batch.cancelled else []
    parts += [f"{batch.unfinished} to go"] if batch.unfinished else []
    (since_s, before), (now_s, _) = seen[0], seen[-1]
    if ended > before and now_s - since_s > 1 and batch.unfinished:
        rate = (ended - before) / (now_s - since_s)
        parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min")
        parts.append(_when("ends", time.time() + batch.unfinished / rate))
    return " ".join([*_bar(batch.progress or 0.0, bar), ", ".join(parts)])


def _bar(done: float, is_shown: bool) -> list[str]:
    full = round(_BAR_CHARS * done)
    return [_FULL * full + _EMPTY * (_BAR_CHARS - full)] if is_shown else []


def _seconds_or_time(text: str) -> Any:
    """A number of seconds, or a time."""
    try:
        return float(text)
    except ValueError:
        return moment(text)


def _start(task: TaskView) -> str:
    start = task.estimated_start
    return "" if start is None else ", " + _when("starts", start.timestamp())


def _when(what: str, moment_s: float) -> str:
    left_s = max(0.0, moment_s - time.time())
    left = f"{left_s:.0f} s" if left_s < 100 else f"{left_s / 60:.0f} min"
    return f"{what} at about {time.strftime('%H:%M:%S', time.localtime(moment_s))}, in {left}"


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

    asking = argparse.ArgumentParser(add_help=False)
    add = asking.add_argument
    add("--query", metavar="NAME=VALUE", action="append", default=[], help="a parameter for the model service")
    add("--content-type", metavar="TYPE", help="of the files (default: by their names)")
    add("--priority", type=int, choices=range(10), help="9 goes first (default: 5)")
    add("--max-run", type=float, metavar="S", help="an attempt that runs longer has failed")
    add("--callback", metavar="NAME", help="whom the backbone calls at the end, by its name there")
    add = command(
        "submit", "submit a file as a task, or several as a batch, and print its id", waiting, saving, asking
    )
    add("path", metavar="PATH", help="the endpoint, such as /v1/words/count")
    add("file", metavar="FILE|DIR|-", nargs="+", help="a folder is all files in it")
    add("--pipeline", metavar="PATH", action="append", help="where it goes on afterwards; may be repeated")
    add("--then", metavar="PATH", help="of several files: the endpoint that gets the list of all results at the end")
    add(
        "--name",
        help="of several files: with the same name, what was submitted is not submitted again"
        " (default with --output: made of both places)",
    )
    add(
        "--start-after",
        type=_seconds_or_time,
        metavar="S|TIME",
        help="start no sooner: seconds, or a time with its zone",
    )
    add("--start-before", type=_seconds_or_time, metavar="S|TIME", help="fail unless it was dispatched by then")
    add("--idempotency-key", metavar="KEY", help="the same submit with the same key is the same task")
    add("--wait", action="store_true", help="wait for the ends of the tasks, as --output does")
    command("watch", "show how tasks go on, until their ends", waiting, saving)("id", metavar="ID", nargs="+")
    command("result", "wait for a task's result, and print it", waiting, saving)("id", metavar="ID", nargs=1)
    command("cancel", "cancel tasks")("id", metavar="ID", nargs="+")
    command("replay", "let failed tasks begin again")("id", metavar="ID", nargs="+")
    command("purge", "remove finished tasks with all that is kept of them")("id", metavar="ID", nargs="+")
    add = command("list", "list tasks, newest first")
    add("--path", help="of this endpoint only")
    add("--batch", metavar="ID", help="of this batch only")
    add("--status", choices=("created", "running", "completed", "failed", "cancelled"))
    add("--limit", type=int, default=50, metavar="N", help="how many (default: 50)")
    add = command("batches", "list batches, newest first")
    add("--limit", type=int, default=50, metavar="N", help="how many (default: 50)")
    command("queues", "show the queues")("path", metavar="PATH", nargs="?", help="this one only")
    add = command("schedule", "show and change what is submitted again and again", asking)
    add("action", choices=("list", "show", "put", "pause", "resume", "run", "delete"))
    add("name", metavar="NAME", nargs="?")
    add("path", metavar="PATH", nargs="?", help="to put: the endpoint")
    add("file", metavar="FILE|-", nargs="?", help="to put: the body of each task")
    add("--cron", metavar="FIELDS", help="to put: when, such as '30 6 * * mon-fri'")
    add("--time-zone", metavar="ZONE", help="whose clock that is, such as Europe/Berlin (default: UTC)")
    add("--overlap", choices=("skip", "queue", "cancel-running"), help="if the last task has not ended")
    add("--catch-up", choices=("none", "last", "all"), help="of the times that an outage took")
    add("--until", type=moment, metavar="TIME", help="it is due no more after that")
    add(
        "--start-before", type=float, metavar="S", help="a task fails unless it was dispatched so long after its time"
    )
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
