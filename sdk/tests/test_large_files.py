"""Bodies and results that lie in the storage: callers and services of their own, with the real app and Azurite."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from both_faces import blocking_client
from conftest import HOUSE, REPOSITORY, Backbone
from model import Dispatch, Model, Models, Reply, done
from scripted_server import ScriptedServer, answer, raw, reset

from taskbackbone import AsyncTaskClient, TaskClient, TaskManager, errors

PATIENCE_S = 60.0
MIB = 1024 * 1024


@pytest.fixture(params=[TaskClient, blocking_client], ids=["sync", "async"])
def client(request: pytest.FixtureRequest, backbone: Backbone) -> Iterator[Any]:
    """One that uploads what is over 1 MiB."""
    client = request.param(backbone.url, backbone.key, upload_over_bytes=MIB)
    yield client
    client.close()


@pytest.fixture(scope="module")
def models(backbone: Backbone) -> Iterator[Models]:
    with Models(backbone.place(by_reference=True)) as models:
        yield models


@pytest.fixture
def model(models: Models, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Model]:
    """It answers each task with the body, which it fetches if the dispatch only names it."""
    monkeypatch.setenv("SERVICE_STORAGE", backbone.storage)
    monkeypatch.setenv("BACKBONE_URL", backbone.url)
    monkeypatch.setenv("BACKBONE_KEY", backbone.key)

    def echo(dispatch: Dispatch) -> Reply:
        manager, body = TaskManager.of(dispatch.headers), dispatch.body
        if manager.has_large_body:
            body = manager.save_body(tmp_path / f"body-{dispatch.task_id}").read_bytes()
        return done(body, dispatch.headers["content-type"])

    with models.model() as model:
        model.reply = echo
        yield model


def dispatched(model: Model) -> Dispatch:
    return model.dispatches.get(timeout=PATIENCE_S)


class TestBodies:
    def test_a_large_file_is_uploaded_and_only_named_to_the_model(
        self, client: Any, model: Model, tmp_path: Path
    ) -> None:
        file = tmp_path / "scene.tiff"
        file.write_bytes(os.urandom(9 * MIB + 17))
        task = client.submit(model.path, file)
        dispatch = dispatched(model)

        assert dispatch.body == b""
        assert dispatch.headers["content-type"] == "image/tiff"
        assert dispatch.headers["x-task-body-length"] == str(9 * MIB + 17)
        digest = base64.b64encode(hashlib.sha256(file.read_bytes()).digest()).decode()
        assert dispatch.headers["repr-digest"] == f"sha-256=:{digest}:"
        assert task.result(PATIENCE_S).bytes() == file.read_bytes()

    def test_so_is_whatever_else_is_large(self, client: Any, model: Model) -> None:
        content = os.urandom(2 * MIB)
        offset = io.BytesIO(b"before" + content)
        offset.seek(6)
        bodies = (content, offset, iter([content[:MIB], content[MIB:]]))
        tasks = [client.submit(model.path, body, content_type="image/x-any") for body in bodies]
        for _ in tasks:
            assert dispatched(model).headers["x-task-body-length"] == str(2 * MIB)
        for task in tasks:
            assert task.result(PATIENCE_S).bytes() == content

    def test_what_is_small_is_sent_with_the_submit(self, client: Any, model: Model) -> None:
        client.submit(model.path, b"small")
        assert dispatched(model).body == b"small"

    def test_the_same_submit_again_is_the_same_task(self, client: Any, model: Model) -> None:
        key, content = os.urandom(8).hex(), os.urandom(2 * MIB)
        tasks = [client.submit(model.path, content, idempotency_key=key) for _ in range(2)]
        assert tasks[0].id == tasks[1].id
        with pytest.raises(errors.KeyReused):
            client.submit(model.path, content[::-1], idempotency_key=key)

    def test_one_that_is_known_already_is_not_uploaded_again(
        self, client: Any, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key, content = os.urandom(8).hex(), os.urandom(2 * MIB)
        task = client.submit(model.path, content, idempotency_key=key)
        monkeypatch.setattr("taskbackbone._blobs.put", None)
        assert client.submit(model.path, content, idempotency_key=key).id == task.id

    def test_a_service_without_references_is_told_of(self, client: Any, backbone: Backbone) -> None:
        with Models(backbone.place()) as models, models.model() as plain:
            plain.reply = lambda dispatch: done(dispatch.body)
            content = os.urandom(2 * MIB)
            assert client.run(plain.path, content, timeout_s=PATIENCE_S).bytes() == content

    def test_a_file_that_changes_meanwhile_is_not_submitted(
        self, client: Any, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from taskbackbone import _blobs

        file = tmp_path / "scene.tiff"
        file.write_bytes(b"a" * 9 * MIB)
        opened = _blobs.opened_by

        def change(document: Any) -> Any:
            with file.open("r+b") as changing:
                changing.seek(5 * MIB)
                changing.write(b"b")
            return opened(document)

        monkeypatch.setattr(_blobs, "opened_by", change)
        with pytest.raises(errors.BodyUnreadable, match="changed"):
            client.submit(model.path, file)
        assert model.dispatches.empty()


async def test_a_submit_that_is_cancelled_stops_its_upload() -> None:
    holding, released = threading.Event(), threading.Event()

    def hold(connection: Any, request: Any) -> bool:
        holding.set()
        released.wait(PATIENCE_S)
        return bool(answer(201)(connection, request))

    content = os.urandom(40 * MIB)
    told = {"MaxBodyBytes": MIB, "MaxUploadBytes": 100 * MIB}
    with ScriptedServer([hold]) as storage:
        upload = {"UploadId": "u", "Url": storage.url + "/c/b?sig=secret"}
        mismatch = {"type": "urn:task-backbone:problem:upload-mismatch"}
        deeds = [answer(200, told), answer(201, upload), answer(409, mismatch)]
        with ScriptedServer(deeds) as server:
            client = AsyncTaskClient(server.url, "the-key")
            submitting = asyncio.ensure_future(client.submit("/v1/any", content))
            await asyncio.get_running_loop().run_in_executor(None, holding.wait, PATIENCE_S)
            submitting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await submitting
            released.set()
            await asyncio.get_running_loop().run_in_executor(None, join_transfers)
            await client.close()
    assert len(storage.requests) <= 4  # those that were on their way, of ten blocks
    assert len(server.requests) == 3


def join_transfers() -> None:
    """Wait for the ends of the threads that transfer."""
    for thread in threading.enumerate():
        if thread.name == "transfer":
            thread.join(PATIENCE_S)


class TestResults:
    def test_a_large_one_is_saved_in_parts(self, client: Any, model: Model, tmp_path: Path) -> None:
        content = os.urandom(20 * MIB + 17)
        result = client.run(model.path, content, timeout_s=PATIENCE_S)
        assert result.save(tmp_path / "it").read_bytes() == content
        assert b"".join(result) == content
        assert sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith("body-")) == ["it"]

    def test_a_compressed_one_is_decompressed(self, client: Any, model: Model, tmp_path: Path) -> None:
        plain = os.urandom(2 * MIB)
        model.reply = lambda dispatch: Reply(
            200, {"X-Task-Complete": "", "Content-Type": "a/b", "Content-Encoding": "gzip"}, gzip.compress(plain, 1)
        )
        result = client.run(model.path, b"", timeout_s=PATIENCE_S)
        assert result.bytes() == plain
        assert result.save(tmp_path / "it").read_bytes() == plain


class TestServicesOfTheirOwn:
    def test_a_large_result_completes_the_task(self, client: Any, model: Model, backbone: Backbone) -> None:
        content = os.urandom(9 * MIB)
        model.reply = lambda dispatch: Reply(202, {}, b"")
        task = client.submit(model.path, b"")
        dispatch = dispatched(model)
        manager = TaskManager(dispatch.task_id, dispatch.attempt, upload_over_bytes=MIB)
        manager.complete("all of it", content, "image/tiff")

        result = task.result(PATIENCE_S)
        assert (task.status, result.content_type) == ("completed - all of it", "image/tiff")
        assert result.bytes() == content

    def test_one_of_an_older_attempt_is_refused(self, client: Any, model: Model) -> None:
        model.reply = lambda dispatch: Reply(202, {}, b"")
        client.submit(model.path, b"")
        dispatch = dispatched(model)
        TaskManager(dispatch.task_id, dispatch.attempt).release()
        manager = TaskManager(dispatch.task_id, dispatch.attempt, upload_over_bytes=MIB)
        with pytest.raises(errors.Conflict):
            manager.result(os.urandom(2 * MIB))
        assert manager.cancelled


# What goes wrong, with a backbone and a storage that do what the test says.

TASK = {"TaskId": "t", "BackendStatus": "completed", "Status": "completed", "ResultContentType": "a/b"}


def part(content: bytes, start: int, end: int, **headers: str) -> Any:
    told = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}", "ETag": '"1"', **headers}
    return answer(206, content[start:end], told)


class TestTrouble:
    CONTENT = os.urandom(2 * MIB)

    @pytest.fixture(params=[TaskClient, blocking_client], ids=["sync", "async"])
    def read(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
        """Reads or saves a large result, whose link leads to the storage."""
        clients: list[Any] = []

        def read(storage: str, *deeds: Any, saves: bool, digest: bytes | None = None) -> bytes:
            task = {**TASK, "ResultSize": len(self.CONTENT)}
            told = {"Location": storage + "/c/b?sig=secret"}
            if digest is not None:
                told["Repr-Digest"] = f"sha-256=:{base64.b64encode(digest).decode()}:"
            leads = answer(303, b"", told)
            with ScriptedServer([answer(200, task), leads, *deeds]) as server:
                self.requests = server.requests
                client = request.param(server.url, "the-key", retry_for_s=2)
                clients.append(client)
                result = client.task("t").result(PATIENCE_S)
                return result.save(tmp_path / "it").read_bytes() if saves else result.bytes()

        yield read
        for client in clients:
            client.close()

    @pytest.mark.parametrize("saves", [True, False])
    def test_the_key_stays_with_the_backbone(self, read: Any, saves: bool) -> None:
        with ScriptedServer([part(self.CONTENT, 0, 2 * MIB)]) as storage:
            assert read(storage.url, saves=saves) == self.CONTENT
        for request in storage.requests:
            assert "the-key" not in str(request.headers)
            assert not {"x-functions-key", "authorization", "x-task-owner"} & set(request.headers)
        assert [request.target for request in self.requests] == [
            "/api/v1/tasks/t",
            "/api/v1/tasks/t/result?link=1",
        ]

    @pytest.mark.parametrize("saves", [True, False])
    def test_what_breaks_off_goes_on_where_it_was(self, read: Any, saves: bool) -> None:
        half = answer(
            206,
            self.CONTENT[:MIB],
            {"Content-Range": f"bytes 0-{2 * MIB - 1}/{2 * MIB}", "ETag": '"1"'},
            announced=2 * MIB,
        )
        deeds = [half, reset, part(self.CONTENT, MIB, 2 * MIB)]
        with ScriptedServer(deeds) as storage:
            assert read(storage.url, saves=saves) == self.CONTENT
        assert {request.headers["range"][:14] for request in storage.requests[1:]} == {"bytes=1048576-"}
        assert storage.requests[-1].headers["if-match"] == '"1"'

    @pytest.mark.parametrize("saves", [True, False])
    def test_what_is_not_what_was_stored_is_an_error(self, read: Any, saves: bool, tmp_path: Path) -> None:
        wrong = hashlib.sha256(b"another").digest()
        with ScriptedServer([part(self.CONTENT, 0, 2 * MIB)]) as storage, pytest.raises(errors.Corrupted):
            read(storage.url, saves=saves, digest=wrong)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("saves", [True, False])
    def test_what_was_stored_is_recognized(self, read: Any, saves: bool) -> None:
        with ScriptedServer([part(self.CONTENT, 0, 2 * MIB)]) as storage:
            right = hashlib.sha256(self.CONTENT).digest()
            assert read(storage.url, saves=saves, digest=right) == self.CONTENT

    @pytest.mark.parametrize("saves", [True, False])
    def test_a_storage_that_takes_no_calls_from_here_is_gone_round(self, read: Any, saves: bool) -> None:
        """Its firewall may let the backbone in, and nobody else."""
        with ScriptedServer([answer(403, b"", {"x-ms-error-code": "AuthorizationFailure"})]) as storage:
            assert read(storage.url, answer(200, self.CONTENT), saves=saves) == self.CONTENT
        assert self.requests[-1].target == "/api/v1/tasks/t/result"

    def test_a_backbone_that_knows_no_links_answers_itself(self) -> None:
        task = {**TASK, "ResultSize": 2 * MIB}
        with ScriptedServer([answer(200, task), answer(400), answer(200, self.CONTENT)]) as old:
            assert TaskClient(old.url, "the-key").task("t").result(PATIENCE_S).bytes() == self.CONTENT

    def test_a_digest_that_the_backbone_tells_is_looked_at_too(self, read: Any) -> None:
        wrong = f"sha-256=:{base64.b64encode(hashlib.sha256(b'another').digest()).decode()}:"
        task = {**TASK, "ResultSize": 3}
        with ScriptedServer([answer(200, task), answer(200, b"abc", {"Repr-Digest": wrong})]) as server:
            result = TaskClient(server.url, "the-key").task("t").result(PATIENCE_S)
            with pytest.raises(errors.Corrupted):
                result.bytes()

    def test_no_error_has_the_signature(self, read: Any, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        broken = part(self.CONTENT, 0, 10)
        ill = raw(b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n")
        with ScriptedServer([ill, broken, answer(410)]) as storage, pytest.raises(errors.BackboneError) as failed:
            read(storage.url, answer(500), saves=True)
        error: BaseException | None = failed.value
        while error is not None:
            assert "secret" not in str(error) + repr(error)
            error = error.__cause__ or error.__context__
        assert "secret" not in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process's memory")
def test_a_file_goes_through_a_model_and_back_in_little_memory() -> None:
    """96 MiB, with the SDK and on the command line; ``dev.py bench large`` does it with 2 GiB."""
    command = [HOUSE, "-m", "sdk.bench.large", "--mib", "96", "--python", sys.executable]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ways = json.loads(done.stdout)
    assert set(ways) == {"SDK", "command line"}
    for way in ways.values():
        assert max(way["app_mib"], way["service_mib"], way["caller_mib"]) <= 64, ways
