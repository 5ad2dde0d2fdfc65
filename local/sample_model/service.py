"""The model behind HTTP, as a model service of the backbone.

The service accepts a request with the header `taskId` at once, works on it in the background and reports to the
backbone. It answers a request without the header with the result. It works on at most `max_concurrent` requests at a
time, and refuses more with 503.
"""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import httpx
import pydantic
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.sample_model import LEGEND_PATH, SEGMENT_PATH
from local.sample_model.legend import MapDescription, add_legend, draw_legend
from local.sample_model.segmentation import (
    CLASSES,
    Report,
    Segmentation,
    UnreadablePicture,
    open_picture,
    segment,
)
from local.sample_model.task_manager import BackboneFailed, TaskManager, TaskReference, TaskRevoked, TooLarge

CONTENT_TYPES = ("image/jpeg", "image/png")

_MAX_BODY_BYTES = 100 * 1024**2
_RETRY_AFTER_S = 1
_HEARTBEAT_S = 10.0
_SHUTDOWN_GRACE_S = 20.0

_descriptions = pydantic.TypeAdapter(MapDescription)

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """The work for one request: `answer` it directly, or `perform` it as a task."""

    answer: Callable[[], Awaitable[Response]]
    perform: Callable[[TaskReference], Awaitable[None]]


class RequestReporter:
    """Reports to the backbone how many requests are in flight on a path. Without a URL it reports nothing."""

    def __init__(self, client: httpx.AsyncClient, url: str | None, cluster: str) -> None:
        self._client, self._url, self._cluster = client, url, cluster

    @asynccontextmanager
    async def counting(self, path: str) -> AsyncIterator[None]:
        counted = await self._add(path, "IncrementBy")
        try:
            yield
        finally:
            if counted:
                await self._add(path, "DecrementBy")

    async def _add(self, path: str, key: str) -> bool:
        if self._url is None:
            return False
        try:
            body = {"ApiPath": path, "ServiceCluster": self._cluster, key: 1}
            (await self._client.post(self._url, json=body)).raise_for_status()
        except httpx.HTTPError as error:
            logger.warning("the requests in flight were not reported: %s", type(error).__name__)
            return False
        return True


class ModelService:
    """The endpoints, the requests in flight, and the threads that compute for them."""

    def __init__(self, tasks: TaskManager, reporter: RequestReporter, *, max_concurrent: int) -> None:
        self._tasks = tasks
        self._reporter = reporter
        self._max_concurrent = max_concurrent
        self._in_flight = 0
        self._jobs: dict[tuple[str, int | None], asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(max_concurrent, thread_name_prefix="model")

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(SEGMENT_PATH, self._segment, methods=["POST"]),
                Route(LEGEND_PATH, self._legend, methods=["POST"]),
                Route("/health", self._health),
            ],
            exception_handlers={HTTPException: _problem},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        if self._jobs:
            await asyncio.wait(self._jobs.values(), timeout=_SHUTDOWN_GRACE_S)
        abandoned = list(self._jobs.values())  # without reports, the backbone dispatches their tasks again
        for job in abandoned:
            job.cancel()
        await asyncio.gather(*abandoned, return_exceptions=True)
        await self._tasks.client.aclose()

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"InFlight": self._in_flight, "MaxConcurrent": self._max_concurrent})

    async def _segment(self, request: Request) -> Response:
        if request.headers.get("content-type", "").split(";")[0].strip().lower() not in CONTENT_TYPES:
            raise HTTPException(400, f"The body must be one of {', '.join(CONTENT_TYPES)}.")
        wanted = request.query_params.get("classes", "5")
        if not wanted.isdecimal() or int(wanted) not in CLASSES:
            raise HTTPException(400, f"classes must be a number from {CLASSES.start} to {CLASSES.stop - 1}.")
        then = request.query_params.get("then")
        if then not in (None, "legend"):
            raise HTTPException(400, "then must be legend, or absent.")

        def prepare(body: bytes) -> Work:
            def compute(report: Report) -> tuple[Segmentation, bytes]:
                segmentation = segment(open_picture(body), int(wanted), report)
                return segmentation, _png(segmentation.map)

            async def answer() -> Response:
                try:
                    segmentation, png = await self._in_thread(compute, lambda stage, done: None)
                except UnreadablePicture as error:
                    raise HTTPException(400, f"The picture was refused: {error}.") from error
                shares = json.dumps(_json_of(segmentation)["Classes"])
                return Response(png, media_type="image/png", headers={"X-Class-Shares": shares})

            async def perform(task: TaskReference) -> None:
                segmentation, png = await self._with_progress(task, compute)
                await self._tasks.store_result(task, png, "image/png")
                if then == "legend":
                    await self._tasks.start_next_step(task, LEGEND_PATH, json.dumps(_json_of(segmentation)))
                else:
                    shares = ", ".join(map(str, segmentation.classes))
                    await self._tasks.update(task, "completed", f"completed - {shares}")

            return Work(answer, perform)

        return await self._serve(request, prepare)

    async def _legend(self, request: Request) -> Response:
        def prepare(body: bytes) -> Work:
            try:
                described = _descriptions.validate_json(body)
            except pydantic.ValidationError as error:
                raise HTTPException(400, "The body must be JSON with Width, Height and Classes.") from error

            async def answer() -> Response:
                return Response(_png(draw_legend(described)), media_type="image/png")

            async def perform(task: TaskReference) -> None:
                await self._tasks.update(task, "running", "running - legend")
                drawn = Image.open(io.BytesIO(await self._tasks.load_result(task)))
                await self._tasks.store_result(task, _png(add_legend(drawn, described)), "image/png")
                await self._tasks.update(task, "completed", "completed - map with legend")

            return Work(answer, perform)

        return await self._serve(request, prepare)

    async def _serve(self, request: Request, prepare: Callable[[bytes], Work]) -> Response:
        task, path = TaskReference.from_headers(request.headers), request.url.path
        if task and task.key in self._jobs:  # delivered twice
            return JSONResponse({"TaskId": task.task_id})
        if self._in_flight >= self._max_concurrent:
            raise HTTPException(503, "All workers are busy.", {"Retry-After": str(_RETRY_AFTER_S)})
        with ExitStack() as slot:
            self._in_flight += 1
            slot.callback(self._free_slot)
            work = prepare(await _read(request))
            if task is None:
                async with self._reporter.counting(path):
                    return await work.answer()
            job = self._jobs[task.key] = asyncio.create_task(self._perform(task, path, work))
            slot.callback(self._jobs.pop, task.key)
            held = slot.pop_all()
            job.add_done_callback(lambda _: held.close())
            return JSONResponse({"TaskId": task.task_id})

    def _free_slot(self) -> None:
        self._in_flight -= 1

    async def _perform(self, task: TaskReference, path: str, work: Work) -> None:
        """Does a task's work and reports how it ended, unless the backbone has revoked the task."""
        async with self._reporter.counting(path):
            try:
                try:
                    await work.perform(task)
                except (UnreadablePicture, TooLarge) as error:
                    await self._tasks.update(task, "failed", f"failed - {error}")
                except (TaskRevoked, BackboneFailed):
                    raise
                except Exception:
                    logger.exception("task %s failed", task.task_id)
                    await self._tasks.update(task, "failed", "failed - internal error of the model service")
            except (TaskRevoked, BackboneFailed) as error:
                logger.warning("task %s was dropped: %s", task.task_id, error)

    async def _with_progress(self, task: TaskReference, compute: Callable[[Report], T]) -> T:
        """Computes in a thread, reports each stage, and repeats the report during a long one; stops when revoked."""
        sent = "running"
        await self._tasks.update(task, "running", sent)
        progress = _Progress(asyncio.get_running_loop())
        computing = asyncio.ensure_future(self._in_thread(compute, progress.report))
        computing.add_done_callback(lambda _: progress.changed.set())
        try:
            while not computing.done():
                with suppress(TimeoutError):
                    await asyncio.wait_for(progress.changed.wait(), _HEARTBEAT_S)
                progress.changed.clear()
                if not computing.done() or progress.text != sent:
                    sent = progress.text
                    await self._tasks.update(task, "running", sent)
        finally:
            progress.is_stopped = True
            # The request keeps its slot as long as the thread works.
            await asyncio.gather(computing, return_exceptions=True)
        return computing.result()

    async def _in_thread(self, compute: Callable[[Report], T], report: Report) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, compute, report)


class _Stopped(Exception):
    """Raised in a thread to stop it, when nobody waits for its work any more."""


class _Progress:
    """The latest text of a computation, passed from its thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.text = "running"
        self.changed = asyncio.Event()
        self.is_stopped = False

    def report(self, stage: str, done: float) -> None:
        if self.is_stopped:
            raise _Stopped
        self._loop.call_soon_threadsafe(self._show, f"running - {stage} {done:.0%}")

    def _show(self, text: str) -> None:
        self.text = text
        self.changed.set()


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise HTTPException(413, f"The body may have at most {_MAX_BODY_BYTES // 1024**2} MiB.")
    return bytes(body)


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = {"title": HTTPStatus(error.status_code).phrase, "status": error.status_code, "detail": error.detail}
    return JSONResponse(problem, error.status_code, error.headers, media_type="application/problem+json")


def _json_of(segmentation: Segmentation) -> dict[str, object]:
    described = MapDescription(*segmentation.map.size, segmentation.classes)
    return _descriptions.dump_python(described)


def _png(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()
