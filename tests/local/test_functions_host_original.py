"""The development host does what Microsoft's own host was seen to do, on the wire: a test for each thing seen."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import azure.functions as func
import pytest

from local.functions_host import HostError, Keys, Limits, ManualClock, create_host
from tests.local.functions_host_apps import KEYS, client, http_app
from tests.local.host_on_the_wire import HOST, Answer, Wire, on_the_wire

NOTHING = (b"", "0")


async def echo(req: func.HttpRequest) -> func.HttpResponse:
    seen = {
        "method": req.method,
        "url": req.url,
        "headers": dict(req.headers),
        "params": dict(req.params),
        "route": dict(req.route_params),
        "body": req.get_body().decode("latin-1"),
    }
    return func.HttpResponse(json.dumps(seen), mimetype="application/json")


@asynccontextmanager
async def echoing(keys: Keys = KEYS, **options: Any) -> AsyncIterator[Wire]:
    """A host with an anonymous function that answers with what it got, at `/api/echo/{*path}`."""
    async with on_the_wire(create_host(http_app(echo, route="echo/{*path}"), keys=keys, **options)) as wire:
        yield wire


def seen(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer
    return json.loads(answer.body)


def is_bare(answer: Answer, status: int) -> bool:
    """Whether the answer is the host's own: a status and nothing else."""
    names = {name for name, _ in answer.headers}
    told = (answer.body, answer.header("content-length"))
    return answer.status == status and told == NOTHING and names <= {"date", "content-length", "connection"}


class TestBodies:
    async def test_chunked_body_is_lost_and_its_header_is_not(self) -> None:
        async with echoing() as wire:
            answer = await wire.say(
                "POST /api/echo", HOST + b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"
            )
        got = seen(answer)
        assert (got["body"], got["headers"]["transfer-encoding"]) == ("", "chunked")

    async def test_length_beside_transfer_encoding_gets_another_name(self) -> None:
        async with echoing() as wire:
            answer = await wire.say(
                "POST /api/echo",
                HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                b"5\r\nhello\r\n0\r\n\r\n",
            )
        got = seen(answer)
        assert got["body"] == ""
        assert got["headers"]["x-content-length"] == "5"
        assert "content-length" not in got["headers"]

    @pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
    async def test_body_arrives_as_it_is_with_any_method_and_without_a_content_type(self, method: str) -> None:
        packed = gzip.compress(b"hello")
        headers = HOST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(packed)
        async with echoing() as wire:
            got = seen(await wire.say(f"{method} /api/echo", headers, packed))
        assert got["body"].encode("latin-1") == packed
        assert got["headers"]["content-encoding"] == "gzip"
        assert "content-type" not in got["headers"]

    @pytest.mark.parametrize(("limit", "status"), [("9", 500), ("10", 200)])
    async def test_body_over_the_limit_is_500_before_any_function_and_ends_the_connection(
        self, limit: str, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", limit)
        async with echoing() as wire:
            answer = await wire.say("POST /api/echo", HOST + b"Content-Length: 10\r\n", b"x" * 10)
        assert answer.status == status
        if status == 500:
            assert is_bare(answer, 500)
            assert answer.header("connection") == "close"
            assert not caplog.records

    def test_limit_is_100_mib_unless_the_setting_says_otherwise(self) -> None:
        assert Limits.from_environment({}).body_bytes == 100 * 1024 * 1024
        assert Limits.from_environment({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": ""}).body_bytes == 100 * 1024 * 1024
        with pytest.raises(HostError, match=r"^FUNCTIONS_REQUEST_BODY_SIZE_LIMIT is '15 MiB', which is no number"):
            Limits.from_environment({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "15 MiB"})


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABk\r\n"
LAST = b"GET /api/echo/last HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


@pytest.mark.parametrize("upgrade", [UPGRADE % b"h2c", UPGRADE % b"foo", UPGRADE % b"websocket"])
class TestUpgrade:
    """Java's client and `curl --http2` ask for one with each request. The host has none, and reads on."""

    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_body_arrives_whole_and_so_does_the_next_request(self, upgrade: bytes, method: str) -> None:
        head = method.encode() + b" /api/echo/first HTTP/1.1\r\n" + HOST + upgrade
        first = head + b"Content-Length: 5\r\n\r\nhello"
        async with echoing() as wire:
            answers = await wire.say_in_a_row(first + first + LAST, methods=[method, method, "GET"])
        got = [seen(answer) for answer in answers]
        assert [(each["method"], each["route"]["path"], each["body"]) for each in got] == [
            (method, "first", "hello"),
            (method, "first", "hello"),
            ("GET", "last", ""),
        ]
        assert got[0]["headers"]["http2-settings"] == "AAMAAABk"

    async def test_body_arrives_whole_in_a_later_packet(self, upgrade: bytes) -> None:
        head = b"POST /api/echo HTTP/1.1\r\n" + HOST + upgrade
        head += b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        async with echoing() as wire:
            answers = await wire.say_in_a_row(head, methods=["POST", "GET"], when_asked=b"hello" + LAST)
        assert [seen(answer)["body"] for answer in answers] == ["hello", ""]

    async def test_request_without_a_body_is_answered(self, upgrade: bytes) -> None:
        first = b"GET /api/echo/first HTTP/1.1\r\n" + HOST + upgrade + b"\r\n"
        async with echoing() as wire:
            answers = await wire.say_in_a_row(first + LAST, methods=["GET", "GET"])
        assert [seen(answer)["route"]["path"] for answer in answers] == ["first", "last"]

    async def test_chunked_body_is_lost_as_any_other(self, upgrade: bytes) -> None:
        first = b"POST /api/echo/first HTTP/1.1\r\n" + HOST + upgrade
        first += b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        async with echoing() as wire:
            answers = await wire.say_in_a_row(first + LAST, methods=["POST", "GET"])
        got = [seen(answer) for answer in answers]
        assert [(each["route"]["path"], each["body"]) for each in got] == [("first", ""), ("last", "")]
        assert got[0]["headers"]["transfer-encoding"] == "chunked"


class TestPaths:
    async def test_a_wrong_method_is_404_and_head_is_one(self) -> None:
        def task(req: func.HttpRequest) -> func.HttpResponse:
            raise AssertionError("called")

        async with on_the_wire(create_host(http_app(task, methods=["GET"]), keys=KEYS)) as wire:
            assert is_bare(await wire.say("POST /api/task"), 404)
            assert is_bare(await wire.say("HEAD /api/task"), 404)

    @pytest.mark.parametrize("path", ["%00", "a%00b", "%00?a=1", "%c3%a9%00"])
    async def test_an_encoded_nul_is_400_before_any_function(self, path: str) -> None:
        async with echoing() as wire:
            assert is_bare(await wire.say(f"GET /api/echo/{path}"), 400)

    @pytest.mark.parametrize(
        ("written", "path"),
        [
            ("v1/a/./b", "v1/a/b"),
            ("v1/a/../b", "v1/b"),
            ("v1/a/%2e%2E/b", "v1/b"),
            ("v1/a/.%2e/./b/.", "v1/b/"),
            ("v1/a/..", "v1/"),
            ("v1/.../.a/a.", "v1/.../.a/a."),
            ("v1/..%2Fa", "v1/..%2Fa"),
        ],
    )
    async def test_dot_segments_are_resolved_before_the_routing(self, written: str, path: str) -> None:
        async with echoing() as wire:
            got = seen(await wire.say(f"GET /api/echo/{written}?a=/./b"))
        assert got["route"] == {"path": path}
        assert got["url"] == f"http://localhost/api/echo/{path}?a=/./b"

    async def test_dot_segments_may_lead_to_another_function_or_nowhere(self) -> None:
        async with echoing() as wire:
            assert seen(await wire.say("GET /api/other/../echo/a"))["route"] == {"path": "a"}
            assert is_bare(await wire.say("GET /api/echo/../../../echo"), 404)

    @pytest.mark.parametrize("path", ["//localhost/api/echo/a", "//api/echo/a", "/api//echo/a"])
    async def test_path_of_a_network_is_the_404_of_the_host(self, path: str) -> None:
        async with echoing() as wire:
            assert is_bare(await wire.say(f"GET {path}"), 404)

    @pytest.mark.parametrize(
        ("written", "path"),
        [
            ("a%2Fb/c%2fd", "a%2Fb/c%2fd"),
            ("a%20b%C3%A9", "a bé"),
            ("%zz/%ff/%FF%fe%41", "%zz/%ff/%FF%feA"),
            ("%c3%28%e2%82%ac", "%c3(€"),
            ("a%252Fb", "a%2Fb"),
        ],
    )
    async def test_path_is_decoded_but_for_slashes_and_what_is_no_utf_8(self, written: str, path: str) -> None:
        async with echoing() as wire:
            got = seen(await wire.say(f"GET /api/echo/{written}"))
        assert got["route"] == {"path": path}
        assert got["url"] == f"http://localhost/api/echo/{written}"

    async def test_letter_case_of_a_path_is_ignored(self) -> None:
        async with echoing() as wire:
            assert seen(await wire.say("GET /API/Echo/Some/Path"))["route"] == {"path": "Some/Path"}

    @pytest.mark.parametrize("path", ["/api/echo", "/api/echo/"])
    async def test_catch_all_takes_an_empty_path(self, path: str) -> None:
        async with echoing() as wire:
            assert seen(await wire.say(f"GET {path}"))["route"].get("path", "") == ""


class TestQueryAndHeaders:
    async def test_values_of_one_name_are_joined_and_names_without_a_value_are_missing(self) -> None:
        async with echoing() as wire:
            got = seen(await wire.say("GET /api/echo?a=1&a=2&bare&empty=&b=x+y%2Cz"))
        assert got["params"] == {"a": "1,2", "b": "x y,z"}
        assert got["url"].endswith("?a=1&a=2&bare&empty=&b=x+y%2Cz")

    async def test_headers_are_lower_cased_joined_and_may_be_utf_8(self) -> None:
        async with echoing() as wire:
            got = seen(await wire.say("GET /api/echo", HOST + "X-Thing: é\r\nx-thing: two\r\n".encode()))
        assert got["headers"]["x-thing"] == "é,two"

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            (HOST + b"X-Thing: \xff\r\n", 400),
            (b"", 400),
            (HOST + HOST, 400),
            (HOST + b"Content-Length: 0\r\nContent-Length: 0\r\n", 400),
            (HOST + b"Content-Length: x\r\n", 400),
            (b"Host: localhost:99999\r\n", 500),
            (b"Host: [::1]:99999\r\n", 500),
            (b"Host: localhost:" + b"9" * 5000 + b"\r\n", 500),
            (HOST + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(33)), 431),
        ],
    )
    async def test_request_that_the_server_refuses_reaches_no_function(
        self, headers: bytes, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.ERROR)
        async with echoing() as wire:
            answer = await wire.say("GET /api/echo", headers)
        assert is_bare(answer, status)
        assert answer.header("connection") == "close"
        assert not caplog.records

    @pytest.mark.parametrize("host", [b"localhost:65535", b"[::1]", b"[::1]:80", b"models.example.org"])
    async def test_any_other_host_is_taken(self, host: bytes) -> None:
        async with echoing() as wire:
            got = seen(await wire.say("GET /api/echo", b"Host: " + host + b"\r\n"))
        assert got["url"] == f"http://{host.decode()}/api/echo"

    async def test_headers_below_32_kib_and_request_lines_up_to_8_kib_are_taken(self) -> None:
        many = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(31))
        longest = "GET /api/echo?a="
        longest += "x" * (8 * 1024 - len(longest) - len(" HTTP/1.1\r\n"))
        async with echoing() as wire:
            assert (await wire.say("GET /api/echo", HOST + many)).status == 200
            assert (await wire.say(longest)).status == 200
            assert is_bare(await wire.say(f"{longest}x"), 414)
            assert is_bare(await wire.say(longest + "x" * (64 * 1024)), 414)


class TestKeys:
    async def test_missing_and_wrong_keys_are_401_also_for_options(self) -> None:
        app = func.FunctionApp()

        @app.route(methods=["GET", "OPTIONS"])
        def locked(req: func.HttpRequest) -> func.HttpResponse:
            raise AssertionError("called")

        async with on_the_wire(create_host(app, keys=KEYS)) as wire:
            for request_line in ("GET /api/locked", "GET /api/locked?code=wrong", "OPTIONS /api/locked"):
                assert is_bare(await wire.say(request_line), 401)

    @pytest.mark.parametrize(
        ("key", "status"),
        [("host-key", 403), ("own-key", 403), ("eventgrid-key", 403), ("wrong", 401), ("", 401), ("master-key", 200)],
    )
    async def test_a_key_of_a_function_is_known_to_the_admin_api_and_forbidden(self, key: str, status: int) -> None:
        async with echoing() as wire:
            answer = await wire.say(f"GET /admin/host/status?code={key}")
        assert answer.status == status
        assert status == 200 or is_bare(answer, status)


def answering(**options: Any) -> Callable[..., Any]:
    def answer(req: func.HttpRequest) -> func.HttpResponse:
        return func.HttpResponse(**options)

    return answer


async def answer_of(method: str = "GET", **options: Any) -> Answer:
    app = http_app(answering(**options), methods=["GET", "HEAD"])
    async with on_the_wire(create_host(app, keys=KEYS)) as wire:
        return await wire.say(f"{method} /api/answer")


class TestAnswers:
    @pytest.mark.parametrize("body", [b"", b"hello", bytes(600_000)])
    async def test_body_is_sent_chunked_and_without_a_length(self, body: bytes) -> None:
        answer = await answer_of(body=body)
        assert (answer.status, answer.body) == (200, body)
        assert answer.header("content-length") is None
        assert answer.header("transfer-encoding") == "chunked"

    async def test_length_that_the_function_gives_is_honoured(self) -> None:
        answer = await answer_of(body=b"hello", headers={"Content-Length": "5"})
        assert (answer.body, answer.header("content-length")) == (b"hello", "5")
        assert answer.header("transfer-encoding") is None

    async def test_head_tells_the_length_that_the_function_gives(self) -> None:
        answer = await answer_of("HEAD", headers={"Content-Length": "5"})
        assert (answer.status, answer.body, answer.header("content-length")) == (200, b"", "5")
        answer = await answer_of("HEAD", body=b"hello")
        assert (answer.status, answer.body, answer.header("content-length")) == (200, b"", None)

    @pytest.mark.parametrize("length", ["4", "6", "-1", "five"])
    async def test_length_that_is_not_that_of_the_body_is_500(
        self, length: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert is_bare(await answer_of(body=b"hello", headers={"Content-Length": length}), 500)
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("status", [204, 304])
    @pytest.mark.parametrize(
        ("headers", "content_type"),
        [({}, "text/plain; charset=utf-8"), ({"Content-Type": "a/b"}, "a/b"), ({"Content-Type": ""}, None)],
    )
    async def test_answer_without_a_body_says_text_unless_told_otherwise(
        self, status: int, headers: dict[str, str], content_type: str | None
    ) -> None:
        answer = await answer_of(status_code=status, headers=headers)
        assert (answer.status, answer.body, answer.header("content-type")) == (status, b"", content_type)
        assert answer.header("transfer-encoding") is answer.header("content-length") is None

    @pytest.mark.parametrize(
        ("name", "value"),
        [("X-Text", "é"), ("X-Text", "\N{SNOWMAN}"), ("X-Text", "a\nb"), ("X-Text", "a\x7f"), ("X Text", "a")],
    )
    async def test_header_that_cannot_be_sent_turns_the_answer_into_500(
        self, name: str, value: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert is_bare(await answer_of(body=b"hello", headers={name: value}), 500)
        assert len(caplog.records) == 1

    async def test_of_repeated_headers_the_last_one_stays_but_all_cookies_do(self) -> None:
        def answer(req: func.HttpRequest) -> func.HttpResponse:
            response = func.HttpResponse()
            for value in ("1", "2"):
                response.headers.add("X-A", value)
                response.headers.add("Set-Cookie", f"a{value}={value}")
            response.headers.add("x-a", "3")
            return response

        async with on_the_wire(create_host(http_app(answer), keys=KEYS)) as wire:
            got = await wire.say("GET /api/answer")
        assert [value for name, value in got.headers if name == "x-a"] == ["3"]
        assert [value for name, value in got.headers if name == "set-cookie"] == ["a1=1", "a2=2"]

    @pytest.mark.parametrize(
        ("status", "headers"),
        [
            (206, {"Content-Range": "bytes 0-4/9", "ETag": '"a"', "Cache-Control": "no-cache"}),
            (303, {"Location": "/elsewhere", "Content-Encoding": "gzip", "Content-Security-Policy": "sandbox"}),
        ],
    )
    async def test_other_headers_and_statuses_pass(self, status: int, headers: dict[str, str]) -> None:
        answer = await answer_of(status_code=status, headers=headers)
        assert answer.status == status
        assert dict(answer.headers).items() >= {name.lower(): value for name, value in headers.items()}.items()


class TestWorker:
    async def test_function_timeout_ends_all_that_runs_in_the_worker(self, caplog: pytest.LogCaptureFixture) -> None:
        overdue, begun = asyncio.Event(), asyncio.Event()
        app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

        @app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *", run_on_startup=True)
        async def endless(timer: func.TimerRequest) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                overdue.set()
                await begun.wait()

        @app.route()
        async def held(req: func.HttpRequest) -> func.HttpResponse:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        @app.route()
        async def later(req: func.HttpRequest) -> func.HttpResponse:
            return func.HttpResponse("ok")

        host = create_host(app, keys=KEYS, host_json={"functionTimeout": "00:00:01"})
        async with host, client(host) as http:
            await overdue.wait()
            answer = await http.get("/api/held")
            assert (answer.status_code, answer.content) == (500, b"")
            assert (await http.get("/api/later")).text == "ok"
        causes = ["functionTimeout" in record.getMessage() for record in caplog.records]
        assert causes == [True, False], "the request has ended with the timer's run, and not by its own time"

    async def test_timers_go_on_until_the_requests_in_flight_have_ended(self) -> None:
        clock, ticks = ManualClock(datetime(2026, 11, 20, 12, tzinfo=UTC)), 0
        begun, may_end = asyncio.Event(), asyncio.Event()
        app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

        @app.timer_trigger(arg_name="timer", schedule="* * * * * *")
        async def tick(timer: func.TimerRequest) -> None:
            nonlocal ticks
            ticks += 1

        @app.route()
        async def held(req: func.HttpRequest) -> func.HttpResponse:
            begun.set()
            await may_end.wait()
            return func.HttpResponse("ended")

        host = create_host(app, keys=KEYS, clock=clock)
        async with client(host) as http, host:
            call = asyncio.create_task(http.get("/api/held"))
            await begun.wait()
            stopping = asyncio.create_task(host.drain())
            await clock.until_asleep(1)
            await clock.advance(timedelta(seconds=3))
            assert ticks == 3
            may_end.set()
            await stopping
            assert (await call).text == "ended"
