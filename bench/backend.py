"""A model service without a model, in a process of its own: ``python -m bench.backend --slots 4 --service-s 0.05``.

It accepts a task if a slot is free, and otherwise answers 503. It reports that the task runs, waits for the service
time, frees the slot and reports the completion; or it answers with the result after the service time. ``GET
/journal`` returns the times of all this, by the clock that all processes of the machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import httpx
from aiohttp import web

from local.processes import ChildProcess, free_port
from local.stack import ROOT

RESULT = b"y" * 500
_BODY_LIMIT_BYTES = 128 * 1024 * 1024


@dataclass(slots=True)
class Visit:
    """One task's stay at the backend. Seconds since 1970; 0 for events that have not happened."""

    task_id: str
    arrived_s: float
    running_sent_s: float = 0
    running_answered_s: float = 0
    completed_sent_s: float = 0
    """The slot is freed just before."""
    completed_answered_s: float = 0


@dataclass(slots=True)
class Journal:
    visits: list[Visit] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    """The times of the 503 answers."""
    failed_reports: int = 0


class BackendProcess(ChildProcess):
    """
    Parameters:
        slots: how many tasks it works on at a time; None: any number.
        service_s: the service time of each task.
        reports: whether it reports, or only accepts tasks.
        answers: whether it answers with the result instead.
    """

    def __init__(
        self,
        directory: Path,
        *,
        slots: int | None = None,
        service_s: float = 0,
        reports: bool = True,
        answers: bool = False,
    ) -> None:
        # On a fixed port: the stack's settings need it before either is started.
        self.port = free_port()
        super().__init__(
            "the backend",
            [
                *(sys.executable, "-m", "bench.backend", "--port", str(self.port)),
                *("--slots", str(slots or 0), "--service-s", str(service_s)),
                *(() if reports else ("--silent",)),
                *(("--answers",) if answers else ()),
            ],
            log_path=directory / "backend.log",
            environment={"PYTHONPATH": str(ROOT)},
        )

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def report_to(self, app_url: str, key: str) -> Self:
        self.environment |= {"BACKBONE_URL": app_url, "BACKBONE_KEY": key}
        return self

    def journal(self) -> Journal:
        document: Mapping[str, Any] = httpx.get(f"{self.address}/journal", timeout=30).raise_for_status().json()
        return Journal(
            [Visit(**visit) for visit in document["visits"]], document["refused_s"], document["failed_reports"]
        )

    def clear(self) -> None:
        httpx.delete(f"{self.address}/journal").raise_for_status()

    def hold(self) -> None:
        """Let no task end from now on, so that all slots fill and stay full."""
        httpx.put(f"{self.address}/hold").raise_for_status()

    def release(self) -> None:
        httpx.delete(f"{self.address}/hold").raise_for_status()


class _Backend:
    def __init__(self, slots: int, service_s: float, reports: bool, answers: bool) -> None:
        self._answers = answers
        self._slots = slots
        self._service_s = service_s
        self._reports = reports
        self._taken = 0
        self._journal = Journal()
        self._work: set[asyncio.Task[None]] = set()
        self._may_go_on = asyncio.Event()
        self._may_go_on.set()

    async def serve(self, port: int) -> None:
        app = web.Application(client_max_size=_BODY_LIMIT_BYTES)
        app.router.add_get("/journal", self._show)
        app.router.add_delete("/journal", self._clear)
        app.router.add_put("/hold", self._hold)
        app.router.add_delete("/hold", self._release)
        app.router.add_post("/{path:.*}", self._take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        async with aiohttp.ClientSession(
            os.environ.get("BACKBONE_URL") or None,
            headers={"x-functions-key": os.environ.get("BACKBONE_KEY", "")},
            connector=aiohttp.TCPConnector(limit=64),
        ) as self._app:
            print(f"READY http://127.0.0.1:{port}", flush=True)
            await asyncio.Event().wait()

    async def _take(self, request: web.Request) -> web.Response:
        arrived_s = time.time()
        await request.read()
        if self._slots and self._taken == self._slots:
            self._journal.refused_s.append(arrived_s)
            return web.Response(status=503)
        visit = Visit(request.headers["taskId"], arrived_s)
        self._journal.visits.append(visit)
        if self._answers:
            return await self._answer()
        if self._reports:
            self._taken += 1
            work = asyncio.create_task(self._serve_task(visit, int(request.headers["X-Task-Attempt"])))
            self._work.add(work)
            work.add_done_callback(self._work.discard)
        return web.Response()

    async def _answer(self) -> web.Response:
        self._taken += 1
        await self._may_go_on.wait()
        if self._service_s:
            await asyncio.sleep(self._service_s)
        self._taken -= 1
        return web.Response(body=RESULT, headers={"X-Task-Complete": ""})

    async def _serve_task(self, visit: Visit, attempt: int) -> None:
        visit.running_sent_s = time.time()
        await self._report(visit.task_id, attempt, "running")
        visit.running_answered_s = time.time()
        await self._may_go_on.wait()
        if self._service_s:
            await asyncio.sleep(self._service_s)
        self._taken -= 1
        visit.completed_sent_s = time.time()
        await self._report(visit.task_id, attempt, "completed")
        visit.completed_answered_s = time.time()

    async def _report(self, task_id: str, attempt: int, state: str) -> None:
        document = {"TaskId": task_id, "BackendStatus": state, "Status": state, "Attempt": attempt}
        async with self._app.post("/api/CacheConnectorUpsert", json=document) as response:
            await response.read()
            self._journal.failed_reports += response.status != 200

    async def _show(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self._journal))

    async def _hold(self, _: web.Request) -> web.Response:
        self._may_go_on.clear()
        return web.Response()

    async def _release(self, _: web.Request) -> web.Response:
        self._may_go_on.set()
        return web.Response()

    async def _clear(self, _: web.Request) -> web.Response:
        self._journal = Journal()
        return web.Response()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.backend", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=0, help="0: any number")
    parser.add_argument("--service-s", type=float, default=0)
    parser.add_argument("--silent", action="store_true", help="accept tasks and report nothing")
    parser.add_argument("--answers", action="store_true", help="answer with the result")
    options = parser.parse_args()
    backend = _Backend(options.slots, options.service_s, not options.silent, options.answers)
    asyncio.run(backend.serve(options.port))


if __name__ == "__main__":
    main()
