"""The development host in process: requests, responses, keys, admin endpoints, the Event Grid webhook, refusals."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

import azure.functions as func
import pytest

from local.functions_host import HostError, Limits, create_host
from tests.local.functions_host_apps import KEYS, MASTER, client, http_app
from tests.waiting import PATIENCE_S


def ok() -> func.HttpResponse:
    return func.HttpResponse("ok")


class TestRequests:
    async def test_handler_gets_the_request_as_the_real_worker_builds_it(self) -> None:
        seen: list[func.HttpRequest] = []

        async def task(req: func.HttpRequest) -> func.HttpResponse:
            seen.append(req)
            return ok()

        host = create_host(http_app(task, route="tasks/{id}/{*rest}", methods=["POST"]), keys=KEYS)
        async with client(host) as http:
            await http.post(
                "/api/tasks/a%20b%2Fc/x%C3%A9/y?q=1&q=2&empty=&plus=a+b",
                headers=[("X-Thing", "one"), ("x-thing", "two"), ("Content-Type", "application/json")],
                content=b'{"a": 1}',
            )
        [request] = seen
        assert request.method == "POST"
        assert request.url == ("http://localhost:7071/api/tasks/a%20b%2Fc/x%C3%A9/y?q=1&q=2&empty=&plus=a+b")
        assert dict(request.route_params) == {"id": "a b%2Fc", "rest": "xé/y"}
        assert dict(request.params) == {"q": "1,2", "plus": "a b"}
        assert request.headers["X-THING"] == "one,two"
        assert all(name == name.lower() for name in request.headers)
        assert request.get_body() == b'{"a": 1}'
        assert request.get_json() == {"a": 1}

    async def test_handler_gets_an_empty_body_if_none_was_sent(self) -> None:
        def size(req: func.HttpRequest) -> func.HttpResponse:
            return func.HttpResponse(str(len(req.get_body())))

        async with client(create_host(http_app(size), keys=KEYS)) as http:
            assert (await http.get("/api/size")).text == "0"

    async def test_an_unknown_path_and_a_wrong_method_are_404(self) -> None:
        def task(req: func.HttpRequest) -> func.HttpResponse:
            return ok()

        async with client(create_host(http_app(task, methods=["POST"]), keys=KEYS)) as http:
            answers = [await http.get("/api/task"), await http.get("/api/other"), await http.get("/")]
        assert [(answer.status_code, answer.content) for answer in answers] == [(404, b"")] * 3

    async def test_body_over_the_limit_is_not_read(self) -> None:
        async def take(req: func.HttpRequest) -> func.HttpResponse:
            return ok()

        async def receive() -> MutableMapping[str, Any]:
            raise AssertionError("read")

        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        host = create_host(http_app(take), keys=KEYS, limits=Limits(body_bytes=10))
        await host.asgi(_post_scope("/api/take", [(b"content-length", b"11")]), receive, send)
        assert [message["status"] for message in sent if "status" in message] == [500]

    async def test_client_disconnect_during_upload_calls_no_handler(self) -> None:
        async def take(req: func.HttpRequest) -> func.HttpResponse:
            raise AssertionError("called")

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            raise AssertionError(message)

        host = create_host(http_app(take), keys=KEYS)
        await host.asgi(_post_scope("/api/take", [(b"content-length", b"5")]), receive, send)


def _post_scope(path: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *headers],
    }


class TestResponses:
    @pytest.mark.parametrize(
        ("returned", "status", "content_type", "body"),
        [
            (lambda: func.HttpResponse("é"), 200, "text/plain; charset=utf-8", "é".encode()),
            (lambda: func.HttpResponse("é", charset="latin-1"), 200, "text/plain; charset=latin-1", b"\xe9"),
            (lambda: func.HttpResponse(b"\x00\xff", mimetype="image/png"), 200, "image/png", b"\x00\xff"),
            (
                lambda: func.HttpResponse("{}", mimetype="application/json", status_code=201),
                201,
                "application/json",
                b"{}",
            ),
            (lambda: func.HttpResponse("x", headers={"Content-Type": "a/b"}), 200, "a/b", b"x"),
            (lambda: func.HttpResponse(), 200, "text/plain; charset=utf-8", b""),
            (lambda: "text", 200, "text/plain; charset=utf-8", b"text"),
        ],
    )
    async def test_handler_return_value_becomes_the_response(
        self, returned: Callable[[], Any], status: int, content_type: str, body: bytes
    ) -> None:
        def handler(req: func.HttpRequest):
            return returned()

        async with client(create_host(http_app(handler), keys=KEYS)) as http:
            answer = await http.get("/api/handler")
        assert (answer.status_code, answer.headers["content-type"], answer.content) == (status, content_type, body)

    async def test_headers_and_all_cookies_are_sent(self) -> None:
        def handler(req: func.HttpRequest) -> func.HttpResponse:
            response = func.HttpResponse(headers={"Location": "/elsewhere"}, status_code=202)
            response.headers.add("Set-Cookie", "a=1; Path=/")
            response.headers.add("Set-Cookie", "b=2; HttpOnly")
            return response

        async with client(create_host(http_app(handler), keys=KEYS)) as http:
            answer = await http.get("/api/handler")
        assert (answer.status_code, answer.headers["location"]) == (202, "/elsewhere")
        assert answer.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2; HttpOnly"]

    async def test_a_204_has_no_body_and_no_length(self) -> None:
        def handler(req: func.HttpRequest) -> func.HttpResponse:
            return func.HttpResponse("lost", status_code=204)

        async with client(create_host(http_app(handler), keys=KEYS)) as http:
            answer = await http.get("/api/handler")
        assert (answer.status_code, answer.content) == (204, b"")
        assert "content-length" not in answer.headers

    @pytest.mark.parametrize(
        "returned",
        [
            None,
            {"a": 1},
            ("text", 200),
            b"bytes",
            func.HttpResponse(status_code=99),
            func.HttpResponse(headers={"X-Text": "\N{SNOWMAN}"}),
        ],
    )
    @pytest.mark.parametrize("is_async", [True, False])
    async def test_invalid_return_value_is_500_with_an_empty_body(
        self, returned: object, is_async: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def a_handler(req: func.HttpRequest):
            return returned

        def handler(req: func.HttpRequest):
            return returned

        async with client(create_host(http_app(a_handler, handler), keys=KEYS)) as http:
            answer = await http.get("/api/a_handler" if is_async else "/api/handler")
        assert (answer.status_code, answer.content) == (500, b"")
        [record] = caplog.records
        assert record.exc_info is not None

    async def test_exception_is_500_with_an_empty_body_and_one_logged_traceback(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(req: func.HttpRequest) -> func.HttpResponse:
            raise RuntimeError("secret detail")

        async with client(create_host(http_app(broken), keys=KEYS)) as http:
            answer = await http.get("/api/broken")
        assert (answer.status_code, answer.content) == (500, b"")
        [record] = caplog.records
        assert record.getMessage().startswith("Executed 'Functions.broken' (Failed, Id=")
        assert "secret detail" in (record.exc_text or logging.Formatter().format(record))

    async def test_response_timeout_answers_the_client_and_the_function_goes_on(self) -> None:
        may_end, ended = asyncio.Event(), asyncio.Event()

        async def slow(req: func.HttpRequest) -> func.HttpResponse:
            await may_end.wait()
            ended.set()
            return ok()

        host = create_host(http_app(slow), keys=KEYS, limits=Limits(response_s=0))
        async with host, client(host) as http:
            assert (await http.get("/api/slow")).status_code == 504
            may_end.set()
            await ended.wait()

    async def test_function_timeout_cancels_the_invocation(self, caplog: pytest.LogCaptureFixture) -> None:
        cancelled = asyncio.Event()

        async def endless(req: func.HttpRequest) -> func.HttpResponse:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            raise AssertionError

        host = create_host(http_app(endless), keys=KEYS, host_json={"functionTimeout": "00:00:00.01"})
        async with client(host) as http:
            assert (await http.get("/api/endless")).status_code == 500
        assert cancelled.is_set()
        assert "after functionTimeout, 0.01 s" in caplog.text

    async def test_timeout_error_of_the_app_does_not_count_as_function_timeout(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def broken(req: func.HttpRequest) -> func.HttpResponse:
            raise TimeoutError

        async with client(create_host(http_app(broken), keys=KEYS, host_json={"functionTimeout": "-1"})) as http:
            assert (await http.get("/api/broken")).status_code == 500
        assert "functionTimeout" not in caplog.text


class TestConcurrency:
    async def test_async_functions_share_the_event_loop_and_sync_ones_use_threads(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHON_THREADPOOL_THREAD_COUNT", "2")
        both_run = threading.Barrier(2)

        def together(req: func.HttpRequest) -> func.HttpResponse:
            both_run.wait(timeout=PATIENCE_S)
            return func.HttpResponse(threading.current_thread().name)

        async def on_loop(req: func.HttpRequest) -> func.HttpResponse:
            return func.HttpResponse(str(threading.current_thread() is threading.main_thread()))

        host = create_host(http_app(together, on_loop), keys=KEYS)
        async with host, client(host) as http:
            answers = await asyncio.gather(http.get("/api/together"), http.get("/api/together"))
            assert {answer.text for answer in answers} == {"function_0", "function_1"}
            assert (await http.get("/api/on_loop")).text == "True"


class TestDrain:
    async def test_drain_timeout_cancels_running_functions(self) -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def endless(req: func.HttpRequest) -> func.HttpResponse:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return ok()

        host = create_host(http_app(endless), keys=KEYS, limits=Limits(drain_s=0))
        async with client(host) as http:
            async with host:
                call = asyncio.create_task(http.get("/api/endless"))
                await begun.wait()
            assert cancelled.is_set()
            assert (await call).status_code == 500

    async def test_drain_reports_a_thread_that_does_not_end(self) -> None:
        begun, may_end = threading.Event(), threading.Event()

        def endless(req: func.HttpRequest) -> func.HttpResponse:
            begun.set()
            may_end.wait()
            return ok()

        host = create_host(http_app(endless), keys=KEYS, limits=Limits(drain_s=0))
        async with client(host) as http:
            async with host:
                call = asyncio.create_task(http.get("/api/endless"))
                await asyncio.to_thread(begun.wait)
            assert host.has_busy_threads
            may_end.set()
            assert (await call).status_code == 500


class TestContext:
    async def test_handler_with_a_context_parameter_gets_its_context(self) -> None:
        seen: list[func.Context] = []

        def handler(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
            assert context.thread_local_storage.invocation_id == context.invocation_id
            seen.append(context)
            return ok()

        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        host = create_host(http_app(handler), keys=KEYS)
        async with client(host) as http:
            await http.get("/api/handler", headers={"traceparent": parent, "tracestate": "a=b"})
            await http.get("/api/handler")
            await http.get("/api/handler", headers={"traceparent": "nonsense", "tracestate": "a=b"})
        given, fresh, other = seen
        assert isinstance(given, func.Context)
        assert given.function_name == "handler"
        assert given.function_directory == __file__.rpartition("/")[0]
        assert given.trace_context.trace_parent == given.trace_context.Traceparent == parent
        assert given.trace_context.trace_state == "a=b"
        assert given.trace_context.attributes == {"OperationName": "handler"}
        assert (given.retry_context.retry_count, given.retry_context.max_retry_count) == (0, 0)
        traces = {context.trace_context.trace_parent for context in (given, fresh, other)}
        assert len(traces) == len({context.invocation_id for context in seen}) == 3
        assert other.trace_context.trace_state == ""


class TestKeys:
    @pytest.mark.parametrize(
        ("level", "function", "key", "status"),
        [
            ("ANONYMOUS", "own", None, 200),
            ("FUNCTION", "own", None, 401),
            ("FUNCTION", "own", "", 401),
            ("FUNCTION", "own", "wrong", 401),
            ("FUNCTION", "own", "own-key", 200),
            ("FUNCTION", "own", "host-key", 200),
            ("FUNCTION", "own", "master-key", 200),
            ("FUNCTION", "own", "eventgrid-key", 401),
            ("FUNCTION", "other", "own-key", 401),
            ("ADMIN", "own", "own-key", 401),
            ("ADMIN", "own", "host-key", 401),
            ("ADMIN", "own", "master-key", 200),
        ],
    )
    async def test_each_auth_level_accepts_its_keys(
        self, level: str, function: str, key: str | None, status: int
    ) -> None:
        app = func.FunctionApp()

        @app.function_name(function)
        @app.route(route="it", auth_level=func.AuthLevel[level])
        def it(req: func.HttpRequest) -> func.HttpResponse:
            return ok()

        async with client(create_host(app, keys=KEYS)) as http:
            by_header = await http.get("/api/it", headers={} if key is None else {"x-functions-key": key})
            by_query = await http.get("/api/it", params={} if key is None else {"code": key})
        assert by_header.status_code == by_query.status_code == status
        if status == 401:
            assert by_header.content == by_query.content == b""

    async def test_key_header_takes_precedence_over_the_query(self) -> None:
        app = func.FunctionApp()

        @app.route()
        def it(req: func.HttpRequest) -> func.HttpResponse:
            return ok()

        async with client(create_host(app, keys=KEYS)) as http:
            good, bad = {"x-functions-key": "host-key"}, {"x-functions-key": "wrong"}
            assert (await http.get("/api/it?code=wrong", headers=good)).status_code == 200
            assert (await http.get("/api/it?code=host-key", headers=bad)).status_code == 401

    async def test_key_is_checked_before_the_body_is_read(self) -> None:
        app = func.FunctionApp()

        @app.route()
        def it(req: func.HttpRequest) -> func.HttpResponse:
            return ok()

        host = create_host(app, keys=KEYS, limits=Limits(body_bytes=1))
        async with client(host) as http:
            assert (await http.post("/api/it", content=b"too large")).status_code == 401

    def test_keys_are_hidden_in_repr(self) -> None:
        assert "key" not in repr(KEYS)


class TestAdmin:
    @pytest.fixture
    def app(self) -> func.FunctionApp:
        app = func.FunctionApp()

        @app.function_name("Task")
        @app.route(route="tasks/{id}")
        def task(req: func.HttpRequest) -> func.HttpResponse:
            return ok()

        @app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
        async def yearly(timer: func.TimerRequest) -> None:
            pass

        return app

    async def test_admin_api_lists_the_functions(
        self, app: func.FunctionApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AzureWebJobs.yearly.Disabled", "true")
        async with client(create_host(app, keys=KEYS)) as http:
            listed = (await http.get("/admin/functions", headers=MASTER)).json()
        assert listed == [
            {"name": "Task", "type": "httpTrigger", "route": "tasks/{id}", "isDisabled": False},
            {"name": "yearly", "type": "timerTrigger", "route": None, "isDisabled": True},
        ]

    async def test_admin_api_reports_the_status_running(self, app: func.FunctionApp) -> None:
        async with client(create_host(app, keys=KEYS)) as http:
            assert (await http.get("/admin/host/status", headers=MASTER)).json() == {"state": "Running"}

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/admin/functions"), ("GET", "/Admin/host/status"), ("POST", "/admin/functions/Task")],
    )
    @pytest.mark.parametrize(("key", "status"), [(None, 401), ("wrong", 401), ("host-key", 403)])
    async def test_admin_api_needs_the_master_key(
        self, app: func.FunctionApp, method: str, path: str, key: str | None, status: int
    ) -> None:
        async with client(create_host(app, keys=KEYS)) as http:
            answer = await http.request(method, path, headers={"x-functions-key": key} if key else {})
        assert (answer.status_code, answer.content) == (status, b"")

    async def test_admin_api_starts_any_function_without_waiting_for_it(self) -> None:
        app, may_end = func.FunctionApp(), asyncio.Event()
        seen: asyncio.Queue[object] = asyncio.Queue()

        @app.function_name("Yearly")
        @app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
        async def yearly(timer: func.TimerRequest) -> None:
            await may_end.wait()
            seen.put_nowait(timer.past_due)

        @app.route()
        async def echo(req: func.HttpRequest) -> func.HttpResponse:
            seen.put_nowait((req.method, req.get_body()))
            return ok()

        @app.event_grid_trigger(arg_name="event")
        async def on_event(event: func.EventGridEvent) -> None:
            seen.put_nowait(event.subject)

        host = create_host(app, keys=KEYS)
        async with host, client(host) as http:
            assert (await http.post("/admin/functions/yearly", headers=MASTER, json={"input": ""})).status_code == 202
            may_end.set()
            assert await seen.get() is False
            assert (await http.post("/admin/functions/echo", headers=MASTER, json={"input": "hi"})).status_code == 202
            assert await seen.get() == ("POST", b"hi")
            event = json.dumps({"id": "1", "subject": "s", "eventType": "t", "data": {}, "dataVersion": "1"})
            for given in (event, json.loads(event)):
                answer = await http.post("/admin/functions/on_event", headers=MASTER, json={"input": given})
                assert answer.status_code == 202
                assert await seen.get() == "s"

    async def test_admin_api_refuses_invalid_function_starts(self, app: func.FunctionApp) -> None:
        async with client(create_host(app, keys=KEYS)) as http:
            assert (await http.post("/admin/functions/none", headers=MASTER, json={"input": ""})).status_code == 404
            for content in (b"", b"nonsense", b"[]"):
                answer = await http.post("/admin/functions/yearly", headers=MASTER, content=content)
                assert answer.status_code == 400
            assert (await http.get("/admin/else", headers=MASTER)).status_code == 404

    @pytest.mark.parametrize("value", ["true", "True", "1"])
    async def test_disabled_function_is_404_except_with_the_master_key(
        self, app: func.FunctionApp, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AzureWebJobs.Task.Disabled", value)
        async with client(create_host(app, keys=KEYS)) as http:
            assert (await http.get("/api/tasks/1", headers={"x-functions-key": "host-key"})).status_code == 404
            assert (await http.get("/api/tasks/1", headers=MASTER)).status_code == 200


WEBHOOK = "/runtime/webhooks/eventgrid?functionName=on_event&code=eventgrid-key"
NOTIFICATION = {"aeg-event-type": "Notification"}


class TestEventGridWebhook:
    @staticmethod
    def event(subject: str) -> dict[str, object]:
        return {
            "id": "1",
            "topic": "/t",
            "subject": subject,
            "eventType": "task",
            "eventTime": "2026-11-22T10:00:00.1234567Z",
            "data": {"a": 1},
            "dataVersion": "1.0",
        }

    @pytest.fixture
    def seen(self) -> list[func.EventGridEvent]:
        return []

    @pytest.fixture
    def app(self, seen: list[func.EventGridEvent]) -> func.FunctionApp:
        app = func.FunctionApp()

        @app.event_grid_trigger(arg_name="event")
        async def on_event(event: func.EventGridEvent, context: func.Context) -> None:
            seen.append(event)
            if event.subject == "bad":
                raise RuntimeError("secret detail")

        @app.route()
        def not_one(req: func.HttpRequest) -> func.HttpResponse:
            return ok()

        return app

    async def test_a_subscription_is_validated(self, app: func.FunctionApp) -> None:
        async with client(create_host(app, keys=KEYS)) as http:
            answer = await http.post(
                WEBHOOK,
                headers={"aeg-event-type": "SubscriptionValidation"},
                json=[{"data": {"validationCode": "the-code", "validationUrl": "https://never.example"}}],
            )
        assert (answer.status_code, answer.json()) == (200, {"validationResponse": "the-code"})

    async def test_a_cloud_events_subscription_is_validated(self, app: func.FunctionApp) -> None:
        async with client(create_host(app, keys=KEYS)) as http:
            answer = await http.options(WEBHOOK, headers={"WebHook-Request-Origin": "eventgrid.azure.net"})
        assert (answer.status_code, answer.headers["webhook-allowed-origin"]) == (200, "eventgrid.azure.net")

    async def test_each_event_of_a_delivery_runs_the_function(
        self, app: func.FunctionApp, seen: list[func.EventGridEvent]
    ) -> None:
        async with client(create_host(app, keys=KEYS)) as http:
            answer = await http.post(WEBHOOK, headers=NOTIFICATION, json=[self.event("a"), self.event("b")])
        assert (answer.status_code, answer.content) == (202, b"")
        assert [(event.subject, event.event_type, event.get_json()) for event in seen] == [
            ("a", "task", {"a": 1}),
            ("b", "task", {"a": 1}),
        ]

    async def test_one_failed_event_fails_the_delivery_with_a_message(
        self, app: func.FunctionApp, seen: list[func.EventGridEvent]
    ) -> None:
        async with client(create_host(app, keys=KEYS)) as http:
            answer = await http.post(WEBHOOK, headers=NOTIFICATION, json=[self.event("bad"), self.event("b")])
        assert (answer.status_code, answer.text) == (500, "Exception while executing function: Functions.on_event")
        assert len(seen) == 2

    @pytest.mark.parametrize("content", [b"nonsense", b"5"])
    async def test_delivery_without_events_is_500(self, app: func.FunctionApp, content: bytes) -> None:
        async with client(create_host(app, keys=KEYS)) as http:
            assert (await http.post(WEBHOOK, headers=NOTIFICATION, content=content)).status_code == 500

    async def test_unsubscribe_event_is_accepted_and_other_types_are_refused(self, app: func.FunctionApp) -> None:
        async with client(create_host(app, keys=KEYS)) as http:
            ended = await http.post(WEBHOOK, headers={"aeg-event-type": "Unsubscribe"})
            assert [ended.status_code, (await http.post(WEBHOOK)).status_code] == [202, 400]

    @pytest.mark.parametrize("name", ["not_one", "none", ""])
    async def test_only_event_grid_functions_can_be_named(self, app: func.FunctionApp, name: str) -> None:
        url = f"/runtime/webhooks/eventgrid?functionName={name}&code=eventgrid-key"
        async with client(create_host(app, keys=KEYS)) as http:
            answer = await http.post(url, headers=NOTIFICATION, json=[])
        assert (answer.status_code, answer.text) == (404, f"cannot find function: '{name}'")

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 401),
            ({"aeg-sas-key": "host-key"}, 401),
            ({"aeg-sas-key": "eventgrid-key"}, 202),
            ({"x-functions-key": "eventgrid-key"}, 202),
            (MASTER, 202),
        ],
    )
    async def test_event_grid_webhook_needs_the_system_or_master_key(
        self, app: func.FunctionApp, headers: dict[str, str], status: int
    ) -> None:
        async with client(create_host(app, keys=KEYS)) as http:
            url = "/runtime/webhooks/eventgrid?functionName=on_event"
            answer = await http.post(url, headers={**NOTIFICATION, **headers}, json=[self.event("a")])
        assert answer.status_code == status

    async def test_other_webhooks_are_404(self, app: func.FunctionApp) -> None:
        async with client(create_host(app, keys=KEYS)) as http:
            assert (await http.post("/runtime/webhooks/blobs", headers=MASTER)).status_code == 404


def _wrong_parameter(app: func.FunctionApp) -> None:
    @app.route()
    def f(req: func.HttpRequest, other: str) -> func.HttpResponse:
        return ok()


def _missing_parameter(app: func.FunctionApp) -> None:
    @app.route(trigger_arg_name="request")
    def f() -> func.HttpResponse:
        return ok()


def _wrong_annotation(app: func.FunctionApp) -> None:
    @app.route()
    def f(req: func.TimerRequest) -> func.HttpResponse:
        return ok()


def _optional_annotation(app: func.FunctionApp) -> None:
    @app.route()
    def f(req: func.HttpRequest | None) -> func.HttpResponse:
        return ok()


def _wrong_context(app: func.FunctionApp) -> None:
    @app.route()
    def f(req: func.HttpRequest, context: dict) -> func.HttpResponse:
        return ok()


def _unknown_annotation(app: func.FunctionApp) -> None:
    @app.route()
    def f(req: "func.Nothing") -> func.HttpResponse:
        return ok()


def _wrong_return(app: func.FunctionApp) -> None:
    @app.route()
    def f(req: func.HttpRequest) -> dict:
        return {}


def _optional_return(app: func.FunctionApp) -> None:
    @app.route()
    def f(req: func.HttpRequest) -> func.HttpResponse | None:
        return None


def _same_name(app: func.FunctionApp) -> None:
    for route in ("a", "b"):

        @app.function_name("f")
        @app.route(route=route)
        def f(req: func.HttpRequest) -> func.HttpResponse:
            return ok()


def _same_name_but_for_case(app: func.FunctionApp) -> None:
    for name in ("f", "F"):

        @app.function_name(name)
        @app.route(route=f"{name}{name}".replace("F", "G"))
        def f(req: func.HttpRequest) -> func.HttpResponse:
            return ok()


def _no_trigger(app: func.FunctionApp) -> None:
    @app.function_name("f")
    def f(req: func.HttpRequest) -> func.HttpResponse:
        return ok()


def _queue_trigger(app: func.FunctionApp) -> None:
    @app.queue_trigger(arg_name="message", queue_name="q", connection="c")
    def f(message: func.QueueMessage) -> None: ...


def _blob_input(app: func.FunctionApp) -> None:
    @app.blob_input(arg_name="blob", path="p", connection="c")
    @app.route()
    def f(req: func.HttpRequest, blob: str) -> func.HttpResponse:
        return ok()


def _event_grid_output(app: func.FunctionApp) -> None:
    @app.event_grid_output(arg_name="out", topic_endpoint_uri="u", topic_key_setting="k")
    @app.timer_trigger(arg_name="timer", schedule="* * * * * *")
    def f(timer: func.TimerRequest, out: func.Out[str]) -> None: ...


def _named_output(app: func.FunctionApp) -> None:
    @app.route(binding_arg_name="answer")
    def f(req: func.HttpRequest, answer: func.Out[func.HttpResponse]) -> None: ...


def _bad_schedule(app: func.FunctionApp) -> None:
    @app.timer_trigger(arg_name="timer", schedule="* * * * * 7")
    def f(timer: func.TimerRequest) -> None: ...


def _bad_retry(app: func.FunctionApp) -> None:
    @app.timer_trigger(arg_name="timer", schedule="* * * * * *")
    @app.retry(strategy="often", max_retry_count="3")
    def f(timer: func.TimerRequest) -> None: ...


def _retry_without_delay(app: func.FunctionApp) -> None:
    @app.timer_trigger(arg_name="timer", schedule="* * * * * *")
    @app.retry(strategy="fixed_delay", max_retry_count="3")
    def f(timer: func.TimerRequest) -> None: ...


def _reserved_route(app: func.FunctionApp) -> None:
    @app.route(route="admin/tasks")
    def f(req: func.HttpRequest) -> func.HttpResponse:
        return ok()


def _route_conflict(app: func.FunctionApp) -> None:
    for name in ("e", "f"):

        @app.function_name(name)
        @app.route(route="tasks")
        def handler(req: func.HttpRequest) -> func.HttpResponse:
            return ok()


@pytest.mark.parametrize(
    ("declare", "reason"),
    [
        (_wrong_parameter, "f: the parameter other has no binding."),
        (_missing_parameter, "f: the binding request has no parameter."),
        (_wrong_annotation, "f: the annotation of req does not match its httpTrigger."),
        (_optional_annotation, "f: the annotation of req does not match its httpTrigger."),
        (_wrong_context, "f: the parameter context is expected to be an azure.functions.Context."),
        (
            _unknown_annotation,
            "f: its annotations cannot be resolved: module 'azure.functions' has no attribute 'Nothing'.",
        ),
        (_wrong_return, "f: its return annotation does not match its http output."),
        (_optional_return, "f: its return annotation does not match its http output."),
        (_same_name, "Function f does not have a unique function name."),
        (_same_name_but_for_case, "F: another function has this name"),
        (_no_trigger, "Function f does not have a trigger."),
        (_queue_trigger, "f: queueTrigger is not supported by the development host."),
        (_blob_input, "f: the binding blob is not supported by the development host."),
        (_event_grid_output, "f: the binding eventGrid is not supported by the development host."),
        (_named_output, "f: an HTTP function needs an http output named $return."),
        (_bad_schedule, "f: its schedule cannot be used: '7' is no weekday from 0 to 6."),
        (_bad_retry, "f: its retry policy cannot be used: 'often' is neither fixed_delay nor exponential_backoff."),
        (_retry_without_delay, "f: its retry policy cannot be used: '' is not a time span"),
        (_reserved_route, "f: the route 'admin/tasks' conflicts with the host's built-in routes."),
        (_route_conflict, "f: the route 'tasks' conflicts with that of the function e."),
    ],
)
def test_app_that_the_real_host_refuses_does_not_start(
    declare: Callable[[func.FunctionApp], None], reason: str
) -> None:
    app = func.FunctionApp()
    declare(app)
    with pytest.raises(HostError) as caught:
        create_host(app, keys=KEYS)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("timeout", ["soon", "30:00:00", 5])
def test_invalid_function_timeout_stops_the_start(timeout: object) -> None:
    with pytest.raises(HostError, match=r"^host\.json: functionTimeout cannot be used: "):
        create_host(func.FunctionApp(), keys=KEYS, host_json={"functionTimeout": timeout})


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_invalid_thread_count_stops_the_start(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_THREADPOOL_THREAD_COUNT", count)
    with pytest.raises(HostError, match=r"^PYTHON_THREADPOOL_THREAD_COUNT is "):
        create_host(func.FunctionApp(), keys=KEYS)


async def test_blueprint_functions_are_served_below_the_host_json_prefix() -> None:
    blueprint, app = func.Blueprint(), func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

    @blueprint.route(route="tasks")
    def tasks(req: func.HttpRequest) -> func.HttpResponse:
        return ok()

    app.register_functions(blueprint)
    host = create_host(app, keys=KEYS, host_json={"extensions": {"http": {"routePrefix": "v1"}}})
    assert list(host.functions) == ["tasks"]
    async with client(host) as http:
        assert (await http.get("/v1/tasks")).status_code == 200
        assert (await http.get("/api/tasks")).status_code == 404
