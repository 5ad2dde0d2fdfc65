"""The walks of docs/architecture.md: each runs through the app on a real Redis, with its calls recorded.

The functions of a list must be called in its order, and a list must name every file that its walk visits.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Self, cast

import azure.functions as func
import pytest

import backend_webhook
import cache_manager
from local.processes import free_port
from local.redis_server import RedisCluster, RedisServer
from local.stack import ROOT
from shared.events.publisher import DISPATCH_EVENT
from shared.services import ServicesByLoop
from shared.settings import Settings
from shared.store.following import Following
from tests.code_references import Reference, references, walks
from tests.scripted_backend import Answer, ScriptedBackend

PAGE = (ROOT / "docs" / "architecture.md").read_text()
APP = tuple(f"{ROOT / room}{os.sep}" for room in ("cache_manager", "backend_webhook", "shared"))
LUA = "shared/store/lua/"
INCLUDES = f"{LUA}includes/"
PATH = "/v1/walk/a"


class Recording:
    """The app's functions in the order of their calls, and the scripts that were run."""

    def __init__(self) -> None:
        self.calls: list[Reference] = []
        self.scripts: list[str] = []
        self._frames: set[FrameType] = set()

    @property
    def files(self) -> set[str]:
        return {call.path for call in self.calls}

    def __enter__(self) -> Self:
        self._frames |= _begun()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._frames.clear()

    def _note(self, frame: FrameType, event: str, arg: Any) -> None:
        file = frame.f_code.co_filename
        # A coroutine that resumes is no call.
        if event != "call" or not file.startswith(APP) or frame in self._frames:
            return
        self._frames.add(frame)
        call = Reference(Path(file).relative_to(ROOT).as_posix(), frame.f_code.co_qualname.replace(".<locals>", ""))
        self.calls.append(call)
        if call.name in ("RedisLink.script", "RedisLink.combined"):
            folder = "combined/" if call.name == "RedisLink.combined" else ""
            self.scripts.append(f"{LUA}{folder}{frame.f_locals['name']}.lua")


def _begun() -> set[FrameType]:
    """The coroutines that run beside a walk and began before it."""
    frames: set[FrameType] = set()
    for task in asyncio.all_tasks():
        awaited: object = task.get_coro()
        while inspect.iscoroutine(awaited):
            frames.add(awaited.cr_frame)
            awaited = awaited.cr_await
    return frames


class App:
    """The functions of the rooms, called as the host calls them."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.services = ServicesByLoop(Settings.from_env(environment))
        app = func.FunctionApp()
        for room in (cache_manager, backend_webhook):
            room.register(app, self.services)
        found: list[Any] = cast("Any", app).get_functions()
        self._functions: dict[str, Callable[..., Awaitable[func.HttpResponse]]] = {
            each.get_function_name(): each.get_user_function() for each in found
        }

    async def call(self, name: str, body: Any = None, **route: str) -> tuple[int, dict[str, Any]]:
        request = func.HttpRequest(
            "POST",
            f"http://127.0.0.1/api/{name}",
            headers={},
            params={},
            route_params=route,
            body=b"" if body is None else json.dumps(body).encode(),
        )
        context = SimpleNamespace(trace_context=SimpleNamespace(trace_parent="", trace_state=""))
        response = await self._functions[name](request, context)
        return response.status_code, json.loads(response.get_body())

    async def submit(self) -> str:
        status, task = await self.call("SubmitTask", "a body", path=PATH.removeprefix("/"))
        assert status == 202
        return task["TaskId"]

    async def deliver(self, task_id: str, expected: str) -> None:
        """Deliver the event of the task's first attempt."""
        event = {"id": "1", "eventType": DISPATCH_EVENT, "data": {"TaskId": task_id, "Attempt": 1}}
        assert await self.call("BackendWebhook", [event]) == (200, {"results": [expected]})

    async def report(self, task_id: str, state: str) -> int:
        status, _ = await self.call("CacheConnectorUpsert", {"TaskId": task_id, "BackendStatus": state})
        return status

    async def state(self, task_id: str) -> str:
        _, task = await self.call("GetTask", id=task_id)
        return task["BackendStatus"]


@pytest.fixture(autouse=True)
def _no_look_at_the_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that begins looks for delayed tasks and schedules that are due, beside whatever else it does."""
    monkeypatch.setattr(Following, "look", lambda _: None)


@pytest.fixture
def backend() -> Iterator[ScriptedBackend]:
    """The model service and the two topics: a server that answers every POST."""
    with ScriptedBackend() as backend:
        yield backend


@pytest.fixture
def environment(redis_server: RedisServer | RedisCluster, redis_url: str, backend: ScriptedBackend) -> dict[str, str]:
    if isinstance(redis_server, RedisCluster):
        pytest.skip("the walks are those of a single server")
    return {
        "REDIS_CONNECTION_STRING": redis_url,
        "EVENT_GRID_TOPIC_URI": f"{backend.url}/api/events",
        "EVENT_GRID_KEY": "the-key-of-the-topic",
        "PUBLISH_COMPLETIONS": "true",
        "COMPLETIONS_TOPIC_URI": f"{backend.url}/api/completions",
        "COMPLETIONS_KEY": "the-key-of-the-topic",
        # A host name, so that it has to be resolved. One slot, so that a second task waits.
        "BACKENDS": json.dumps({"/v1/walk": {"url": backend.url.replace("127.0.0.1", "localhost"), "limit": 1}}),
        "ALLOW_LOOPBACK_BACKENDS": "true",
        "BUSY_RETRY_S": "7.5",
        "RECONCILER_INTERVAL_S": "3600",
    }


@pytest.fixture
async def app(environment: dict[str, str]) -> AsyncIterator[App]:
    app = App(environment)
    await app.services.current().store.ping()  # composes and connects the services before a walk begins
    await app.services.current().store.keyed_ids.draw()  # which the process does at its begin
    yield app
    await app.services.current().aclose()


def section(title: str) -> str:
    """The section of the page on a walk."""
    return PAGE.partition(f"\n### {title}\n")[2].partition("\n### ")[0]


def steps_of(title: str, number: int = 0) -> list[Reference]:
    return walks(PAGE)[title][number]


def check_order(steps: list[Reference], recording: Recording) -> None:
    """Check that the functions among the *steps* were called in this order."""
    calls = iter(recording.calls)
    for step in steps:
        if step.is_function and step.path.startswith(("cache_manager/", "backend_webhook/", "shared/")):
            assert step in calls, f"not called, or earlier: {step}"


def check_scripts(steps: list[Reference], recording: Recording, among: str = "") -> None:
    """Check that the scripts among the *steps* were run, and include the files that follow them."""
    run: set[str] = set()
    script = ""
    for step in steps:
        if step.path.startswith("shared/store/") and step.path.endswith("_steps.py"):
            script = ""  # the next step makes the argument of another script
        if script and step.path in includes(script):
            continue
        assert not step.path.startswith(INCLUDES), f"{script} does not include {step.path}"
        if step.path.startswith(LUA):
            script = step.path
            run.add(script)
    assert run == {script for script in recording.scripts if among in script}


def includes(path: str) -> set[str]:
    """The files that a Lua file includes, directly or not. A script may be included too, as a function."""
    direct: list[str] = []
    for line in (ROOT / path).read_text().splitlines():
        if line.startswith("-- @function "):
            direct.append(f"{LUA}{line.split()[-1]}.lua")
        elif line.startswith("-- @include ") and not line.startswith("-- @include generated/"):
            direct.append(f"{INCLUDES}{line.split()[-1]}.lua")
    return {file for included in direct for file in (included, *includes(included))}


def check_files(title: str, recording: Recording) -> None:
    """Check that the walk names every file that was visited."""
    assert recording.files - {reference.path for reference in references(section(title))} == set()


async def test_a_submit(app: App):
    with Recording() as recording:
        await app.submit()

    check_order(steps_of("A submit"), recording)
    check_scripts(steps_of("A submit"), recording)
    check_files("A submit", recording)


async def test_a_completion(app: App, backend: ScriptedBackend):
    first = await app.submit()
    second = await app.submit()
    await app.deliver(first, "accepted")
    background = app.services.current().dispatcher._background  # pyright: ignore[reportPrivateUsage]
    with Recording() as recording:
        assert await app.report(first, "completed") == 200
        while running := [*background]:
            await asyncio.gather(*running)

    assert [backend.next_call(PATH).task_id for _ in range(2)] == [first, second]
    check_order(steps_of("A completion"), recording)
    check_order(steps_of("A completion", 1), recording)
    check_scripts([*steps_of("A completion"), *steps_of("A completion", 1)], recording)
    check_files("A completion", recording)


async def test_an_event(app: App):
    task_id = await app.submit()
    with Recording() as recording:
        await app.deliver(task_id, "accepted")

    check_order(steps_of("An event"), recording)
    check_scripts(steps_of("An event"), recording)
    check_files("An event", recording)


async def test_an_event_whose_backend_is_busy(app: App, backend: ScriptedBackend):
    backend.script(PATH, Answer(503))
    task_id = await app.submit()
    with Recording() as recording:
        await app.deliver(task_id, "busy")

    branch = re.search(r"from item (\d+):", section("An event"))
    assert branch is not None
    steps = [*steps_of("An event")[: int(branch[1]) - 1], *steps_of("An event", 1)]
    check_order(steps, recording)
    check_scripts(steps, recording)
    check_files("An event", recording)


async def test_a_setting(environment: dict[str, str], backend: ScriptedBackend):
    backend.script(PATH, Answer(503))
    with Recording() as recording:
        app = App(environment)
        await app.deliver(await app.submit(), "busy")
    await app.services.current().aclose()

    check_order(steps_of("A setting"), recording)
    check_scripts(steps_of("A setting"), recording, among="queue/refused")


async def test_an_error(environment: dict[str, str]):
    app = App({**environment, "REDIS_CONNECTION_STRING": f"redis://127.0.0.1:{free_port()}"})
    app.services.current()  # composes the services before the walk begins
    await asyncio.sleep(0)  # and their rounds begin
    with Recording() as recording:
        status, problem = await app.call("GetTask", id="a-task")
    await app.services.current().aclose()

    assert (status, problem["type"]) == (503, "urn:task-backbone:problem:unavailable")
    check_order(steps_of("An error"), recording)
    check_files("An error", recording)


async def test_a_refusal(app: App):
    task_id = await app.submit()
    assert await app.report(task_id, "completed") == 200
    with Recording() as recording:
        assert await app.report(task_id, "failed") == 409

    check_order(steps_of("An error", 1), recording)
