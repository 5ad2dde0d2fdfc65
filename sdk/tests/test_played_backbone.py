"""The played backbone answers as the real one: the same exchanges go to both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from conftest import Backbone
from scripted_service import PATIENCE_S, Dispatch, ScriptedService

from taskbackbone.testing import PlayedBackbone

LEASE_S = 5.0


@dataclass
class Side:
    """The real backbone or the played one, with a task that its model service has just got."""

    url: str
    key: str
    service: ScriptedService
    dispatch: Dispatch

    @property
    def prefix(self) -> str:
        """Below it are the paths of the service."""
        return self.dispatch.path.rpartition("/")[0]

    def call(self, method: str, path: str, headers: dict[str, str], body: Any) -> requests.Response:
        filled = path.replace("{id}", self.dispatch.task_id).replace("{prefix}", self.prefix)
        data = json.dumps(body).replace("{id}", self.dispatch.task_id) if isinstance(body, (dict, list)) else body
        data = iter(data.pieces) if isinstance(data, Pieces) else data
        sent = {"x-functions-key": self.key, **headers}
        return requests.request(method, self.url + filled, headers=sent, data=data, timeout=PATIENCE_S)


@dataclass(frozen=True)
class Exchange:
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = b""


@dataclass(frozen=True)
class Pieces:
    """A body that is sent in chunks."""

    pieces: tuple[bytes, ...]


@dataclass(frozen=True)
class NextDispatch:
    """Waits until the service gets the task again, with that attempt."""

    attempt: int


class Pipeline:
    """At the beginning of a story: where the task goes on by itself, below the place of its service."""

    def __init__(self, *steps: str) -> None:
        self.steps = steps

    @classmethod
    def of(cls, story: list[Any], prefix: str) -> list[str]:
        return [prefix + step for step in (story[0].steps if isinstance(story[0], cls) else ())]


@dataclass(frozen=True)
class History:
    """Asks for all transitions of the task."""


@dataclass(frozen=True)
class Silence:
    """The service says nothing for a lease."""


class MaxRun:
    """At the beginning of a story: for how many seconds an attempt may run."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @classmethod
    def of(cls, story: list[Any]) -> float | None:
        return story[0].seconds if isinstance(story[0], cls) else None


@dataclass(frozen=True)
class Overrun:
    """So many seconds go by, in which the service goes on reporting."""

    seconds: float


TASK = "/api/v1/tasks/{id}"
UPSERT = "/api/CacheConnectorUpsert"


def report(backend_status: str, attempt: Any = 1, **more: Any) -> Exchange:
    told = {"TaskId": "{id}", "BackendStatus": backend_status, "Status": backend_status, "Attempt": attempt, **more}
    return Exchange("POST", UPSERT, {}, {name: value for name, value in told.items() if value is not None})


def put(what: str, body: bytes, attempt: Any = 1, **headers: str) -> Exchange:
    return Exchange("PUT", f"{TASK}/{what}", {"X-Task-Attempt": str(attempt), "Content-Type": "a/b", **headers}, body)


def post(what: str, attempt: Any = 1, body: Any = b"", **headers: str) -> Exchange:
    return Exchange("POST", f"{TASK}/{what}", {"X-Task-Attempt": str(attempt), **headers}, body)


def send_on(to: str, attempt: Any = 1, body: Any = b"", **headers: str) -> Exchange:
    return post(f"next{{prefix}}{to}", attempt, body, **headers)


def get(what: str = "", **headers: str) -> Exchange:
    return Exchange("GET", TASK + what, headers)


def completed_with(text: str, body: bytes = b"result", attempt: int = 1) -> Exchange:
    return put("result", body, attempt, **{"X-Task-Complete": text})


def beats(*each: dict[str, Any]) -> Exchange:
    return Exchange("POST", "/api/v1/heartbeats", {}, {"Heartbeats": list(each)})


def told(slots: str, instance: str | None = None) -> Exchange:
    headers = {"X-Task-Slots": slots, **({} if instance is None else {"X-Task-Instance": instance})}
    return post("heartbeat", 1, b"", **headers)


STORIES: dict[str, list[Any]] = {
    "a task is reported on until it is completed, and asked for": [
        get(),
        Exchange("GET", "/api/CacheConnectorGet?taskId={id}"),
        report("running", Status="running - half", Progress=0.5),
        History(),
        get("/result"),
        put("result", b"result"),
        report("completed", Status="completed - 6 words"),
        report("completed", Status="completed - 6 words"),
        report("completed", Status="completed - 7 words"),
        report("running"),
        report("failed"),
        put("result", b"other"),
        post("heartbeat"),
        get(),
        get("/result"),
        History(),
    ],
    "an attempt that runs for too long is nobody's any more, whatever is heard of it": [
        MaxRun(3),
        get(),
        report("running", Status="running - half", Progress=0.5),
        post("heartbeat"),
        Overrun(3),
        NextDispatch(2),
        History(),
        report("running"),
        post("heartbeat"),
        completed_with("too late"),
        completed_with("in time", attempt=2),
        get(),
        History(),
    ],
    "a report of another attempt is refused": [
        report("running", 2),
        put("result", b"result", 2),
        put("checkpoint", b"checkpoint", 2),
        post("heartbeat", 2),
        post("release", 2),
        completed_with("", attempt=2),
        report("completed", "1"),
    ],
    "a report without an attempt speaks for the current one": [
        report("running", None),
        Exchange("PUT", f"{TASK}/result", {}, b"result"),
        Exchange("POST", f"{TASK}/heartbeat"),
        report("completed", None, Status="completed - one"),
        report("completed", None, Status="completed - two"),
        report("running", None),
        get(),
    ],
    "a text tells the end": [
        report("running", None, Status="completed - see there"),
        get(),
        report("running", None, Status="still at it"),
        report("completed", None),
        get(),
    ],
    "a result completes its task in one step": [
        completed_with("completed%20-%20%C3%A4"),
        completed_with("completed%20-%20%C3%A4"),
        completed_with("another"),
        completed_with("completed%20-%20%C3%A4", b"other"),
        report("completed", Status="completed - \u00e4"),
        report("running"),
        get(),
    ],
    "a completion text that is no UTF-8 is refused": [completed_with("%ff"), get()],
    "heartbeats tell progress": [
        post("heartbeat"),
        post("heartbeat", 1, {"Progress": 0.25, "Status": "features"}),
        post("heartbeat", 1, {"progress": 1}),
        post("heartbeat", 1, {"Progress": 1.5}),
        post("heartbeat", 1, {"Progress": True}),
        post("heartbeat", 1, {"Status": 5}),
        post("heartbeat", 1, {"Percent": 5}),
        post("heartbeat", 1, b"half"),
        post("heartbeat", "one"),
        get(),
        History(),
    ],
    "several heartbeats have their own outcomes": [
        beats(
            {"TaskId": "{id}", "Attempt": 1, "Progress": 0.5, "Status": "half"},
            {"TaskId": "{id}", "Attempt": 2},
            {"taskid": "{id}"},
            {"TaskId": "no-such-task", "Attempt": 1},
        ),
        beats(),
        beats({"TaskId": "{id}", "Attempt": 0}),
        beats({"TaskId": "{id}", "Progress": 2}),
        beats({"Attempt": 1}),
        Exchange("POST", "/api/v1/heartbeats", {}, []),
        Exchange("POST", "/api/v1/heartbeats", {}, {"Beats": []}),
        get(),
    ],
    "a task is given back and comes again": [
        report("running"),
        put("result", b"half a result"),
        put("checkpoint", b"so far"),
        post("release", 1, {"Status": "the service is stopping"}),
        post("release", 1, {"Status": "the service is stopping"}),
        post("heartbeat", 1),
        NextDispatch(2),
        post("release", 1),
        Exchange("GET", f"{TASK}/checkpoint"),
        get("/result"),
        post("release", 2, b""),
        NextDispatch(3),
        report("completed", 3),
        Exchange("GET", f"{TASK}/checkpoint"),
        put("checkpoint", b"late", 3),
        post("release", 3),
        History(),
    ],
    "a failed attempt is given back": [
        post("release", 1, {"Failed": True, "Status": "out of memory"}),
        NextDispatch(2),
        post("release", 2, {"failed": True}),
        NextDispatch(3),
        get(),
    ],
    "a failed attempt waits as long as its service says": [
        post("release", 1, {"Failed": True, "RetryAfterSeconds": 3600}),
        get(),
        post("heartbeat", 2),
    ],
    "a release that makes no sense is refused": [
        Exchange("POST", f"{TASK}/release"),
        post("release", "one"),
        post("release", 1, {"Failed": "yes"}),
        post("release", 1, {"RetryAfterSeconds": -1}),
        post("release", 1, {"RetryAfterSeconds": 90_000}),
        post("release", 1, {"After": 1}),
        post("release", 1, {"Status": "x" * 1025}),
        get(),
    ],
    "a task that is released for a while is not dispatched meanwhile": [
        post("release", 1, {"RetryAfterSeconds": 3600}),
        get(),
        post("heartbeat", 2),
        report("completed", 2),
    ],
    "checkpoints are kept": [
        Exchange("GET", f"{TASK}/checkpoint"),
        put("checkpoint", b"one"),
        put("checkpoint", b"two", **{"Content-Encoding": "x-own"}),
        Exchange("GET", f"{TASK}/checkpoint"),
    ],
    "a cancelled task takes no more": [
        report("running"),
        Exchange("DELETE", TASK),
        Exchange("DELETE", TASK),
        report("running"),
        report("completed"),
        report("completed", None),
        put("result", b"result"),
        put("checkpoint", b"checkpoint"),
        post("heartbeat"),
        post("release"),
        beats({"TaskId": "{id}", "Attempt": 1}),
        get(),
        History(),
    ],
    "a silent attempt is followed by another": [
        report("running"),
        put("result", b"result"),
        Silence(),
        NextDispatch(2),
        report("running", 1),
        report("completed", 1),
        put("result", b"result", 1),
        get("/result"),
        report("completed", 2),
        History(),
    ],
    "a task goes on to its next step": [
        put("result", b"of the first step"),
        put("checkpoint", b"of the first step"),
        report("created", 1, PublishToGrid=True, Endpoint="{endpoint}/next?x=1", Body='{"for": "the next"}'),
        NextDispatch(2),
        get("/result"),
        Exchange("GET", f"{TASK}/checkpoint"),
        report("completed", 2),
        get(),
    ],
    "a service sends its task on with a body": [
        put("checkpoint", b"of the first step"),
        send_on("/second?x=1", body=b"for the second", **{"Content-Type": "a/b", "Content-Encoding": "x-own"}),
        NextDispatch(2),
        send_on("/second?x=1", body=b"for the second", **{"Content-Type": "a/b", "Content-Encoding": "x-own"}),
        send_on("/second?x=1", body=b"another"),
        get("/result"),
        Exchange("GET", f"{TASK}/checkpoint"),
        completed_with("", attempt=2),
        send_on("/third", 2),
        History(),
    ],
    "a service sends its task on with its result": [
        send_on("/second", **{"X-Next-Body": "result"}),
        put("result", b"result"),
        send_on("/second", **{"X-Next-Body": "result"}),
        NextDispatch(2),
        send_on("/second", **{"X-Next-Body": "result"}),
        get("/result"),
        put("result", b"of the second", 2),
        send_on("/third", 2, **{"X-Next-Body": "current"}),
        NextDispatch(3),
        get("/result"),
        report("completed", 3),
        get("/result"),
        History(),
    ],
    "a service sends its task on in a way that makes no sense": [
        Exchange("POST", f"{TASK}/next{{prefix}}/second"),
        send_on("/second", "one"),
        send_on("/second", 2),
        send_on("/second", **{"X-Next-Body": "given"}),
        send_on("/second", body=b"x", **{"X-Next-Body": "result"}),
        Exchange("PUT", f"{TASK}/next{{prefix}}/second", {"X-Task-Attempt": "1"}),
        get(),
    ],
    "a pipeline goes on by itself": [
        Pipeline("/second?x=1", "/third"),
        get(),
        put("result", b"early"),
        completed_with("first%20words", b"of the first"),
        NextDispatch(2),
        completed_with("first%20words", b"of the first"),
        completed_with("", b"another"),
        report("completed", 1),
        get(),
        get("/result"),
        report("running", 2, Status="halfway", Progress=0.5),
        report("completed", 2, Status="completed - second"),
        NextDispatch(3),
        get(),
        completed_with("", b"of the third", 3),
        completed_with("", b"of the third", 3),
        get(),
        get("/result"),
        History(),
    ],
    "a step of a pipeline fails": [
        Pipeline("/second"),
        report("completed"),
        NextDispatch(2),
        post("release", 2, {"Failed": True}),
        NextDispatch(3),
        report("failed", 3, Status="failed - here"),
        get(),
        History(),
    ],
    "bad reports are refused": [
        Exchange("POST", UPSERT, {}, b""),
        Exchange("POST", UPSERT, {}, b"{}"),
        Exchange("POST", UPSERT, {}, b"TaskId=7"),
        Exchange("POST", UPSERT, {}, b"[]"),
        report("finished"),
        report("running", 0),
        report("running", TaskId="no id!"),
        report("running", TaskId="no-such-task"),
        report("running", Progress=2),
        Exchange("POST", UPSERT, {}, {"TaskId": "{id}", "BackendStatus": ["running"]}),
    ],
    "reports come in the forms of legacy clients": [
        Exchange("POST", UPSERT, {}, [{"taskid": "{id}", "backendstatus": " Running ", "status": "on it"}]),
        Exchange("POST", UPSERT, {}, {"TaskId": "{id}", "BackendStatus": "running", "Status": 1.5}),
        Exchange("POST", UPSERT, {}, {"TaskId": "{id}", "BackendStatus": "running", "Status": True}),
        Exchange("POST", UPSERT, {}, {"TaskId": "{id}", "PublishToGrid": "false", "Endpoint": "http://localhost"}),
        Exchange("POST", "/api/CurrentProcessingUpsert", {}, {"ApiPath": "/v1/x", "ServiceCluster": "c"}),
        Exchange("GET", "/api/CacheConnectorGet?taskId=no-such-task"),
        Exchange("GET", "/api/CacheConnectorGet"),
    ],
    "what an instance tells has to make sense": [
        told("4", "pod-1"),
        told("0", "pod-1"),
        told("many"),
        told("10001"),
        told("-1"),
        told("4", "two words"),
        told("4", "x" * 129),
        get(),
    ],
    "unknown tasks, routes and keys are refused": [
        Exchange("GET", "/api/v1/tasks/no-such-task"),
        Exchange("PUT", "/api/v1/tasks/no-such-task/result", {}, b"x"),
        Exchange("POST", "/api/v1/tasks/no-such-task/heartbeat"),
        Exchange("GET", "/api/v1/nothing"),
        Exchange("PUT", TASK),
        Exchange("POST", UPSERT, {"x-functions-key": "wrong"}, b"{}"),
        Exchange("GET", "/api/v1/health", {"x-functions-key": ""}),
    ],
    "a body in chunks is lost": [
        Exchange("PUT", f"{TASK}/result", {"X-Task-Attempt": "1"}, Pieces((b"a", b"b"))),
        get("/result"),
    ],
}
DIFFERENT = {"Timestamp", "TaskId", "CreatedAt", "Endpoint", "EndpointPath", "LeaseSeconds", "HostBodyBytes"}
"""Members of these names are on both sides, with values of their own."""
ONLY_OF_A_QUEUE = {"QueuePosition", "EstimatedStart"}


@contextmanager
def real_side(backbone: Backbone, story: list[Any]) -> Iterator[Side]:
    is_brief = any(isinstance(step, Silence) for step in story)
    place = backbone.place(brief_lease=is_brief)
    with ScriptedService(place.port) as service:
        headers = {"x-functions-key": backbone.key, "Content-Type": "text/plain"}
        pipeline = ", ".join(Pipeline.of(story, place.path))
        headers.update({"Pipeline": pipeline} if pipeline else {})
        max_run_s = MaxRun.of(story)
        headers.update({"Max-Run": f"{max_run_s:g}"} if max_run_s else {})
        url = f"{backbone.url}/api/v1/submit{place.path}/first"
        requests.post(url, data=b"a body", headers=headers, timeout=PATIENCE_S).raise_for_status()
        yield Side(backbone.url, backbone.key, service, service.next())


@contextmanager
def played_side(story: list[Any]) -> Iterator[tuple[Side, PlayedBackbone]]:
    with ScriptedService() as service, PlayedBackbone(service.url, lease_s=LEASE_S) as played:
        pipeline = Pipeline.of(story, "/v1/test")
        played.submit(
            "/v1/test/first", b"a body", content_type="text/plain", pipeline=pipeline, max_run_s=MaxRun.of(story)
        )
        yield Side(played.url, played.key, service, service.next()), played


def with_endpoint(exchange: Exchange, side: Side) -> Exchange:
    if not isinstance(exchange.body, dict):
        return exchange
    body = json.loads(json.dumps(exchange.body).replace("{endpoint}", side.service.url + side.prefix))
    return Exchange(exchange.method, exchange.path, exchange.headers, body)


def shown(response: requests.Response) -> Any:
    """What of an answer must be the same on both sides."""
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    if not kind.startswith("application/"):
        return response.status_code, kind, response.content, response.headers.get("Content-Encoding")
    return response.status_code, kind, comparable(response.json(), response.status_code)


def comparable(value: Any, status: int) -> Any:
    if isinstance(value, list):
        return [comparable(each, status) for each in value]
    if not isinstance(value, dict):
        return value
    # The words of what is wrong with a request are for people; which member it is, is not. The played backbone names
    # the first one.
    left_out = ONLY_OF_A_QUEUE | ({"detail"} if status in (400, 404) else set())
    if "Dependencies" in value:  # health: the app's other tests leave services that are away
        left_out |= {"Status"}
        value = {**value, "Dependencies": {**value["Dependencies"], "Backends": "…"}}
    return {
        name: "…" if name in DIFFERENT else comparable(member[-1:] if name == "errors" else member, status)
        for name, member in value.items()
        if name not in left_out
    }


def history_of(side: Side, played: PlayedBackbone | None) -> Any:
    """The transitions of the task; the last one has the progress."""
    if played is None:
        return side.call("GET", f"{TASK}/history", {}, b"").json()["Events"]
    task = played.tasks.find(side.dispatch.task_id)
    told = {} if task.progress is None else {"Progress": task.progress}
    return [*task.history[:-1], {**task.history[-1], **told}]


def without_beginning(story: list[Any]) -> list[Any]:
    return [step for step in story if not isinstance(step, (Pipeline, MaxRun))]


def run(story: list[Any], side: Side, played: PlayedBackbone | None) -> list[Any]:
    seen: list[Any] = []
    for step in without_beginning(story):
        if isinstance(step, NextDispatch):
            dispatch = side.service.next()
            assert dispatch.task_id == side.dispatch.task_id
            seen.append((dispatch.attempt, dispatch.path.rpartition("/")[2], dispatch.body))
        elif isinstance(step, Silence):
            if played is not None:
                played.advance(LEASE_S)
        elif isinstance(step, Overrun):
            if played is not None:
                played.advance(step.seconds)
        elif isinstance(step, History):
            seen.append(comparable(history_of(side, played), 200))
        else:
            exchange = with_endpoint(step, side)
            seen.append(shown(side.call(exchange.method, exchange.path, exchange.headers, exchange.body)))
    return seen


@pytest.mark.parametrize("name", STORIES)
def test_the_played_backbone_answers_as_the_real_one(name: str, backbone: Backbone) -> None:
    story = STORIES[name]
    with real_side(backbone, story) as real:
        expected = run(story, real, None)
    with played_side(story) as (side, played):
        found = run(story, side, played)
    told = [step for step in without_beginning(story) if not isinstance(step, (Silence, Overrun))]
    for step, ours, theirs in zip(told, found, expected):
        assert ours == theirs, step
