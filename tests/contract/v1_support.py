"""Shared by the tests of the v1 API."""

import http.client
import re
import uuid
from array import array
from typing import Any
from urllib.parse import urlsplit

import httpx
from azure.storage.blob import ContainerClient

from local.azurite import Azurite
from local.stack import Stack
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import PATIENCE_S, eventually

INLINE_LIMIT_BYTES = 65_536
TASK_KEYS = {
    "TaskId",
    "Timestamp",
    "Status",
    "BackendStatus",
    "Endpoint",
    "Body",
    "PublishToGrid",
    "EndpointPath",
    "Attempt",
    "CreatedAt",
    "ResultContentType",
    "ResultSize",
    "Priority",
    "LeaseSeconds",
    "Progress",
}
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


def pattern_bytes(size_bytes: int) -> bytes:
    """Bytes of every value, in an order that reveals lost or swapped ones."""
    return array("I", range(size_bytes // 4 + 1)).tobytes()[:size_bytes]


CONTENTS = {
    "empty": ("application/json", b""),
    "JSON": ("application/json", b'{ "a": 1.10 ,\r\n"b" :[]}'),
    "text that is not UTF-8": ("text/plain; charset=iso-8859-1", "Öl".encode("latin-1")),
    "every byte there is": ('application/x-numpy; v="1"', bytes(range(256))),
    "64 KiB": ("image/tiff", pattern_bytes(INLINE_LIMIT_BYTES)),
    "a byte more": ("image/tiff", pattern_bytes(INLINE_LIMIT_BYTES + 1)),
    "several MB": ("application/octet-stream", pattern_bytes(5_000_001)),
}


def new_path() -> str:
    """An endpoint path that no other test uses."""
    return f"/v1/test/{uuid.uuid4().hex}"


def submit(app: httpx.Client, path: str, content: bytes = b"{}", **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.post(f"/api/v1/submit{path}", content=content, headers=names)


def keep(app: httpx.Client, backend: ScriptedBackend, path: str | None = None, **more: Any) -> str:
    """The id of a task that stays as it is: it is not dispatched, and no lease ends."""
    return report(app, Endpoint=backend.url + (path or new_path()), **more)["TaskId"]


def report(app: httpx.Client, **update: Any) -> dict[str, Any]:
    response = app.post("/api/CacheConnectorUpsert", json=update)
    assert response.status_code == 200, response.text
    return response.json()


def next_step(app: httpx.Client, task_id: str) -> dict[str, Any]:
    """Send a task to its own queue again: a new attempt."""
    return report(app, TaskId=task_id, BackendStatus="created", PublishToGrid=True, Body="again")


def complete_on_call(stack: Stack, backend: ScriptedBackend, path: str) -> None:
    """Have the model service report each task running and completed before it answers the dispatch."""

    def reaction(call: Call) -> Answer | None:
        with stack.client() as app:
            report(app, TaskId=call.task_id, BackendStatus="running", Status="on it")
            report(app, TaskId=call.task_id, BackendStatus="completed", Status="done")
        return None

    backend.react(path, reaction)


def task_of(app: httpx.Client, task_id: str) -> dict[str, Any]:
    return app.get(f"/api/v1/tasks/{task_id}").raise_for_status().json()


def ended(app: httpx.Client, task_id: str) -> dict[str, Any]:
    """The task once it has ended."""

    def ended() -> dict[str, Any] | None:
        task = app.get(f"/api/v1/tasks/{task_id}", params={"wait": 2}).raise_for_status().json()
        return task if task["BackendStatus"] in ("completed", "failed", "cancelled") else None

    task = eventually(ended)
    assert task is not None
    return task


def blob_sizes(azurite: Azurite, task_id: str) -> list[int]:
    """The sizes of all blobs that the app holds for a task."""
    container = ContainerClient.from_connection_string(azurite.connection_string, "task-backbone")
    with container:
        if not container.exists():
            return []
        return [blob.size for blob in container.list_blobs(name_starts_with=f"t-{task_id}/")]


def raw_request(
    stack: Stack, method: str, target: str, *, headers: dict[str, str] | None = None, body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """A request whose target is sent unchanged: no client library normalizes it."""
    address = urlsplit(stack.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE_S)
    try:
        connection.putrequest(method, "/", skip_accept_encoding=True)
        # putrequest refuses some targets, so the request line is replaced.
        connection._buffer[0] = f"{method} {target} HTTP/1.1".encode("latin-1")  # type: ignore[attr-defined]
        for name, value in {
            "x-functions-key": stack.key,
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def assert_problem(response: httpx.Response, status: int, kind: str, *, field: str | None = None) -> dict[str, Any]:
    """Asserts that the response is this problem document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:task-backbone:problem:{kind}"
    assert document["status"] == status
    assert isinstance(document["title"], str)
    assert document["title"]
    assert isinstance(document["detail"], str)
    assert document["detail"]
    if field is None:
        assert "errors" not in document
    else:
        assert [error["pointer"] for error in document["errors"]] == [field]
        assert all(error["detail"] for error in document["errors"])
    return document


def all_queues(app: httpx.Client) -> dict[str, dict[str, Any]]:
    """All queues by their paths, page by page."""
    found: dict[str, dict[str, Any]] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = app.get("/api/v1/queues", params={"limit": "200", "cursor": cursor}).raise_for_status().json()
        found |= {queue["EndpointPath"]: queue for queue in page["Queues"]}
        cursor = page["NextCursor"]
    return found
