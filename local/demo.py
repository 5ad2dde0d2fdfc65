"""The demonstration: sends photographs through a real model and back, and shows the progress live."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

from local.processes import LocalStackError
from local.sample_model import SEGMENT_PATH
from local.sample_model.pictures import Picture, sample_pictures
from local.stack import ROOT, Stack

_CLASSES = 6
_WAIT_S = 20
_DEADLINE_S = 180
_ENDED = ("completed", "failed", "cancelled")


@dataclass
class Progress:
    """One picture's task, as last seen."""

    picture: Picture
    task_id: str = ""
    state: str = "submitting"
    status: str = ""
    result: Path | None = None
    phases_s: dict[str, float] = field(default_factory=dict)
    """How long the task waited, was in dispatch, and ran, according to its history."""


def run(options: argparse.Namespace) -> int:
    """Start a stack, send the pictures through, write the results into the folder that *options* name, stop
    everything.

    Returns:
        0 if every task completed, else 1.

    Raises:
        LocalStackError: a part of the stack does not start or has ended, or the app refuses a call.
    """
    results = Path(options.results or ROOT / "demo-results").resolve()
    results.mkdir(parents=True, exist_ok=True)
    progresses = [Progress(picture) for picture in sample_pictures()]
    show = _display_type(options.json)(progresses)
    with tempfile.TemporaryDirectory(prefix="task-backbone-") as directory:
        stack = Stack(Path(directory), core_tools=options.func)
        with show:
            show.say(f"The model finds {_CLASSES} classes of pixels in a photograph: an unsupervised segmentation.")
            show.say("Starting Redis, Azurite, the Event Grid emulator, the functions host and the sample model …")
            with stack:
                show.say(f"Submitting {len(progresses)} photographs to {stack.url}/api/v1/submit{SEGMENT_PATH}")
                for progress in _watch(stack, progresses, results):
                    show.update(progress)
                show.say("Stopping everything …")
    # Nothing comes after it: what starts and stops has done so.
    show.summary(results)
    return 0 if all(progress.state == "completed" for progress in progresses) else 1


def _watch(stack: Stack, progresses: list[Progress], results: Path) -> Iterable[Progress]:
    """Yields a task's progress whenever it changes, until all tasks have ended."""
    changes: Queue[Progress] = Queue()
    threads = ThreadPoolExecutor(len(progresses))
    try:
        runs = [threads.submit(_run_task, stack, progress, results, changes.put) for progress in progresses]
        while not all(run.done() for run in runs) or not changes.empty():
            try:
                yield changes.get(timeout=0.2)
            except Empty:
                stack.check()
        for run in runs:
            run.result()
    except httpx.HTTPError as error:
        raise LocalStackError(f"The app has not done what the demo asked for: {error}") from error
    finally:
        # They wait for a task, or for a stack that is about to end: nobody should wait for them.
        threads.shutdown(wait=False, cancel_futures=True)


def _run_task(stack: Stack, progress: Progress, results: Path, changed: Callable[[Progress], None]) -> None:
    picture = progress.picture
    with stack.client() as client:
        response = client.post(
            f"/api/v1/submit{SEGMENT_PATH}?classes={_CLASSES}",
            content=picture.data,
            headers={"Content-Type": picture.content_type},
        )
        response.raise_for_status()
        location = response.headers["Location"]
        while True:
            task = response.json()
            progress.task_id, progress.state, progress.status = task["TaskId"], task["BackendStatus"], task["Status"]
            if progress.state in _ENDED:
                break
            changed(progress)
            etag = response.headers["ETag"]
            response = _next_change(client, location, etag)
        events = client.get(f"{location}/history").raise_for_status().json()["Events"]
        progress.phases_s = phases_s(events)
        if progress.state == "completed":
            result = client.get(f"{location}/result").raise_for_status()
            progress.result = results / f"{Path(picture.name).stem}-{Path(picture.name).suffix[1:]}-segments.png"
            progress.result.write_bytes(result.content)
        changed(progress)


def _next_change(client: httpx.Client, location: str, etag: str) -> httpx.Response:
    for _ in range(_DEADLINE_S // _WAIT_S):
        response = client.get(location, params={"wait": _WAIT_S}, headers={"If-None-Match": etag})
        if response.status_code == 200:
            return response
    raise LocalStackError(f"Task {location.rpartition('/')[2]} has not changed for {_DEADLINE_S} s.")


def phases_s(events: list[dict[str, Any]]) -> dict[str, float]:
    names = {"created": "waiting", "dispatched": "dispatching", "running": "running"}
    phases = dict.fromkeys(names.values(), 0.0)
    for event, following in pairwise(events):
        spent = datetime.fromisoformat(following["Timestamp"]) - datetime.fromisoformat(event["Timestamp"])
        # A quick model answers the dispatch with its result: it ran meanwhile.
        state = "running" if following["Reason"] == "answer" else event["State"]
        phases[names[state]] += spent.total_seconds()
    return phases


class _Lines:
    """Plain lines, for output that is not a terminal."""

    def __init__(self, progresses: list[Progress]) -> None:
        self._progresses = progresses
        self._shown: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def say(self, text: str) -> None:
        print(text, flush=True)

    def update(self, progress: Progress) -> None:
        seen = progress.state, progress.status
        if self._shown.get(progress.task_id) != seen:
            self._shown[progress.task_id] = seen
            print(f"{progress.picture.name:<18} {progress.state:<10} {progress.status}", flush=True)

    def summary(self, results: Path) -> None:
        print("\nWhere the time went (seconds):")
        for progress in self._progresses:
            phases = "  ".join(f"{name} {seconds:6.2f}" for name, seconds in progress.phases_s.items())
            print(f"{progress.picture.name:<18} {phases}  total {sum(progress.phases_s.values()):6.2f}")
        print(f"\n{_verdict(self._progresses, results)}", flush=True)


class _JsonLines(_Lines):
    """One JSON object per line, for programs."""

    def say(self, text: str) -> None:
        self._print({"event": "message", "text": text})

    def update(self, progress: Progress) -> None:
        self._print({"event": "task", **self._describe(progress)})

    def summary(self, results: Path) -> None:
        self._print(
            {
                "event": "summary",
                "completed": sum(progress.state == "completed" for progress in self._progresses),
                "submitted": len(self._progresses),
                "results": str(results),
                "tasks": [
                    {
                        **self._describe(progress),
                        "result": str(progress.result) if progress.result else None,
                        "seconds": {name: round(spent, 3) for name, spent in progress.phases_s.items()},
                    }
                    for progress in self._progresses
                ],
            }
        )

    @staticmethod
    def _describe(progress: Progress) -> dict[str, Any]:
        return {
            "picture": progress.picture.name,
            "bytes": len(progress.picture.data),
            "taskId": progress.task_id,
            "state": progress.state,
            "status": progress.status,
        }

    @staticmethod
    def _print(document: dict[str, Any]) -> None:
        print(json.dumps(document), flush=True)


class _LiveTable(_Lines):
    """A table that changes in place, for a terminal."""

    def __init__(self, progresses: list[Progress]) -> None:
        super().__init__(progresses)
        self._live = Live(console=Console(), auto_refresh=False)

    def __enter__(self) -> _LiveTable:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.__exit__(*exception)

    def say(self, text: str) -> None:
        self._live.console.print(text, soft_wrap=True)

    def update(self, progress: Progress) -> None:
        self._live.update(table_of(self._progresses), refresh=True)

    def summary(self, results: Path) -> None:
        print(f"\n{_verdict(self._progresses, results)}", flush=True)


def table_of(progresses: Sequence[Progress]) -> Table:
    """What a terminal shows of the tasks."""
    # A row is a line, also on a terminal of 80 columns: a higher table than the screen cannot change in place.
    table = Table("picture", "state", expand=True)
    table.add_column("status", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("wait", "dispatch", "run", "total"):
        table.add_column(f"{name} s", justify="right", no_wrap=True)
    colours = {"completed": "green", "failed": "red", "running": "yellow"}
    for progress in progresses:
        spent_s = [*progress.phases_s.values(), sum(progress.phases_s.values())] if progress.phases_s else []
        colour = colours.get(progress.state, "white")
        table.add_row(
            progress.picture.name,
            f"[{colour}]{progress.state}[/]",
            progress.status.removeprefix(f"{progress.state} - "),
            *(f"{seconds:.2f}" for seconds in spent_s),
        )
    return table


def _verdict(progresses: list[Progress], results: Path) -> str:
    completed = sum(progress.state == "completed" for progress in progresses)
    verdict = f"{completed} of {len(progresses)} tasks completed."
    return f"{verdict} The result pictures are in {results}" if completed else verdict


def _display_type(as_json: bool) -> type[_Lines]:
    return _JsonLines if as_json else _LiveTable if sys.stdout.isatty() else _Lines
