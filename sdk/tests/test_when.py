"""When a task runs, again and again, and many at a time: both faces of the client and the real app."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import pytest
from both_faces import blocking_client
from conftest import Backbone
from model import Model, Models, done
from scripted_server import ScriptedServer, answer

from taskbackbone import TaskClient, errors, verify_callback
from taskbackbone._calls import Caller, Deadline, TaskView, asked, first_ends
from taskbackbone._core import Answer, Call, Sleep
from taskbackbone._core import Backbone as Address
from taskbackbone._drivers import Requests, run_sync

PATIENCE_S = 60.0
FACES = pytest.mark.parametrize("face", [TaskClient, blocking_client], ids=["sync", "async"])


@pytest.fixture(params=[TaskClient, blocking_client], ids=["sync", "async"])
def client(request: pytest.FixtureRequest, backbone: Backbone) -> Iterator[Any]:
    client = request.param(backbone.url, backbone.key)
    yield client
    client.close()


@pytest.fixture(scope="module")
def models(backbone: Backbone) -> Iterator[Models]:
    with Models(backbone.place()) as models:
        yield models


@pytest.fixture
def model(models: Models) -> Iterator[Model]:
    with models.model() as model:
        model.reply = lambda dispatch: done(dispatch.body.upper(), dispatch.headers["content-type"])
        yield model


@pytest.fixture
def path(models: Models) -> str:
    """An endpoint where tasks wait."""
    return models.new_path()


def now() -> datetime:
    return datetime.now(timezone.utc)


class TestHeaders:
    def test_a_time_is_a_number_of_seconds_or_a_time_with_its_zone(self) -> None:
        moment = datetime(2026, 11, 30, 6, 0, tzinfo=timezone(timedelta(hours=1)))
        told = asked(start_after=300, start_before=moment, max_run_s=0.5, callback="any", priority=0)
        assert told == {
            "Start-After": "300",
            "Start-Before": "2026-11-30T06:00:00.000+01:00",
            "Max-Run": "0.5",
            "Callback": "any",
            "Priority": "0",
        }
        assert asked(start_after=0) == {"Start-After": "0"}
        assert asked() == {}

    @FACES
    def test_a_time_without_a_zone_is_refused_here(self, face: Any) -> None:
        client = face("http://b.example", "key")
        with pytest.raises(ValueError, match="zone"):
            client.submit("/v1/x", b"", start_after=now().replace(tzinfo=None))
        client.close()


class TestLater:
    def test_a_task_starts_no_sooner_than_it_is_to(self, client: Any, model: Model) -> None:
        task = client.submit(model.path, "a", start_after=1.5)
        assert (task.state, task.queue_position) == ("created", None)
        assert timedelta(seconds=0.5) < task.start_at - now() <= timedelta(seconds=2.5)
        assert task.result(PATIENCE_S).text() == "A"
        history = task.history()
        [claimed] = [event["Timestamp"] for event in history if event["State"] == "dispatched"]
        assert claimed >= task.document["StartAt"]

    def test_it_may_be_a_time_and_be_cancelled_before(self, client: Any, model: Model) -> None:
        at = now() + timedelta(days=1)
        task = client.submit(model.path, "a", start_after=at, idempotency_key=os.urandom(8).hex())
        assert abs(task.start_at - at) < timedelta(seconds=1)
        assert client.queue(model.path)["Delayed"] == 1
        assert task.cancel().state == "cancelled"

    def test_a_task_that_was_not_dispatched_in_time_fails(self, client: Any, path: str) -> None:
        task = client.submit(path, "a", start_before=1)
        assert task.expires_at is not None
        with pytest.raises(errors.TaskFailed, match="expired"):
            task.result(PATIENCE_S)

    def test_an_attempt_may_run_for_so_long(self, client: Any, path: str) -> None:
        task = client.submit(path, "a", max_run_s=90)
        assert task.document["MaxRunSeconds"] == 90
        task.cancel()


class TestCallbacks:
    def test_what_the_backbone_signs_is_taken(self, client: Any, backbone: Backbone, models: Models) -> None:
        secret, came = backbone.callbacks["secret"], Queue[Any]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                came.put((verify_callback(self.headers, body, secret), dict(self.headers), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", backbone.callbacks["port"]), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            with models.model() as model:
                model.reply = lambda dispatch: done(dispatch.body, text="completed")
                task = client.submit(model.path, "a", callback="tests")
                document, headers, body = came.get(timeout=PATIENCE_S)
                assert (document["TaskId"], document["BackendStatus"]) == (task.id, "completed")
                with pytest.raises(errors.InvalidCallback):
                    verify_callback(headers, body + b" ", secret)
                batch = client.map(model.path, [b"1", b"2"], callback="tests")
                assert came.get(timeout=PATIENCE_S)[0]["TaskId"] == batch.id
                assert came.empty()
        finally:
            server.shutdown()
            server.server_close()

    def test_a_destination_that_is_unknown_is_refused(self, client: Any, path: str) -> None:
        with pytest.raises(errors.Refused, match="Callback"):
            client.submit(path, "a", callback="nobody")


class TestSchedules:
    def test_a_schedule_is_put_seen_paused_run_and_deleted(self, client: Any, model: Model) -> None:
        name = f"s-{os.urandom(4).hex()}"
        how = {"cron": "30 6 * * mon-fri", "time_zone": "Europe/Berlin", "priority": 7, "overlap": "queue"}
        how |= {"start_before_s": 21_600, "max_run_s": 90.5}
        put = client.schedules.put(name, model.path, "again", query={"a": "b c"}, **how)
        told = {"Cron": "30 6 * * mon-fri", "TimeZone": "Europe/Berlin", "Priority": 7, "Overlap": "queue"}
        told |= {"StartBefore": 21_600, "MaxRun": 90.5, "Callback": None}
        assert {member: put[member] for member in told} == told
        assert (put["Path"], put["Query"], put["ContentType"]) == (model.path, "a=b+c", "text/plain; charset=utf-8")
        assert len(client.schedules.get(name)["NextTimes"]) == 5
        assert name in [schedule["Name"] for schedule in client.schedules.list()]
        assert client.schedules.pause(name)["Paused"] is True
        assert client.schedules.resume(name)["Paused"] is False
        assert client.schedules.run(name).result(PATIENCE_S).text() == "AGAIN"
        [run] = client.schedules.get(name)["Runs"]
        assert (run["Outcome"], run["Asked"]) == ("started", True)
        client.schedules.delete(name)
        with pytest.raises(errors.NotFound):
            client.schedules.get(name)

    @pytest.mark.parametrize("size", [300, 600_000])
    def test_bytes_are_uploaded(self, client: Any, model: Model, size: int) -> None:
        name, body = f"s-{os.urandom(4).hex()}", (b"\xffab" * size)[:size]
        put = client.schedules.put(name, model.path, body, cron="0 0 1 1 *", content_type="image/x-any")
        assert (put["BodyBytes"], put["ContentType"]) == (size, "image/x-any")
        result = client.schedules.run(name).result(PATIENCE_S)
        assert (result.bytes(), result.content_type) == (body.upper(), "image/x-any")
        client.schedules.delete(name)

    def test_what_cannot_be_right_is_refused(self, client: Any, model: Model) -> None:
        with pytest.raises(errors.InvalidRequest, match="Cron"):
            client.schedules.put("any", model.path, cron="every morning")
        with pytest.raises(errors.InvalidRequest, match="Callback"):
            client.schedules.put("any", model.path, cron="0 0 1 1 *", callback="nobody")
        with pytest.raises(errors.NotFound):
            client.schedules.pause("there-is-none")


def bare(task: Any) -> Any:
    """The task itself, where ``both_faces`` has wrapped it."""
    return getattr(task, "_subject", task)


class TestManyAtATime:
    def test_tasks_are_told_as_they_end(self, client: Any, models: Models, model: Model) -> None:
        waiting = client.submit(models.new_path(), "waits")
        tasks = [client.submit(model.path, text) for text in ("a", "b", "c")]
        given = [*map(bare, [waiting, *tasks[:2]]), tasks[2].id]
        ended = iter(client.as_completed(given, timeout_s=PATIENCE_S))
        first = [next(ended) for _ in range(3)]
        assert sorted(task.id for task in first) == sorted(task.id for task in tasks)
        assert sorted(task.result().text() for task in first) == ["A", "B", "C"]
        client.task(waiting.id).cancel()
        assert [task.state for task in ended] == ["cancelled"]

    def test_a_wait_that_is_over_leaves_them(self, client: Any, path: str) -> None:
        tasks = [client.submit(path, "a"), client.submit(path, "b")]
        with pytest.raises(errors.WaitTimeout, match="2 tasks have not ended"):
            list(client.as_completed(map(bare, tasks), timeout_s=0.5))
        assert [client.task(task.id).cancel().state for task in tasks] == ["cancelled"] * 2

    def test_one_that_is_unknown_is_told(self, client: Any) -> None:
        with pytest.raises(errors.NotFound, match="no-such"):
            list(client.as_completed(["no-such"], timeout_s=PATIENCE_S))

    def test_many_small_items_take_few_calls(
        self, client: Any, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        call = Address.call
        monkeypatch.setattr(Address, "call", lambda *args, **how: calls.append(args[2]) or call(*args, **how))
        batch = client.map(model.path, (b"%d" % number for number in range(300)), concurrency=2)
        assert (batch.total, len({path for path in calls if "/submit" in path})) == (300, 2)
        assert sum("/submit" in path for path in calls) < 150
        assert batch.wait(PATIENCE_S).completed == 300


class Server:
    """Answers waits for many. It says of each task that it has ended once it was asked *times* before."""

    def __init__(self, times: int = 0, *, is_older: bool = False) -> None:
        self.times = times
        self.is_older = is_older
        self.asked: list[list[str]] = []
        self.slept_s = 0.0

    def run(self, steps: Any) -> Any:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    self.slept_s += step.seconds
                    step = steps.send(None)
                else:
                    step = steps.send(self._answer(step))
        except StopIteration as stop:
            return stop.value

    def _answer(self, call: Call) -> Answer:
        if call.method == "GET":
            task_id = call.url.rpartition("/")[2].partition("?")[0]
            return Answer(
                200, {"etag": '"2"'}, json.dumps({"TaskId": task_id, "BackendStatus": "completed"}).encode()
            )
        if self.is_older:
            return Answer(404, {})
        assert isinstance(call.body, bytes)
        told = json.loads(call.body)
        self.asked.append(told["TaskIds"])
        state = "running" if len(self.asked) <= self.times else "completed"
        tasks = [{"ETag": '"1"', "Task": {"TaskId": one, "BackendStatus": state}} for one in told["TaskIds"]]
        return Answer(200, {}, json.dumps({"Tasks": tasks, "Unknown": []}).encode())


def tasks_of(caller: Caller, count: int) -> list[TaskView]:
    return [TaskView(caller, {"TaskId": str(number)}) for number in range(count)]


class TestWaitingForMany:
    def test_two_hundred_are_asked_for_with_one_call(self) -> None:
        server, caller = Server(), Caller(Address("http://b.example"))
        ended = server.run(first_ends(caller, tasks_of(caller, 450), Deadline(60)))
        assert [len(ids) for ids in server.asked] == [200, 200, 50]
        assert len(ended) == 450

    def test_what_changes_all_the_time_is_not_asked_for_all_the_time(self) -> None:
        server, caller = Server(times=5), Caller(Address("http://b.example"))
        server.run(first_ends(caller, tasks_of(caller, 3), Deadline(60)))
        assert len(server.asked) == 6
        assert server.slept_s == pytest.approx(1.0, abs=0.2)

    def test_an_older_backbone_is_asked_for_one_after_the_other(self) -> None:
        server, caller = Server(is_older=True), Caller(Address("http://b.example"))
        first = server.run(first_ends(caller, tasks_of(caller, 3), Deadline(60)))
        assert [task.id for task in first] == ["0"]

    def test_an_outage_at_the_end_of_the_time_is_no_other_error(self) -> None:
        with ScriptedServer([answer(503, headers={"Retry-After": "1"})] * 9) as scripted:
            caller = Caller(Address(scripted.url), retry_for_s=30)
            with pytest.raises(errors.WaitTimeout):
                run_sync(first_ends(caller, tasks_of(caller, 2), Deadline(0.3)), Requests())
