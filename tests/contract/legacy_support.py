"""Shared by the tests of the legacy functions: endpoints, tasks, and tables of malformed input."""

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from local.event_grid.schema import topic_id
from local.stack import SUBSCRIPTION, TOPIC
from tests.scripted_backend import ScriptedBackend
from tests.secrecy import planted
from tests.waiting import eventually

UPSERT = "/api/CacheConnectorUpsert"
GET = "/api/CacheConnectorGet"
REPORT = "/api/CurrentProcessingUpsert"
REPORTED = "/api/CurrentProcessingGet"
WEBHOOK = "/api/BackendWebhook"

TOPIC_ID = topic_id(TOPIC)
DELIVERY = {"aeg-event-type": "Notification", "aeg-subscription-name": SUBSCRIPTION.upper()}
"""The headers of a delivery of the app's own subscription."""

NOT_AN_OBJECT: dict[str, bytes] = {
    "nothing": b"",
    "only blanks": b" \r\n\t",
    "text that is no JSON": b"TaskId=7",
    "an object cut off": b'{"Status": "running',
    "single quotes": b"{'Status': 'running'}",
    "two objects": b"{} {}",
    "a NUL": b"\x00",
    "a comment": b"{} // well",
    "null": b"null",
    "true": b"true",
    "a number": b"5",
    "a string": b'"text"',
    "an empty array": b"[]",
    "an array of numbers": b"[1, 2]",
    "an array of null": b"[null]",
    "an array of arrays": b"[[{}]]",
    "NaN": b'{"Attempt": NaN}',
    "Infinity": b'{"Attempt": -Infinity}',
    "bytes that are not UTF-8": b'{"Status": "\xff\xfe"}',
    "UTF-16": '{"Status": "running"}'.encode("utf-16"),
    "a lone leading surrogate": rb'{"Status": "\ud83d"}',
    "a lone trailing surrogate": rb'{"Status": "\udc00 running"}',
    "surrogates in the wrong order": rb'{"Status": "\ude00\ud83d"}',
    "a raw control character": b'{"Status": "a\x01b"}',
    "arrays 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
}
"""Bodies that every function refuses: neither an object nor an array that begins with one."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that no other test uses."""

    path: str
    url: str

    def __str__(self) -> str:
        return self.path


def new_endpoint(backend: ScriptedBackend) -> Endpoint:
    path = f"/v1/test/{uuid.uuid4().hex[:16]}"
    return Endpoint(path, backend.url + path)


def upsert(app: httpx.Client, **task: Any) -> dict[str, Any]:
    response = app.post(UPSERT, json=task)
    assert response.status_code == 200, response.text
    return response.json()


def kept_task(app: httpx.Client, endpoint: Endpoint, **more: Any) -> dict[str, Any]:
    """A task that has a body and is not dispatched: it stays as it is until a test changes it."""
    return upsert(app, **{"Endpoint": endpoint.url, "Status": "kept", "Body": planted("body"), **more})


def stored(app: httpx.Client, task_id: str) -> dict[str, Any] | None:
    """The task as CacheConnectorGet answers it; None when there is none."""
    response = app.get(GET, params={"taskId": task_id})
    assert response.status_code in (200, 204), response.text
    return response.json() if response.status_code == 200 else None


def task_of(app: httpx.Client, task_id: str) -> dict[str, Any]:
    task = stored(app, task_id)
    assert task is not None
    return task


def finished(app: httpx.Client, task_id: str) -> dict[str, Any]:
    """The task once it has ended."""

    def ended() -> dict[str, Any] | None:
        task = app.get(f"/api/v1/tasks/{task_id}?wait=2").raise_for_status().json()
        return task if task["BackendStatus"] in ("completed", "failed", "cancelled") else None

    task = eventually(ended)
    assert task is not None
    return task


def depth(app: httpx.Client, endpoint: Endpoint) -> dict[str, int]:
    """How many tasks of an endpoint stand in each state; those with none are left out."""
    numbers = app.get(f"/api/v1/queues{endpoint.path}").raise_for_status().json()
    states = ("Waiting", "Dispatched", "Running", "Completed", "Failed", "Cancelled")
    return {state.lower(): numbers[state] for state in states if numbers[state]}


def assert_problem(response: httpx.Response, status: int, *fields: str) -> dict[str, Any]:
    """An RFC 9457 problem; with *fields*, one that names exactly these."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"].partition(";")[0] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["type"]
    assert document["title"]
    assert document["detail"]
    if fields:
        assert sorted({error["pointer"] for error in document["errors"]}) == sorted(fields)
        assert all(error["detail"] for error in document["errors"])
    return document


@contextmanager
def trap() -> Iterator[str]:
    """``host:port`` of a listener that must not be called; fails when it was."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        with suppress(BlockingIOError):
            _, caller = listener.accept()
            raise AssertionError(f"the trap was called from {caller}")


def outside_urls(registered: str, trapped: str, path: str) -> dict[str, str]:
    """URLs that lie in no registered backend, by what is wrong with them.

    Parameters:
        registered, trapped: ``host:port`` of the registered backend and of the trap.
        path: a path that the registered backend serves.
    """
    port = registered.rpartition(":")[2]
    return {
        "another host": f"http://example.org{path}",
        "another port": f"http://{trapped}{path}",
        "no port": f"http://127.0.0.1{path}",
        "another port, in capital letters": f"HTTP://{trapped}{path}",
        "another scheme": f"https://{registered}{path}",
        "a file": "file:///etc/passwd",
        "a file, in capital letters": "FILE:///etc/passwd",
        "a file on the registered host": f"file://{registered}{path}",
        "gopher": f"gopher://{registered}{path}",
        "redis": f"redis://{registered}{path}",
        "javascript": "javascript:alert(1)",
        "data": "data:text/plain,hello",
        "a user name": f"http://user@{registered}{path}",
        "a user name and password": f"http://user:password@{registered}{path}",
        "an empty user name": f"http://@{registered}{path}",
        "the registered host as user name": f"http://{registered}@{trapped}{path}",
        "the registered host as user name, escaped": f"http://{registered}%40{trapped}{path}",
        "a backslash before an at": f"http://{registered}\\@{trapped}{path}",
        "an at after a backslash": f"http://{trapped}\\@{registered}{path}",
        "a hash before an at": f"http://{trapped}#@{registered}{path}",
        "a fragment": f"http://{registered}{path}#top",
        "the path of another service": f"http://{registered}/v1/other/model",
        "a path that only begins like a registered one": f"http://{registered}/v1/testing/model",
        "the root": f"http://{registered}/",
        "no path": f"http://{registered}",
        "dots": f"http://{registered}{path}/../../admin",
        "dots at the end": f"http://{registered}{path}/..",
        "one dot": f"http://{registered}/v1/./test/x",
        "encoded dots": f"http://{registered}{path}/%2e%2e/%2e%2e/admin",
        "encoded dots in capital letters": f"http://{registered}{path}/%2E%2E/admin",
        "doubly encoded dots": f"http://{registered}{path}/%252e%252e/admin",
        "an encoded slash": f"http://{registered}{path}%2f..%2fadmin",
        "a backslash in the path": f"http://{registered}{path}\\..\\admin",
        "an empty segment": f"http://{registered}{path}//admin",
        "two slashes at the start of the path": f"http://{registered}//v1/test/x",
        "path parameters": f"http://{registered}{path};/../admin",
        "the metadata service": "http://169.254.169.254/latest/meta-data/",
        "the metadata service with a registered path": f"http://169.254.169.254{path}",
        "the platform's address": f"http://168.63.129.16{path}",
        "a dot after the host": f"http://127.0.0.1.:{port}{path}",
        "a name of the registered host": f"http://localhost:{port}{path}",
        "the registered address as one number": f"http://2130706433:{port}{path}",
        "the registered address in hexadecimal": f"http://0x7f000001:{port}{path}",
        "the registered address in octal": f"http://0177.0.0.1:{port}{path}",
        "the registered address, shortened": f"http://127.1:{port}{path}",
        "another loopback address": f"http://127.0.0.2:{port}{path}",
        "any address": f"http://0.0.0.0:{port}{path}",
        "IPv6 loopback": f"http://[::1]:{port}{path}",
        "IPv6-mapped IPv4": f"http://[::ffff:127.0.0.1]:{port}{path}",
        "IPv6-mapped IPv4 in hexadecimal": f"http://[::ffff:7f00:1]:{port}{path}",
        "IPv6 with a zone": f"http://[fe80::1%25eth0]:{port}{path}",
        "IPv6 link-local": f"http://[fe80::1]:{port}{path}",
        "IPv6, not closed": f"http://[::1:{port}{path}",
        "full-width digits": f"http://\uff11\uff12\uff17.0.0.1:{port}{path}",
        "a port out of range": f"http://127.0.0.1:99999{path}",
        "a port that is no number": f"http://127.0.0.1:http{path}",
        "port 0": f"http://127.0.0.1:0{path}",
        "a negative port": f"http://127.0.0.1:-{port}{path}",
        "no scheme": f"{registered}{path}",
        "no scheme, with slashes": f"//{registered}{path}",
        "only a path": path,
        "no host": f"http://{path}",
        "one slash": f"http:/{registered}{path}",
        "three slashes": f"http:///{registered}{path}",
        "a blank in the path": f"http://{registered}{path}/a b",
        "a line break in the path": f"http://{registered}{path}\r\nX-Injected: yes",
        "a line break at the end": f"http://{registered}{path}\n",
        "a tab in the path": f"http://{registered}/v1/te\tst/x",
        "a line break in the scheme": f"ht\ntp://{registered}{path}",
        "a blank before it": f" http://{registered}{path}",
        "a NUL at the end": f"http://{registered}{path}\0",
        "a NUL before it": f"\0http://{registered}{path}",
        "letters from right to left": f"http://{registered}{path}/\u202egnp",
        "a line break in the query": f"http://{registered}{path}?a=1\r\nX-Injected: yes",
        "a blank in the query": f"http://{registered}{path}?a=b c",
        "a path of 10,000 characters": f"http://{registered}{path}/{'x' * 10_000}",
        "a query of 10,000 characters": f"http://{registered}{path}?{'x' * 10_000}",
        "free text": "not a URL at all",
    }
