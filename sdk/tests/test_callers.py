"""Callers and the real app, with both faces of the client."""

from __future__ import annotations

import gzip
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from both_faces import blocking_client
from conftest import Backbone
from model import Dispatch, Model, Models, Reply, done

from taskbackbone import TaskClient, errors

PATIENCE_S = 60.0
Report = Callable[..., None]


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
        yield model


@pytest.fixture
def path(models: Models) -> str:
    """An endpoint where tasks wait."""
    return models.new_path()


def echo(dispatch: Dispatch) -> Reply:
    return done(dispatch.body, dispatch.headers["content-type"], "completed%20-%20echo")


def eventually(condition: Callable[[], Any]) -> Any:
    began_s = time.monotonic()
    while not (value := condition()):
        assert time.monotonic() - began_s < PATIENCE_S
        time.sleep(0.02)
    return value


class TestSubmit:
    @pytest.mark.parametrize(
        ("body", "arrives", "content_type"),
        [
            (b"\x00\xff", b"\x00\xff", "application/octet-stream"),
            (bytearray(b"abc"), b"abc", "application/octet-stream"),
            (memoryview(b"abc"), b"abc", "application/octet-stream"),
            ("to be or nöt", "to be or nöt".encode(), "text/plain; charset=utf-8"),
            ({"bands": [1, 2], "ä": None}, '{"bands": [1, 2], "ä": null}'.encode(), "application/json"),
            ([1, 2], b"[1, 2]", "application/json"),
            (12.5, b"12.5", "application/json"),
            (None, b"", "application/octet-stream"),
            (io.BytesIO(b"a stream"), b"a stream", "application/octet-stream"),
            (iter([b"a ", b"generator"]), b"a generator", "application/octet-stream"),
        ],
    )
    def test_a_body_arrives_byte_for_byte(
        self, client: Any, model: Model, body: Any, arrives: bytes, content_type: str
    ) -> None:
        if isinstance(body, io.BytesIO):
            body.seek(0)
        elif hasattr(body, "__next__"):
            body = iter([b"a ", b"generator"])
        client.submit(model.path, body)
        dispatch = model.dispatches.get(timeout=PATIENCE_S)
        assert (dispatch.body, dispatch.headers["content-type"]) == (arrives, content_type)

    def test_a_file_may_be_named_or_open(self, client: Any, model: Model, tmp_path: Path) -> None:
        file = tmp_path / "photo.jpg"
        file.write_bytes(b"\xff\xd8 and so on")
        with file.open("rb") as opened:
            opened.seek(2)
            for body in (file, opened):
                client.submit(model.path, body)
        first, second = model.dispatches.get(timeout=PATIENCE_S), model.dispatches.get(timeout=PATIENCE_S)
        assert {first.body, second.body} == {b"\xff\xd8 and so on", b" and so on"}
        assert first.headers["content-type"] == second.headers["content-type"] == "image/jpeg"

    def test_a_pipe_is_read_to_its_end_first(self, client: Any, model: Model) -> None:
        content = os.urandom(3_000_000)
        reader, writer = os.pipe()

        def write() -> None:
            with os.fdopen(writer, "wb") as out:
                out.write(content)

        threading.Thread(target=write, daemon=True).start()
        with os.fdopen(reader, "rb") as pipe:
            client.submit(model.path, pipe)
        assert model.dispatches.get(timeout=PATIENCE_S).body == content

    def test_a_stream_that_fails_half_way_submits_nothing(self, client: Any, model: Model) -> None:
        def broken() -> Iterator[bytes]:
            yield b"the first half"
            raise RuntimeError("the camera is gone")

        with pytest.raises(RuntimeError, match="the camera is gone"):
            client.submit(model.path + "/broken", broken())
        assert list(client.tasks(model.path + "/broken")) == []

    @pytest.mark.parametrize("body", [io.StringIO("text"), {"text"}, object(), float("nan")])
    def test_what_is_no_body_is_refused_here(self, client: Any, path: str, body: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            client.submit(path, body)

    def test_a_stream_of_text_is_refused(self, client: Any, path: str) -> None:
        with pytest.raises(TypeError):
            client.submit(path, iter(["text"]))

    def test_query_priority_and_content_type_go_along(self, client: Any, model: Model) -> None:
        query = {"least": 2, "fine": True, "band": [1, "a b&c"], "ä": "ö"}
        task = client.submit(model.path + "/x y?first=1", b"", query=query, priority=9, content_type="image/x-any")
        dispatch = model.dispatches.get(timeout=PATIENCE_S)
        assert dispatch.path == (model.path + "/x%20y?first=1&least=2&fine=true&band=1&band=a+b%26c&%C3%A4=%C3%B6")
        assert dispatch.headers["content-type"] == "image/x-any"
        assert task.document["Priority"] == 9

    def test_a_query_that_the_backbone_would_keep_is_refused(self, client: Any, path: str) -> None:
        with pytest.raises(ValueError, match="code"):
            client.submit(path, b"", query={"code": "x"})

    @pytest.mark.parametrize("path", ["/v1/test/../x", "/v1/./test", "/v1/%2e%2E/x"])
    def test_a_path_that_would_lead_elsewhere_is_refused(self, client: Any, path: str) -> None:
        with pytest.raises(ValueError, match="dots"):
            client.submit(path, b"")

    def test_an_unknown_path_is_not_found(self, client: Any) -> None:
        with pytest.raises(errors.NotFound) as refused:
            client.submit("/v9/nothing", b"")
        assert refused.value.kind == "unknown-endpoint"

    def test_a_wrong_key_is_not_allowed(self, backbone: Backbone) -> None:
        with TaskClient(backbone.url, "the-wrong-key") as client, pytest.raises(errors.NotAllowed) as refused:
            client.submit("/v1/test/0", b"")
        assert "the-wrong-key" not in f"{refused.value} {client!r}"

    def test_an_owner_without_the_gateways_key_is_not_allowed(self, backbone: Backbone) -> None:
        with (
            TaskClient(backbone.url, backbone.key, owner="ann") as client,
            pytest.raises(errors.NotAllowed) as refused,
        ):
            client.submit("/v1/test/0", b"")
        assert refused.value.kind == "not-the-gateway"

    def test_a_pipeline_goes_on_to_the_next_model_with_the_result(self, client: Any, models: Models) -> None:
        with models.model() as first, models.model() as second:
            first.reply = lambda dispatch: done(dispatch.body + b" first", "image/x-any")
            second.reply = lambda dispatch: done(dispatch.body + b" second")
            way = [second.path + "?band=1,/2&a=b c", second.path + "/a,"]
            task = client.submit(first.path, b"body", pipeline=way)
            assert (task.step, task.steps) == (1, 3)
            assert task.result(PATIENCE_S).bytes() == b"body first second second"
            assert (task.step, task.steps, task.path) == (3, 3, second.path + "/a,")
            dispatches = [second.dispatches.get(timeout=PATIENCE_S) for _ in way]
            assert dispatches[0].path == second.path + "?band=1%2C/2&a=b%20c"
            assert dispatches[0].headers["content-type"] == "image/x-any"
            assert client.run(first.path, b"body", pipeline=second.path).bytes() == b"body first second"
            assert client.submit(first.path, b"body").steps is None

    def test_a_pipeline_to_nowhere_is_not_found(self, client: Any, path: str) -> None:
        with pytest.raises(errors.NotFound, match="/v9/nothing"):
            client.submit(path, b"", pipeline=[path, "/v9/nothing"])
        with pytest.raises(ValueError, match="dots"):
            client.submit(path, b"", pipeline=["/v1/../x"])

    def test_one_key_is_one_task(self, client: Any, path: str) -> None:
        key = os.urandom(8).hex()
        first, second, other = (client.submit(path, b"a", idempotency_key=one) for one in (key, key, None))
        assert first.id == second.id != other.id
        with pytest.raises(errors.KeyReused):
            client.submit(path, b"b", idempotency_key=key)

    def test_a_body_over_the_limit_is_not_sent(self, client: Any, path: str, tmp_path: Path) -> None:
        file = tmp_path / "large"
        file.touch()
        os.truncate(file, 100 * 1024**3 + 1)
        with pytest.raises(errors.TooLarge, match="at most"):
            client.submit(path, file)

    def test_one_that_the_service_would_not_take_is_not_uploaded(
        self, client: Any, path: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "large"
        file.touch()
        os.truncate(file, client.max_body_bytes() + 1)
        with pytest.raises(errors.Conflict) as refused:
            client.submit(path, file)
        assert refused.value.kind == "no-reference"


class TestWait:
    def test_the_result_of_a_quick_model(self, client: Any, model: Model) -> None:
        model.reply = echo
        task = client.submit(model.path, {"words": 6})
        assert task.result(timeout_s=PATIENCE_S).json() == {"words": 6}
        assert (task.state, task.status, task.is_finished) == ("completed", "completed - echo", True)

    def test_run_is_submit_and_result(self, client: Any, model: Model) -> None:
        model.reply = echo
        assert client.run(model.path, "to be", timeout_s=PATIENCE_S).text() == "to be"
        assert client.run(model.path, "to be").text() == "to be"

    def test_each_change_is_told(self, client: Any, model: Model, report: Report) -> None:
        seen: list[tuple[str, str, float | None]] = []

        def on_change(task: Any) -> None:
            seen.append((task.state, task.status, task.progress))
            if len(seen) == 1:
                report(task.id, BackendStatus="running", Status="halfway", Progress=0.5)
            elif task.progress == 0.5 and task.state == "running":
                report(task.id, BackendStatus="completed", Status="completed - now")

        task = client.submit(model.path, b"")
        dispatch = model.dispatches.get(timeout=PATIENCE_S)
        report(dispatch.task_id, BackendStatus="running", Status="begun")
        assert task.wait(PATIENCE_S, on_change).state == "completed"
        assert seen[-1][:2] == ("completed", "completed - now")
        assert ("running", "halfway", 0.5) in seen

    def test_a_failed_task_says_why(self, client: Any, model: Model, report: Report) -> None:
        task = client.submit(model.path, b"")
        report(model.dispatches.get(timeout=PATIENCE_S).task_id, BackendStatus="failed", Status="failed - no bands")
        with pytest.raises(errors.TaskFailed, match="failed - no bands") as failed:
            task.result(PATIENCE_S)
        assert failed.value.task.id == task.id

    def test_a_completed_task_without_a_result_says_so(self, client: Any, model: Model, report: Report) -> None:
        task = client.submit(model.path, b"")
        report(model.dispatches.get(timeout=PATIENCE_S).task_id, BackendStatus="completed", Status="completed - 6")
        with pytest.raises(errors.NotFound, match="completed - 6") as refused:
            task.result(PATIENCE_S)
        assert refused.value.kind == "no-result"
        assert task.state == "completed"

    @pytest.mark.parametrize("timeout_s", [0, 0.3])
    def test_a_wait_that_is_over_leaves_the_task(self, client: Any, path: str, timeout_s: float) -> None:
        task = client.submit(path, b"")
        with pytest.raises(errors.WaitTimeout) as late:
            task.wait(timeout_s)
        assert late.value.task.id == task.id
        assert client.task(task.id).state == "created"

    def test_a_waiting_task_has_its_position(self, client: Any, path: str) -> None:
        ids = [client.submit(path, b"").id for _ in range(3)]
        # The first one leaves the queue for each try to reach the service.
        assert eventually(lambda: [client.task(one).queue_position for one in ids] == [1, 2, 3])

    def test_a_cancelled_task_is_told(self, client: Any, path: str) -> None:
        task = client.submit(path, b"")
        assert task.cancel().state == "cancelled"
        assert task.cancel().state == "cancelled"
        with pytest.raises(errors.TaskCancelled):
            task.result()

    def test_a_finished_task_cannot_be_cancelled(self, client: Any, model: Model) -> None:
        model.reply = echo
        task = client.submit(model.path, b"").wait(PATIENCE_S)
        with pytest.raises(errors.Conflict) as refused:
            task.cancel()
        assert refused.value.task["BackendStatus"] == "completed"

    def test_a_failed_task_is_replayed(self, client: Any, model: Model, report: Report) -> None:
        task = client.submit(model.path, b"again")
        report(model.dispatches.get(timeout=PATIENCE_S).task_id, BackendStatus="failed", Status="failed - once")
        assert task.wait(PATIENCE_S).state == "failed"
        model.reply = echo
        assert task.replay().state == "created"
        assert task.result(PATIENCE_S).bytes() == b"again"
        assert [event["State"] for event in task.history()][:1] == ["created"]
        with pytest.raises(errors.Conflict):
            task.replay()

    def test_an_unknown_task_is_not_found(self, client: Any) -> None:
        for task_id in ("none", "a/b c?d#e%2f", "ü" * 100, "x" * 500, "..", ""):
            with pytest.raises(errors.NotFound) as refused:
                client.task(task_id)
            assert refused.value.kind == "no-such-task"


class TestResults:
    def test_a_large_one_comes_in_parts_and_is_saved_whole(self, client: Any, model: Model, tmp_path: Path) -> None:
        content = os.urandom(5_000_000)
        model.reply = lambda dispatch: done(content, "image/png")
        result = client.run(model.path, b"", timeout_s=PATIENCE_S)
        assert (result.content_type, result.size) == ("image/png", len(content))
        parts = list(result)
        assert b"".join(parts) == content
        assert len(parts) > 1
        saved = result.save(tmp_path)
        assert saved == tmp_path / f"{result.task.id}.png"
        assert saved.read_bytes() == content
        assert result.save(str(tmp_path / "named")).read_bytes() == content
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted([saved.name, "named"])

    def test_a_text_has_the_encoding_of_its_type(self, client: Any, model: Model) -> None:
        model.reply = lambda dispatch: done("grün".encode("latin-1"), 'text/plain; charset="latin-1"')
        result = client.run(model.path, b"", timeout_s=PATIENCE_S)
        assert result.text() == "grün"
        assert result.text("cp1251") != "grün"

    def test_an_encoded_one_is_decoded(self, client: Any, model: Model) -> None:
        packed = gzip.compress(b'{"words": 6}')
        model.reply = lambda dispatch: Reply(
            200, {"X-Task-Complete": "", "Content-Type": "application/json", "Content-Encoding": "gzip"}, packed
        )
        assert client.run(model.path, b"", timeout_s=PATIENCE_S).json() == {"words": 6}

    def test_an_empty_one_is_empty(self, client: Any, model: Model) -> None:
        model.reply = lambda dispatch: done(b"")
        assert client.run(model.path, b"", timeout_s=PATIENCE_S).bytes() == b""

    def test_what_cannot_be_saved_leaves_nothing(self, client: Any, model: Model, tmp_path: Path) -> None:
        model.reply = echo
        result = client.run(model.path, b"x", timeout_s=PATIENCE_S)
        with pytest.raises(OSError):
            result.save(tmp_path / "no" / "folder")
        assert list(tmp_path.iterdir()) == []


class TestLists:
    def test_pages_follow_each_other(self, client: Any, path: str) -> None:
        ids = [client.submit(path, b"").id for _ in range(5)]
        assert [task.id for task in client.tasks(path, page_size=2)] == ids[::-1]
        assert list(client.tasks(path, "failed")) == []
        with pytest.raises(errors.InvalidRequest) as refused:
            list(client.tasks(status="odd"))
        assert refused.value.errors[0]["pointer"] == "status"

    def test_queues_are_listed(self, client: Any, path: str) -> None:
        client.submit(path, b"")
        assert path in [queue["EndpointPath"] for queue in client.queues()]
        assert client.queue(path)["EndpointPath"] == path
        with pytest.raises(errors.NotFound):
            client.queue("/v9/nothing")


def test_what_is_printed_of_a_task_is_short(client: Any, path: str) -> None:
    task = client.submit(path, b"")
    assert task.id in repr(task)
    assert len(repr(task)) < 250
