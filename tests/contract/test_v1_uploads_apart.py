"""Uploads (contract B18) of an app with settings of its own: its functions in process, on a real Redis and a real
Azurite."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from azure.storage.blob.aio import BlobClient, BlobLeaseClient, ContainerClient

from cache_manager.reconciler import reconcile
from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import NO_TLS
from shared.services import Services
from shared.settings import Settings
from shared.store import uploads as store_uploads
from shared.tasks import status_texts
from tests.degradation.switch import Switch
from tests.in_process import InProcessApp
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.secrecy import planted
from tests.shared.store.world import Server
from tests.waiting import PATIENCE_S

CONTAINER = "uploads-apart"
LARGE = bytes(range(256)) * 1024
MOST_BYTES = 100_000
"""What may go through the app. A large body is larger."""
PATH, PLAIN_PATH = "/v1/reference", "/v1/plain"
KEY = planted("gateway-key")


@dataclass
class App:
    functions: InProcessApp
    azurite: Azurite
    backend: ScriptedBackend

    @property
    def services(self) -> Services:
        return self.functions.services.current()

    async def call(
        self,
        function: str,
        method: str = "POST",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        **route: str,
    ) -> tuple[int, Any, Mapping[str, str]]:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        query = "&".join(f"{name}={value}" for name, value in (params or {}).items())
        response = await self.functions.call(
            function,
            method,
            url=f"http://127.0.0.1/api/v1/submit/x?{query}" if query else "http://127.0.0.1/api/v1/submit/x",
            headers={name.lower(): value for name, value in (headers or {}).items()},
            params=params,
            route_params=route,
            body=data,
        )
        kind = response.headers.get("Content-Type") or ""
        content = json.loads(response.get_body()) if "json" in kind else response.get_body()
        return response.status_code, content, dict(response.headers)

    async def declare(
        self, size_bytes: int = len(LARGE), headers: Mapping[str, str] | None = None, **more: Any
    ) -> Any:
        declared = {"Size": size_bytes, "ContentType": "image/tiff", **more}
        status, upload, _ = await self.call("CreateUpload", body=declared, headers=headers)
        assert status == 201, upload
        return upload

    async def uploaded(self, data: bytes = LARGE, headers: Mapping[str, str] | None = None, **more: Any) -> Any:
        upload = await self.declare(len(data), headers, **more)
        await write(upload["Url"], data)
        return upload

    async def hand_in(self, upload: Any, path: str = PATH, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call(
            "SubmitTask", headers={"X-Upload": upload["UploadId"], **names}, path=path.removeprefix("/")
        )

    async def blobs(self, beginning: str = "") -> list[str]:
        async with self.container() as container:
            if not await container.exists():
                return []
            return [b.name async for b in container.list_blobs(name_starts_with=beginning, include=["snapshots"])]

    def container(self) -> ContainerClient:
        return ContainerClient.from_connection_string(self.azurite.connection_string, CONTAINER)

    async def dispatched(self, path: str = PATH) -> Call:
        return await asyncio.to_thread(self.backend.next_call, path)

    async def until(self, condition: Callable[[], Awaitable[object]]) -> None:
        """Run rounds of the reconciler until the *condition* holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():
                await reconcile(self.services)


async def write(url: str, data: bytes = LARGE) -> None:
    headers = {"x-ms-blob-type": "BlockBlob", "x-ms-blob-content-type": "image/tiff"}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=60) as client:
        (await client.put(url, content=data, headers=headers)).raise_for_status()


async def read(url: str) -> bytes:
    async with httpx.AsyncClient(verify=NO_TLS, timeout=60) as client:
        return (await client.get(url)).raise_for_status().content


Open = Callable[..., App]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server apart from that of the other tests: the reconciler of a stack there would look after these uploads."""
    kind = RedisCluster if os.environ.get("BACKBONE_TEST_REDIS") == "cluster" else RedisServer
    with kind(tmp_path_factory.mktemp("redis-of-uploads")) as server:
        yield server


@pytest.fixture
def backend() -> Any:
    """A model service of this test alone."""
    with ScriptedBackend() as backend:
        yield backend


@pytest.fixture
async def open_app(redis_url: str, azurite: Azurite, backend: ScriptedBackend) -> AsyncIterator[Open]:
    opened: list[App] = []

    def open_app(**settings: str) -> App:
        environment = {
            "REDIS_CONNECTION_STRING": redis_url,
            "EVENT_GRID_TOPIC_URI": "http://127.0.0.1:9/api/events",  # nobody: each process dispatches itself
            "EVENT_GRID_KEY": "the-key-of-the-topic",
            "GATEWAY_KEY": KEY,
            "BACKENDS": json.dumps({PATH: {"url": backend.url, "reference": True}, PLAIN_PATH: backend.url}),
            "ALLOW_LOOPBACK_BACKENDS": "true",
            "AzureWebJobsStorage": azurite.connection_string,
            "BLOB_CONTAINER": CONTAINER,
            "MAX_BODY_BYTES": str(MOST_BYTES),
            "BUSY_RETRY_S": "0.05",
            "RECONCILER_INTERVAL_S": "3600",
            **settings,
        }
        opened.append(App(InProcessApp(Settings.from_env(environment)), azurite, backend))
        return opened[-1]

    yield open_app
    for app in opened:
        await app.services.aclose()


@pytest.fixture
def app(open_app: Open) -> App:
    return open_app()


def problem(answer: tuple[int, Any, Mapping[str, str]], status: int, kind: str) -> Any:
    assert (answer[0], answer[1]["type"]) == (status, f"urn:task-backbone:problem:{kind}"), answer[1]
    return answer[1]


@pytest.mark.contract("B18.4")
@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("", "no storage account is set"),
        ("BlobEndpoint=http://127.0.0.1:9/devstoreaccount1;SharedAccessSignature=sv=2021&sig=x", "no account key"),
    ],
    ids=["no account", "a SAS"],
)
async def test_without_a_key_to_sign_with_there_are_no_uploads(storage: str, reason: str, open_app: Open) -> None:
    app = open_app(AzureWebJobsStorage=storage)
    answer = await app.call("CreateUpload", body={"Size": 1, "ContentType": "a/b"})
    assert reason in problem(answer, 501, "no-sas")["detail"]
    assert (await app.call("Health", "GET"))[1]["MaxUploadBytes"] == 0
    submitted = await app.call("SubmitTask", body=b"small", path=PLAIN_PATH.removeprefix("/"))
    assert submitted[1]["MaxUploadBytes"] == 0


@pytest.mark.contract("B18.4", "B18.18")
async def test_what_is_stored_is_answered_itself_if_no_url_can_be_signed(
    app: App, open_app: Open, azurite: Azurite
) -> None:
    data = LARGE[:MOST_BYTES]
    status, task, _ = await app.call("SubmitTask", body=data, path=PLAIN_PATH.removeprefix("/"))
    assert status == 202
    async with app.container() as container:
        from azure.storage.blob import generate_container_sas

        assert container.account_name is not None
        sas = generate_container_sas(
            container.account_name,
            CONTAINER,
            account_key=container.credential.account_key,
            permission="rwdl",
            expiry=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600)),
        )
    other = open_app(AzureWebJobsStorage=f"BlobEndpoint={azurite.url};SharedAccessSignature={sas}")
    answer = await other.call("GetTaskBody", "GET", params={"link": "1"}, id=task["TaskId"])
    assert (answer[0], answer[1]) == (200, data)
    await app.dispatched(PLAIN_PATH)
    # A service that takes references gets what there is no reference to.
    await other.call("SubmitTask", body=data, path=PATH.removeprefix("/"))
    assert (await other.dispatched()).body == data


@pytest.mark.contract("B18.3")
async def test_uploads_can_be_switched_off_or_limited(open_app: Open) -> None:
    without = open_app(MAX_UPLOAD_BYTES="0")
    off = await without.call("CreateUpload", body={"Size": 0, "ContentType": "a/b"})
    assert "MAX_UPLOAD_BYTES" in problem(off, 501, "no-sas")["detail"]
    _, task, _ = await without.call("SubmitTask", body=LARGE[:MOST_BYTES], path=PLAIN_PATH.removeprefix("/"))
    answer = await without.call("GetTaskBody", "GET", params={"link": "1"}, id=task["TaskId"])
    assert answer[:2] == (200, LARGE[:MOST_BYTES]), "nobody is given a URL of the storage account"
    app = open_app(MAX_UPLOAD_BYTES="5")
    await app.declare(5)
    problem(await app.call("CreateUpload", body={"Size": 6, "ContentType": "a/b"}), 413, "too-large")


@pytest.mark.contract("B18.7", "B18.20")
async def test_an_upload_and_a_body_are_their_owners(app: App) -> None:
    ann, bob = ({"X-Task-Owner": name, "X-Gateway-Key": KEY} for name in ("ann", "bob"))
    upload = await app.uploaded(headers=ann)
    for other in ({}, bob):
        answer = await app.call("SubmitTask", headers={"X-Upload": upload["UploadId"], **other}, path="v1/reference")
        problem(answer, 404, "unknown-upload")
    answer = await app.call("SubmitTask", headers={"X-Upload": upload["UploadId"], **ann}, path="v1/reference")
    assert answer[0] == 202
    for who, expected in ((ann, 303), ({}, 303), (bob, 404)):
        assert (await app.call("GetTaskBody", "GET", headers=who, id=answer[1]["TaskId"]))[0] == expected


@pytest.mark.contract("B18.19")
async def test_what_is_too_large_for_the_app_is_answered_by_a_link_or_in_parts(app: App) -> None:
    upload = await app.uploaded()
    task_id = (await app.hand_in(upload))[1]["TaskId"]
    status, content, headers = await app.call("GetTaskBody", "GET", id=task_id)
    assert (status, content) == (303, b"")
    assert await read(headers["Location"]) == LARGE
    for asked, part in (("bytes=5-9", LARGE[5:10]), (f"bytes=-{MOST_BYTES}", LARGE[-MOST_BYTES:])):
        status, content, headers = await app.call("GetTaskBody", "GET", headers={"Range": asked}, id=task_id)
        assert (status, content) == (206, part)
    status, _, headers = await app.call("GetTaskBody", "GET", headers={"Range": "bytes=5-"}, id=task_id)
    assert status == 303
    # The same through the app.
    status, _, headers = await app.call("GetTaskBody", "HEAD", id=task_id)
    assert (status, "Location" in headers) == (303, True)


@pytest.mark.contract("B18.26")
async def test_a_result_that_is_too_large_for_the_next_backend_fails_the_task(app: App) -> None:
    submitted = await app.call(
        "SubmitTask", body=b"small", headers={"Pipeline": PLAIN_PATH}, path=PATH.removeprefix("/")
    )
    assert submitted[0] == 202
    call = await app.dispatched()
    attempt = {"X-Task-Attempt": str(call.attempt)}
    upload = await app.uploaded(headers=attempt, TaskId=call.task_id)
    headers = {**attempt, "X-Upload": upload["UploadId"], "X-Task-Complete": ""}
    assert (await app.call("PutTaskResult", "PUT", headers=headers, id=call.task_id))[0] == 200

    async def failed() -> bool:
        task = await app.services.store.get(call.task_id)
        return task is not None and (task.state, task.status) == ("failed", status_texts.BODY_TOO_LARGE)

    await app.until(failed)
    assert app.backend.untaken(PLAIN_PATH) == 0


@pytest.mark.contract("B18.22")
async def test_an_upload_that_nobody_hands_in_is_deleted(open_app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_uploads, "UPLOAD_GRACE_S", 0.0)
    app = open_app(UPLOAD_URL_S="1")
    uploads = [await app.uploaded(), await app.declare()]

    async def are_gone() -> bool:
        found = [await app.services.store.uploads.get(upload["UploadId"]) for upload in uploads]
        return not any(found) and not await app.blobs(f"u-{uploads[0]['UploadId']}")

    await app.until(are_gone)
    for upload in uploads:
        problem(await app.hand_in(upload), 404, "unknown-upload")


@pytest.mark.contract("B18.22")
async def test_an_upload_that_a_task_has_goes_with_the_task(open_app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_uploads, "UPLOAD_GRACE_S", 0.0)
    app = open_app(UPLOAD_URL_S="2", RETENTION_S="4")
    app.backend.script(PATH, Answer(headers={"X-Task-Complete": ""}))
    upload = await app.uploaded()
    name = f"u-{upload['UploadId']}"
    task_id = (await app.hand_in(upload))[1]["TaskId"]

    async def is_forgotten() -> bool:
        return await app.services.store.uploads.take(upload["UploadId"], "another", "s") is None

    await app.until(is_forgotten)
    assert len(await app.blobs(name)) == 2, "the task has it"
    assert (await app.call("GetTaskBody", "GET", headers={"Range": "bytes=0-9"}, id=task_id))[1] == LARGE[:10]

    async def is_gone() -> bool:
        return await app.services.store.get(task_id) is None

    await app.until(is_gone)
    assert await app.blobs(name) == []


@pytest.mark.contract("B18.22")
async def test_what_is_written_after_the_task_is_gone_is_deleted_too(
    open_app: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_uploads, "UPLOAD_GRACE_S", 0.0)
    app = open_app(UPLOAD_URL_S="3")
    app.backend.script(PATH, Answer(status=422))
    upload = await app.uploaded()
    task_id = (await app.hand_in(upload, prefer="wait=60"))[1]["TaskId"]
    status, *_ = await app.call("CancelTask", "DELETE", params={"purge": "true"}, id=task_id)
    assert status == 204
    assert await app.blobs(f"u-{upload['UploadId']}") == []
    await write(upload["Url"])  # its URL is still valid

    async def is_gone() -> bool:
        return not await app.blobs(f"u-{upload['UploadId']}")

    await app.until(is_gone)


@pytest.mark.contract("B18.22")
async def test_a_lease_that_its_writer_has_taken_keeps_no_blob(app: App) -> None:
    app.backend.script(PATH, Answer(status=422))
    upload = await app.uploaded()
    async with BlobClient.from_blob_url(upload["Url"]) as blob:
        await BlobLeaseClient(blob).acquire()
    task_id = (await app.hand_in(upload, prefer="wait=60"))[1]["TaskId"]
    status, *_ = await app.call("CancelTask", "DELETE", params={"purge": "true"}, id=task_id)
    assert status == 204
    assert await app.blobs(f"u-{upload['UploadId']}") == []


@pytest.mark.contract("B18.8", "B18.22")
@pytest.mark.parametrize("is_keyed", [False, True])
async def test_a_process_that_dies_before_it_creates_the_task_loses_nothing(
    is_keyed: bool, open_app: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_uploads, "UPLOAD_GRACE_S", 0.0)
    app = open_app(UPLOAD_URL_S="2")
    upload = await app.uploaded()
    headers = {"idempotency_key": "k"} if is_keyed else {}
    with monkeypatch.context() as dying:

        async def die(*_: Any) -> Any:
            raise asyncio.CancelledError

        dying.setattr(type(app.services.store), "create", die)
        with pytest.raises(asyncio.CancelledError):
            await app.hand_in(upload, **headers)
    if is_keyed:
        status, task, _ = await app.hand_in(upload, **headers)
        assert status == 202
        call = await app.dispatched()
        assert call.task_id == task["TaskId"]
        assert await read(call.headers["x-task-body"]) == LARGE
        return
    problem(await app.hand_in(upload), 409, "upload-used")

    async def is_gone() -> bool:
        return not await app.blobs(f"u-{upload['UploadId']}")

    await app.until(is_gone)


@pytest.mark.contract("B18.10")
async def test_a_blob_of_another_kind_is_a_mismatch(app: App) -> None:
    upload = await app.declare(512)
    async with BlobClient.from_blob_url(upload["Url"]) as blob:
        await blob.create_page_blob(512)
    assert "PageBlob" in problem(await app.hand_in(upload), 409, "upload-mismatch")["detail"]


@pytest.mark.contract("B18.23")
async def test_without_blob_storage_an_upload_stays_as_it_is(open_app: Open, azurite: Azurite) -> None:
    with Switch(azurite.blob_port) as switch:
        app = open_app(
            AzureWebJobsStorage=azurite.connection_string.replace(f":{azurite.blob_port}/", f":{switch.port}/")
        )
        upload, late = await app.uploaded(), await app.uploaded()
        task_id = (await app.hand_in(late))[1]["TaskId"]
        first = await app.dispatched()
        target, switch.target_port = switch.target_port, 9
        switch.cut()
        answer = await app.hand_in(upload)
        problem(answer, 503, "unavailable")
        assert answer[2]["Retry-After"]
        problem(await app.call("GetTaskBody", "GET", params={"link": "1"}, id=task_id), 503, "unavailable")
        # The attempt fails, and the next one cannot be dispatched: nobody would find the body.
        headers = {"X-Task-Attempt": str(first.attempt)}
        assert (await app.call("ReleaseTask", body={}, headers=headers, id=task_id))[0] == 200

        async def waits() -> bool:
            task = await app.services.store.get(task_id)
            return task is not None and task.status == status_texts.AWAITING_BODY

        await app.until(waits)
        assert app.backend.untaken(PATH) == 0
        switch.target_port = target

        async def is_taken() -> bool:
            return (await app.hand_in(upload, idempotency_key="k"))[0] == 202

        await app.until(is_taken)

        async def are_dispatched() -> bool:
            return app.backend.untaken(PATH) == 2

        await app.until(are_dispatched)
        assert {(await app.dispatched()).headers["x-task-body-length"] for _ in range(2)} == {str(len(LARGE))}


@pytest.mark.contract("B18.21")
async def test_the_url_of_a_dispatch_outlives_its_lease(open_app: Open, backend: ScriptedBackend) -> None:
    lease_s = 100_000
    app = open_app(
        READ_URL_S="60",
        BACKENDS=json.dumps({PATH: {"url": backend.url, "reference": True, "lease_s": lease_s}}),
    )
    task_id = (await app.hand_in(await app.uploaded()))[1]["TaskId"]
    called = (await app.dispatched()).headers["x-task-body"]
    link = (await app.call("GetTaskBody", "GET", params={"link": "1"}, id=task_id))[2]["Location"]
    for url, valid_s in ((called, 2 * lease_s), (link, 60)):
        ends = time.strptime(httpx.URL(url).params["se"], "%Y-%m-%dT%H:%M:%SZ")
        left_s = time.mktime(ends) - time.mktime(time.gmtime())
        assert valid_s - PATIENCE_S < left_s <= valid_s


@pytest.mark.contract("B18.12")
async def test_bodies_that_go_by_reference_take_no_room(open_app: Open) -> None:
    app, hold = open_app(MAX_BODY_BYTES_IN_FLIGHT="1"), threading.Event()
    app.backend.script(PATH, Answer(hold=hold))
    for _ in range(2):
        assert (await app.hand_in(await app.uploaded()))[0] == 202

    async def are_both_there() -> bool:
        return app.backend.untaken(PATH) == 2

    try:
        await app.until(are_both_there)
        calls = [await app.dispatched() for _ in range(2)]
    finally:
        hold.set()
    assert len({call.task_id for call in calls}) == 2
    assert {call.attempt for call in calls} == {1}, "none had to wait for room"


@pytest.mark.contract("B18.12")
async def test_a_body_that_is_gone_is_noticed_before_its_reference_goes_out(app: App) -> None:
    await app.services.store.queues.configure(PATH, {"paused": True})
    upload = await app.uploaded()
    task_id = (await app.hand_in(upload))[1]["TaskId"]
    await app.services.bodies.delete(f"u-{upload['UploadId']}")
    await app.services.store.queues.configure(PATH, {"paused": False})

    async def failed() -> bool:
        task = await app.services.store.get(task_id)
        return task is not None and (task.state, task.status) == ("failed", status_texts.BODY_GONE)

    await app.until(failed)
    assert app.backend.untaken(PATH) == 0
    problem(await app.call("GetTaskBody", "GET", id=task_id), 404, "no-body")
