"""Bodies that a dispatch only names, and results that are uploaded. A played backbone keeps both."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from service_process import Service, eventually, serving

from taskbackbone.testing import Call, Content, PlayedBackbone

MIB = 1024 * 1024
CODE = """
from pathlib import Path
from typing import BinaryIO
import hashlib

service = TaskService(cancel_grace_s=1, drain_s=1)

@service.task("/file", max_body_bytes=64 * 1024 * 1024)
def file(body: Path, task: Task) -> Result:
    print("in", body)
    turned = task.folder / "turned"
    turned.write_bytes(body.read_bytes()[::-1])
    return Result(turned, "image/tiff", content_encoding="")

@service.task("/stream")
def stream(body: BinaryIO) -> dict:
    whole = hashlib.sha256()
    while part := body.read(100_000):
        whole.update(part)
    return {"sha256": whole.hexdigest()}

@service.task("/bytes")
def bytes_(body: bytes) -> bytes:
    return body[::-1]

@service.task("/text")
def text(body: str) -> str:
    return body.upper()

@service.task("/json")
def json_(body: dict) -> dict:
    return {"names": sorted(body)}

@service.task("/wait")
def wait(body: bytes) -> str:
    while not os.path.exists("go on"):
        time.sleep(0.01)
    return "done"

@service.task("/make")
def make(*, size: int) -> bytes:
    return b"x" * size

service.run()
"""
Played = tuple[PlayedBackbone, Service]


@pytest.fixture
def played(tmp_path: Path) -> Generator[Played, None, None]:
    """A backbone that takes bodies up to 2 MiB itself."""
    with serving(tmp_path, CODE, max_body_bytes=2 * MIB) as played:
        yield played


def faulty(backbone: PlayedBackbone, status: int, times: int, method: str = "GET", least: int = 0) -> list[Call]:
    """After *least* calls to the storage, some get this status, or hang up if it is 0. Returns those."""
    seen: list[Call] = []
    met: list[Call] = []

    def fault(call: Call) -> int | None:
        if call.kind != "storage" or call.method != method:
            return None
        seen.append(call)
        if len(seen) > least and len(met) < times:
            met.append(call)
            return status
        return None

    backbone.fault = fault
    return met


class Holding:
    """Holds the calls to the storage of one method until the end of the block."""

    def __init__(self, backbone: PlayedBackbone, method: str) -> None:
        self.has_some = threading.Event()
        self._opened = threading.Event()
        self._method = method
        backbone.fault = self._fault

    def _fault(self, call: Call) -> int | None:
        if call.kind == "storage" and call.method == self._method:
            self.has_some.set()
            self._opened.wait(60)
        return None

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.set()


def digest_of(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def named(url: str, size: int, **headers: str) -> dict[str, str]:
    """The headers of a dispatch that names its body."""
    return {"X-Task-Body": url, "X-Task-Body-Length": str(size), **headers}


class TestBodies:
    def test_a_body_that_is_only_named_is_a_file_for_the_function(self, played: Played) -> None:
        backbone, service = played
        body = os.urandom(20 * MIB + 17)
        task = backbone.submit("/file", body, by_reference=True).wait()

        assert task.state == "completed", task.status
        assert task.result is not None
        assert task.result.data == body[::-1]
        assert task.result.content_type == "image/tiff"
        [path] = [Path(line.split()[-1]) for line in service.log.splitlines() if line.startswith("in ")]
        eventually(lambda: not path.exists(), "the body is left")

    def test_it_is_whatever_the_function_takes(self, played: Played) -> None:
        backbone, _ = played
        body = os.urandom(9 * MIB)
        stream = backbone.submit("/stream", body, by_reference=True)
        document = backbone.submit("/json", {"b": 1, "a": 2}, by_reference=True)
        results = {
            backbone.submit("/bytes", b"abc", by_reference=True): b"cba",
            backbone.submit("/bytes", b"", by_reference=True): b"",
            backbone.submit("/text", "größer", by_reference=True): "GRÖSSER".encode(),
        }

        assert stream.wait().json() == {"sha256": hashlib.sha256(body).hexdigest()}
        assert document.wait().json() == {"names": ["a", "b"]}
        for task, result in results.items():
            assert task.wait().result is not None, task.status
            assert task.result is not None
            assert task.result.data == result

    def test_a_compressed_one_is_decompressed(self, played: Played) -> None:
        backbone, service = played
        packed = gzip.compress(b"to be or not to be " * 1000)
        link = backbone.url + backbone.api.storage.link(Content(packed, "text/plain"))
        told = {"Content-Encoding": "gzip", "Repr-Digest": digest_of(packed)}
        assert service.dispatch("/stream", "packed", **named(link, len(packed), **told)).status == 202
        service.until_log("task packed, attempt 1: completed")

    def test_a_part_that_breaks_off_is_fetched_again_and_no_other(self, played: Played) -> None:
        backbone, _ = played
        met = faulty(backbone, 0, 2, least=1)
        body = os.urandom(20 * MIB)
        task = backbone.submit("/file", body, by_reference=True).wait()

        assert task.state == "completed", task.status
        assert task.attempt == 1
        assert len(met) == 2

    @pytest.mark.parametrize("status", [403, 404])
    def test_one_that_the_storage_does_not_give_fails_the_task(self, played: Played, status: int) -> None:
        backbone, _ = played
        faulty(backbone, status, 1)
        task = backbone.submit("/file", b"abc", by_reference=True).wait()
        assert task.status == f"failed - the body cannot be fetched: The storage answered {status}."

    def test_one_that_is_another_than_was_stored_is_not_worked_on(self, played: Played) -> None:
        backbone, service = played
        link = backbone.url + backbone.api.storage.link(Content(b"what it has become", "text/plain"))
        wrong = {"Repr-Digest": digest_of(b"what it was")}
        service.dispatch("/bytes", "other", **named(link, 18, **wrong))
        service.until_log("task other, attempt 1: released")
        service.dispatch("/bytes", "shorter", **named(link, 99))
        service.until_log("task shorter, attempt 1: released")

    def test_one_that_is_too_large_is_refused_before_it_is_fetched(self, played: Played) -> None:
        backbone, service = played
        met = faulty(backbone, 500, 1)
        answer = service.dispatch("/file", "large", **named(backbone.url + "/storage/any", 64 * MIB + 1))
        assert (answer.status, "67,108,864" in answer.text) == (413, True)
        assert met == []

    @pytest.mark.parametrize(
        "url",
        [
            "http://169.254.169.254/metadata/instance?api-version=2021-02-01",
            "http://127.0.0.1:1/c/b",
            "http://localhost/c/b",
            "https://example.org/c/b?sig=secret",
            "https://user@acct.blob.core.windows.net/c/b",
            "file:///etc/passwd",
            "not a url",
            "{storage}/../metrics",
            "{storage}/%2e%2e/metrics",
        ],
    )
    def test_no_other_place_is_called(self, played: Played, url: str) -> None:
        backbone, service = played
        answer = service.dispatch("/bytes", "any", **named(url.replace("{storage}", backbone.url + "/storage"), 3))
        assert answer.status == 403
        assert "secret" not in answer.text + service.log

    def test_a_length_that_is_none_is_refused(self, played: Played) -> None:
        _, service = played
        told = {**named("https://acct.blob.core.windows.net/c/b", 3), "X-Task-Body-Length": "many"}
        assert service.dispatch("/bytes", "any", **told).status == 400

    def test_a_direct_call_names_no_body(self, played: Played) -> None:
        backbone, service = played
        link = backbone.url + backbone.api.storage.link(Content(b"abc", "text/plain"))
        assert service.call("/bytes", **named(link, 3)).status == 400

    def test_heartbeats_go_on_and_a_cancel_stops_the_transfer(self, tmp_path: Path) -> None:
        with serving(tmp_path, CODE, lease_s=3.0) as (backbone, service):
            with Holding(backbone, "GET") as holding:
                task = backbone.submit("/file", b"abc", by_reference=True)
                assert holding.has_some.wait(60)
                task.until(lambda task: any(call.kind == "heartbeat" for call in task.calls))
                task.cancel()
                eventually(lambda: service.metrics()["taskbackbone_running"] == 0, "it goes on")
            assert backbone.submit("/bytes", b"abc").wait().state == "completed"

    def test_a_service_that_stops_gives_back_what_it_fetches(self, played: Played) -> None:
        backbone, service = played
        with Holding(backbone, "GET") as holding:
            task = backbone.submit("/file", b"abc", by_reference=True)
            assert holding.has_some.wait(60)
            service.stop()
        assert (task.state, task.failures) == ("created", 0)


class TestResults:
    def test_a_large_one_is_uploaded_and_completes_the_task(self, played: Played) -> None:
        backbone, _ = played
        task = backbone.submit("/make", query=f"size={9 * MIB}").wait()

        assert (task.state, task.status) == ("completed", "completed")
        assert task.result is not None
        assert task.result.data == b"x" * 9 * MIB
        assert task.result.content_type == "application/octet-stream"
        assert [call.kind for call in task.calls if call.kind != "heartbeat"] == ["upload", "result"]
        [upload] = backbone.api.storage.uploads.values()
        assert upload.told["Sha256"] == hashlib.sha256(task.result.data).hexdigest()
        assert len(upload.blocks) == 3

    def test_one_that_the_backbone_takes_is_sent_to_it(self, played: Played) -> None:
        task = played[0].submit("/make", query=f"size={2 * MIB}").wait()
        assert [call.kind for call in task.calls] == ["result"]

    def test_a_block_that_is_lost_is_sent_again(self, played: Played) -> None:
        backbone, _ = played
        met = faulty(backbone, 0, 3, "PUT", least=1)
        task = backbone.submit("/make", query=f"size={17 * MIB}").wait()
        assert task.result is not None, task.status
        assert len(task.result.data) == 17 * MIB
        assert len(met) == 3

    def test_a_storage_that_refuses_it_costs_the_attempt(self, played: Played) -> None:
        backbone, _ = played
        faulty(backbone, 403, 2, "PUT")
        task = backbone.submit("/make", query=f"size={3 * MIB}").wait()
        assert (task.state, task.attempt, task.failures) == ("completed", 2, 1)

    def test_a_cancel_stops_it(self, tmp_path: Path) -> None:
        with serving(tmp_path, CODE, lease_s=3.0, max_body_bytes=MIB) as (backbone, service):
            with Holding(backbone, "PUT") as holding:
                task = backbone.submit("/make", query=f"size={9 * MIB}")
                assert holding.has_some.wait(60)
                task.cancel()
                task.until(lambda task: any(call.status_of(task.id) == 409 for call in task.calls))
                folder = service.temporary
                eventually(lambda: not any(folder.glob("*/*")), "its files are left")
            assert backbone.submit("/bytes", b"abc").wait().state == "completed"
            assert task.state == "cancelled"

    def test_a_service_that_stops_gives_it_back(self, played: Played) -> None:
        backbone, service = played
        with Holding(backbone, "PUT") as holding:
            task = backbone.submit("/make", query=f"size={9 * MIB}")
            assert holding.has_some.wait(60)
            service.stop()
        assert (task.state, task.failures) == ("created", 0)


def test_a_large_result_goes_on_to_the_next_step(tmp_path: Path) -> None:
    code = """
    service = TaskService()

    @service.task("/make")
    def make() -> bytes:
        return b"x" * 3_000_000

    @service.task("/make-beside")
    def make_beside(task: Task) -> bytes:
        task.next("/measure", "a text beside it")
        return b"x" * 3_000_000

    @service.task("/measure")
    def measure(body: bytes, task: Task) -> dict:
        return {"body": len(body), "previous": len(task.previous_result or b"")}

    service.run()
    """
    with serving(tmp_path, code, max_body_bytes=2 * MIB) as (backbone, _):
        as_body = backbone.submit("/make", pipeline=["/measure"])
        beside = backbone.submit("/make-beside")
        assert as_body.wait().json() == {"body": 3_000_000, "previous": 0}
        assert beside.wait().json() == {"body": 16, "previous": 3_000_000}


def test_no_signature_is_in_the_log(played: Played) -> None:
    backbone, service = played
    faulty(backbone, 0, 1)
    backbone.submit("/file", os.urandom(9 * MIB), by_reference=True).wait()
    faulty(backbone, 404, 1)
    backbone.submit("/file", b"abc", by_reference=True).wait()
    assert "sig=" not in service.log
