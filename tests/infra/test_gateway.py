"""The local gateway with mono: what the app gets through it, and what becomes of a request when something fails."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from local.azurite import Azurite
from local.gateway.configuration import Subscription
from local.gateway.errors import GatewayError
from local.gateway.process import APIS, GatewayProcess
from local.gateway.server import Gateway
from local.processes import LocalStackError
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from tests.infra.gateway_under_test import (
    GATEWAY_KEY,
    KEY,
    OPERATOR_KEY,
    OTHER_KEY,
    SUBSCRIPTIONS,
    WAITING,
    Gate,
    gateway_before,
    local_gate,
    stack_behind,
)
from tests.scripted_backend import ScriptedBackend
from tests.secrecy import planted
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.usefixtures("mono")

TASK = "/api/v1/tasks/69b06303-bfff-4fe4-bb75-467cb5ceac47"
NEW_GATEWAY_KEY = planted("new-gateway-key")
UNFINISHED = {"ETag": '"1"', "Retry-After": "1", "Content-Type": "application/json"}


class AppDouble:
    """In place of the app: keeps what it is asked, and answers what a test says."""

    def __init__(self) -> None:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                double.requests.put(self)
                double.calls += 1
                double.react(self)

            do_GET = do_POST = answer  # noqa: N815 (the base class names them)

            def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.requests: Queue[Any] = Queue()
        self.calls = 0
        self.react: Callable[[Any], None] = lambda request: request.send(200, UNFINISHED, b"{}")
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def app_double() -> Iterator[AppDouble]:
    double = AppDouble()
    yield double
    double.close()


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make_gateway(
    app_url: str,
    work: Path,
    clock: Callable[[], float] = time.monotonic,
    *,
    apis: Path = APIS,
    named_values: dict[str, Any] | None = None,
    tier: str = "v2",
    owner: str = "subscription",
) -> Gateway:
    """A gateway in this process, whose clock a test can set."""
    values = {
        "function-key": "function",
        "gateway-key": GATEWAY_KEY,
        "gateway-url": "https://gateway.example.org",
        "max-body-bytes": "1000",
        "calls-per-minute": "1000",
        "calls-per-month": "1000",
        "cors-origins": ["https://page.example"],
        "openid-configuration-url": "none",
        "token-audience": "none",
        "owner-claim": "oid",
        **(named_values or {}),
    }
    return Gateway(
        apis,
        app_url=app_url,
        named_values=values,
        subscriptions=[Subscription(id_, id_, key, product) for key, (id_, product) in SUBSCRIPTIONS.items()],
        services=["/v1/words"],
        tier=tier,
        owner=owner,
        work=work,
        clock=clock,
    )


@asynccontextmanager
async def in_process(*arguments: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway in this process."""
    gateway = make_gateway(*arguments, **options)
    await gateway.evaluator.start()
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(gateway),  # type: ignore[arg-type]
            base_url="https://gateway.example.org",
            headers={"Ocp-Apim-Subscription-Key": KEY},
            timeout=PATIENCE_S,
        ) as client:
            yield client
    finally:
        await gateway.evaluator.stop()


async def test_the_app_gets_the_owner_the_keys_and_the_trace_and_nothing_of_the_caller_s(
    app_double: AppDouble, tmp_path: Path
) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with in_process(app_double.url, tmp_path) as caller:
        await caller.get(
            f"{TASK}?code=guessed&subscription-key={OTHER_KEY}&wait=0",
            headers={
                "Authorization": "Bearer caller's",
                "Cookie": "a=b",
                "traceparent": f"00-{trace}-b7ad6b7169203331-01",
                "tracestate": "vendor=1",
                "X-Functions-Key": "guessed",
                "X-Gateway-Key": "guessed",
                "X-Operator": "guessed",
                "X-Operator-Roles": "operate",
                "X-Task-Attempt": "1",
                "X-Task-Instance": "1",
                "X-Task-Owner": "other",
                "X-Task-Slots": "1",
                "Accept": "application/json",
                "X-Name": "Andr\xe9".encode("latin-1"),
                "Expect": "100-continue",
                "Connection": "X-Hop",
            },
        )

    got = app_double.requests.get(timeout=PATIENCE_S)
    headers = {name.lower(): got.headers.get_all(name) for name in got.headers}
    assert got.path == f"{TASK}?wait=0"
    assert headers["x-functions-key"] == ["function"]
    assert headers["x-gateway-key"] == [GATEWAY_KEY]
    assert headers["x-task-owner"] == ["one"]
    assert headers["accept"] == ["application/json"]
    assert headers["x-name"] == ["Andr\xe9"]
    assert headers["tracestate"] == ["vendor=1"]
    ((version, kept, span, flags),) = [value.split("-") for value in headers["traceparent"]]
    assert (version, kept, flags) == ("00", trace, "01")
    assert span != "b7ad6b7169203331"
    assert not set(headers) & {
        *("authorization", "cookie", "ocp-apim-subscription-key", "connection", "expect"),
        *("x-task-attempt", "x-task-instance", "x-task-slots"),
        *("x-operator", "x-operator-roles"),
    }


@pytest.mark.parametrize("path", ["/api/v1/queues/v1/words", "/operators/api/v1/tasks/one"])
async def test_the_app_gets_the_operator_and_nothing_of_what_it_says_of_itself(
    app_double: AppDouble, tmp_path: Path, path: str
) -> None:
    guessed = {
        "X-Operator": "guessed",
        "X-Operator-Roles": "guessed",
        "X-Task-Owner": "guessed",
        "X-Gateway-Key": "guessed",
        "X-Functions-Key": "guessed",
        "Ocp-Apim-Subscription-Key": OPERATOR_KEY,
    }
    async with in_process(app_double.url, tmp_path) as operator:
        assert (await operator.get(path, headers=guessed)).status_code == 200

    got = app_double.requests.get(timeout=PATIENCE_S)
    headers = {name.lower(): got.headers.get_all(name) for name in got.headers}
    assert got.path == path.removeprefix("/operators")
    assert headers["x-operator"] == ["operator"]
    assert headers["x-operator-roles"] == ["operate"]
    assert headers["x-gateway-key"] == [GATEWAY_KEY]
    assert headers["x-functions-key"] == ["function"]
    assert not set(headers) & {"x-task-owner", "ocp-apim-subscription-key"}


async def test_a_task_that_an_operator_submits_is_found_where_operators_look(
    app_double: AppDouble, tmp_path: Path
) -> None:
    app_double.react = lambda request: request.send(202, {"Location": f"{app_double.url}/api/v1/tasks/one"}, b"{}")
    async with in_process(app_double.url, tmp_path) as operator:
        key = {"Ocp-Apim-Subscription-Key": OPERATOR_KEY}
        answer = await operator.post("/operators/api/v1/submit/v1/words", content=b"x", headers=key)

    place = "https://gateway.example.org/operators/api/v1/tasks/one"
    assert (answer.headers["location"], answer.headers["operation-location"]) == (place, place)


@pytest.mark.parametrize(
    "named", ["X-Task-Owner", "keep-alive, x-gateway-key", "close,X-FUNCTIONS-KEY", "X-Operator-Roles"]
)
async def test_no_caller_has_the_gateway_take_away_what_it_sets(
    app_double: AppDouble, tmp_path: Path, named: str
) -> None:
    async with in_process(app_double.url, tmp_path) as caller:
        answer = await caller.get(TASK, headers={"Connection": named})

    assert (answer.status_code, answer.json()["detail"]) == (400, "Connection names a header that the gateway sets.")
    assert app_double.calls == 0


async def test_a_request_without_a_trace_gets_one(app_double: AppDouble, tmp_path: Path) -> None:
    async with in_process(app_double.url, tmp_path) as caller:
        for given in ({}, {"traceparent": "nonsense"}, {"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"}):
            await caller.get(TASK, headers=given)

    traces = [app_double.requests.get(timeout=PATIENCE_S).headers["traceparent"] for _ in range(app_double.calls)]
    assert len({trace.split("-")[1] for trace in traces}) == len(traces)
    assert "0" * 32 not in {trace.split("-")[1] for trace in traces}


async def test_an_inner_header_does_not_leave(app_double: AppDouble, tmp_path: Path) -> None:
    inner = {
        "Server": "Kestrel",
        "X-Powered-By": "ASP.NET",
        "Request-Context": "appId=1",
        "Set-Cookie": "ARRAffinity=1",
        "Location": f"{app_double.url}/api/v1/tasks/one",
    }
    app_double.react = lambda request: request.send(202, inner, b"{}")
    async with in_process(app_double.url, tmp_path) as caller:
        answer = await caller.post("/api/v1/submit/v1/words", content=b"x")

    assert dict(answer.headers) == {
        "content-length": "2",
        "location": "https://gateway.example.org/api/v1/tasks/one",
        "operation-location": "https://gateway.example.org/api/v1/tasks/one",
        "x-gateway": "local",
    }


async def test_the_state_of_an_unfinished_task_is_cached_for_a_second(app_double: AppDouble, tmp_path: Path) -> None:
    clock = Hand()
    bodies = iter(range(100))
    app_double.react = lambda request: request.send(200, UNFINISHED, str(next(bodies)).encode())
    async with in_process(app_double.url, tmp_path, clock) as caller:
        first, second = [await caller.get(TASK) for _ in range(2)]
        assert (first.text, second.text) == ("0", "0")
        assert (second.headers["etag"], second.headers["retry-after"]) == ('"1"', "1")
        assert (await caller.get(TASK, headers={"Ocp-Apim-Subscription-Key": OTHER_KEY})).text == "1"
        assert (await caller.get(f"{TASK}?wait=0")).text == "2"
        assert (await caller.get(TASK, headers={"If-None-Match": '"0"'})).text == "3"
        clock.now_s += 1
        assert (await caller.get(TASK)).text == "4"


async def test_a_finished_task_is_not_cached(app_double: AppDouble, tmp_path: Path) -> None:
    app_double.react = lambda request: request.send(200, {"ETag": '"1"'}, b"{}")
    async with in_process(app_double.url, tmp_path) as caller:
        await caller.get(TASK)
        await caller.get(TASK)

    assert app_double.calls == 2


@pytest.mark.parametrize(("size_bytes", "calls"), [(99_999, 1), (100_000, 2)])
async def test_a_long_state_is_not_cached(app_double: AppDouble, tmp_path: Path, size_bytes: int, calls: int) -> None:
    app_double.react = lambda request: request.send(200, UNFINISHED, b"x" * size_bytes)
    async with in_process(app_double.url, tmp_path) as caller:
        assert [len((await caller.get(TASK)).content) for _ in range(2)] == [size_bytes] * 2

    assert app_double.calls == calls


@pytest.mark.parametrize("tier", ["v2", "consumption"])
async def test_who_calls_too_often_gets_429_and_the_time_when_to_come_again(
    app_double: AppDouble, tmp_path: Path, tier: str
) -> None:
    clock = Hand()
    async with in_process(
        app_double.url, tmp_path, clock, tier=tier, named_values={"calls-per-minute": "3"}
    ) as caller:
        assert [(await caller.get("/api/v1/tasks")).status_code for _ in range(3)] == [200, 200, 200]
        clock.now_s += 20
        refused = await caller.get(TASK)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "40")
        assert (await caller.get(TASK, headers={"Ocp-Apim-Subscription-Key": OTHER_KEY})).status_code == 200
        clock.now_s += 40
        assert (await caller.get(TASK)).status_code == 200

    assert app_double.calls == 5


@pytest.mark.parametrize(
    ("path", "prefer", "reaches"),
    [
        (f"{TASK}?wait=60", None, (f"{TASK}?wait=20", None)),
        (f"{TASK}?wait=20.5", None, (f"{TASK}?wait=20.5", None)),
        (f"{TASK}?wait=5", None, (f"{TASK}?wait=5", None)),
        (f"{TASK}?wait=soon", None, (f"{TASK}?wait=soon", None)),
        (TASK, None, (TASK, None)),
        ("/api/v1/submit/v1/words?wait=60", "respond-async, wait=45", ("/api/v1/submit/v1/words?wait=60", "wait=20")),
        ("/api/v1/submit/v1/words", "wait=5", ("/api/v1/submit/v1/words", "wait=5")),
    ],
)
async def test_a_wait_fits_into_the_30_s_of_the_consumption_tier(
    app_double: AppDouble, tmp_path: Path, path: str, prefer: str | None, reaches: tuple[str, str | None]
) -> None:
    async with in_process(app_double.url, tmp_path, tier="consumption") as caller:
        method = "POST" if "submit" in path else "GET"
        await caller.request(method, path, headers={"Prefer": prefer} if prefer else {})

    request = app_double.requests.get(timeout=PATIENCE_S)
    assert (request.path, request.headers["Prefer"]) == reaches


async def test_a_program_with_an_origin_of_its_own_is_answered(app_double: AppDouble, tmp_path: Path) -> None:
    async with in_process(app_double.url, tmp_path) as caller:
        answer = await caller.get(TASK, headers={"Origin": "https://nobody.example"})

    assert (answer.status_code, answer.text) == (200, "{}")
    assert "access-control-allow-origin" not in answer.headers


async def test_who_has_used_up_its_month_gets_403(app_double: AppDouble, tmp_path: Path) -> None:
    async with in_process(app_double.url, tmp_path, named_values={"calls-per-month": "1"}) as caller:
        assert (await caller.get(TASK)).status_code == 200
        refused = await caller.get(TASK)

    assert refused.status_code == 403
    assert int(refused.headers["retry-after"]) > 29 * 24 * 3600


async def test_no_caller_shuts_out_the_others_by_asking_for_what_the_app_does_not_offer(
    app_double: AppDouble, tmp_path: Path
) -> None:
    clock = Hand()
    app_double.react = lambda request: request.send(501, {}, b"{}")  # uploads are off
    async with in_process(app_double.url, tmp_path, clock) as caller:
        for _ in range(60):
            assert (await caller.post("/api/v1/uploads", content=b"{}")).status_code == 501
        app_double.react = lambda request: request.send(200, {}, b"{}")
        assert (await caller.get(TASK)).status_code == 200


async def test_a_queue_that_takes_no_tasks_shuts_out_no_caller_of_another(
    app_double: AppDouble, tmp_path: Path
) -> None:
    app_double.react = lambda request: request.send(503, {"Retry-After": "60"})  # it is draining
    async with in_process(app_double.url, tmp_path, Hand()) as caller:
        for _ in range(60):
            assert (await caller.post("/api/v1/submit/v1/words", content=b"x")).headers["retry-after"] == "60"
        app_double.react = lambda request: request.send(202, {}, b"{}")
        assert (await caller.post("/api/v1/submit/v1/land", content=b"x")).status_code == 202


@pytest.mark.parametrize(("retry_after", "open_s"), [({"Retry-After": "120"}, 120), ({}, 10)])
async def test_a_breaker_is_open_for_as_long_as_the_app_asks(
    app_double: AppDouble, tmp_path: Path, retry_after: dict[str, str], open_s: int
) -> None:
    clock = Hand()
    rule = next(one for one in json.loads(APIS.read_text())["backends"] if one["name"] == "backbone")
    most = rule["circuitBreaker"]["rules"][0]["failureCondition"]["count"]
    app_double.react = lambda request: request.send(503, retry_after)
    async with in_process(app_double.url, tmp_path, clock) as caller:
        for _ in range(most):
            await caller.get(TASK)
        assert app_double.calls == most
        app_double.react = lambda request: request.send(200, {}, b"{}")

        clock.now_s += open_s - 1
        refused = await caller.get(TASK)

        assert app_double.calls == most
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        submitted = await caller.post("/api/v1/submit/v1/words", content=b"x")
        assert submitted.status_code == 200, "submits have a breaker of their own"
        clock.now_s += 1
        assert (await caller.get(TASK)).status_code == 200


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_submits_wait_while_the_app_fails(app_double: AppDouble, tmp_path: Path, status: int) -> None:
    app_double.react = lambda request: request.send(status, {})
    async with in_process(app_double.url, tmp_path, Hand()) as caller:
        for _ in range(50):
            await caller.post("/api/v1/submit/v1/words", content=b"x")
        app_double.react = lambda request: request.send(200, {}, b"{}")
        assert (await caller.post("/api/v1/submit/v1/words", content=b"x")).status_code == 503
        assert (await caller.get(TASK)).status_code == 200, "what is there can still be asked for"


async def test_a_browser_may_call_from_the_origins_that_are_named(app_double: AppDouble, tmp_path: Path) -> None:
    asked = {
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "ocp-apim-subscription-key, traceparent",
    }
    async with in_process(app_double.url, tmp_path) as caller:
        preflight = await caller.options(TASK, headers={"Origin": "https://page.example", **asked})
        foreign = await caller.options(TASK, headers={"Origin": "https://evil.example", **asked})
        answer = await caller.get(TASK, headers={"Origin": "https://page.example"})
        refused = await caller.get(TASK, headers={"Origin": "https://evil.example"})

    assert preflight.headers["access-control-allow-origin"] == "https://page.example"
    assert preflight.headers["access-control-allow-methods"] == "GET"
    assert preflight.headers["access-control-max-age"] == "600"
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    for response in (foreign, refused):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.fixture(scope="module")
def issuer() -> Iterator[tuple[str, rsa.RSAPrivateKey]]:
    """An issuer of tokens: the URL of its configuration, and its key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    double = AppDouble()
    public = {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "one", "use": "sig", "alg": "RS256"}
    documents = {
        "/configuration": {"issuer": double.url, "jwks_uri": f"{double.url}/keys"},
        "/keys": {"keys": [public]},
    }
    double.react = lambda request: request.send(200, {}, json.dumps(documents[request.path]).encode())
    yield double.url, key
    double.close()


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({}, 200),
        ({"aud": "another"}, 401),
        ({"iss": "https://another.example"}, 401),
        ({"exp": 1}, 401),
        ({"oid": None}, 403),
        ({"oid": ""}, 403),
        # A header would lose the blanks, and the app would take the owner for another one.
        ({"oid": "ada "}, 403),
        ({"oid": "ada\n"}, 403),
        ({"oid": "ada\r\nX-Gateway-Key: guessed"}, 403),
        ({"oid": "ad\u00e4"}, 403),
        ({"oid": "a" * 124}, 403),
    ],
)
async def test_by_a_token_the_owner_is_whom_it_names(
    app_double: AppDouble,
    tmp_path: Path,
    issuer: tuple[str, rsa.RSAPrivateKey],
    claims: dict[str, Any],
    status: int,
) -> None:
    url, key = issuer
    content = {"iss": url, "aud": "backbone", "exp": int(time.time()) + 3600, "oid": "ada", **claims}
    token = jwt.encode(
        {name: value for name, value in content.items() if value is not None}, key, "RS256", headers={"kid": "one"}
    )
    named = {"openid-configuration-url": f"{url}/configuration", "token-audience": "backbone"}
    async with in_process(app_double.url, tmp_path, owner="jwt", named_values=named) as caller:
        answer = await caller.get(TASK, headers={"Authorization": f"Bearer {token}"})
        assert (await caller.get(TASK)).status_code == 401
        assert (await caller.get(TASK, headers={"Authorization": f"Basic {token}"})).status_code == 401
        assert (await caller.get(TASK, headers={"Authorization": f"Bearer {token[:-8]}"})).status_code == 401

    assert answer.status_code == status
    owners = [app_double.requests.get().headers["X-Task-Owner"] for _ in range(app_double.calls)]
    assert owners == (["user:ada"] if status == 200 else [])


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({"roles": ["Console.Read"]}, ("ada", "read")),
        ({"roles": ["Reader", "console.content"]}, ("ada", "content")),
        ({"roles": ["Console.Read", "Console.Operate", "x"]}, ("ada", "operate")),
        ({}, None),
        ({"roles": []}, None),
        ({"roles": ["operate", "Console.Operate.Not", "xConsole.Operate", "Console.Operate "]}, None),
        ({"roles": ["Console.Operate"], "oid": None}, None),
        ({"roles": ["Console.Operate"], "oid": "ada\r\nX-Gateway-Key: guessed"}, None),
        ({"roles": ["Console.Operate"], "oid": "ad\u00e4"}, None),
    ],
)
async def test_by_a_token_the_operator_is_whom_it_names_with_its_roles(
    app_double: AppDouble,
    tmp_path: Path,
    issuer: tuple[str, rsa.RSAPrivateKey],
    claims: dict[str, Any],
    told: tuple[str, str] | None,
) -> None:
    url, key = issuer
    content = {"iss": url, "aud": "backbone", "exp": int(time.time()) + 3600, "oid": "ada", **claims}
    token = jwt.encode(
        {name: value for name, value in content.items() if value is not None}, key, "RS256", headers={"kid": "one"}
    )
    named = {"openid-configuration-url": f"{url}/configuration", "token-audience": "backbone"}
    own = {"Ocp-Apim-Subscription-Key": OPERATOR_KEY}
    async with in_process(app_double.url, tmp_path, owner="jwt", named_values=named) as operator:
        path = "/operators/api/v1/queues"
        answer = await operator.get(path, headers=own | {"Authorization": f"Bearer {token}"})
        assert (await operator.get(path, headers=own)).status_code == 401
        assert (await operator.get(path, headers=own | {"Authorization": f"Bearer {token[:-8]}"})).status_code == 401

    assert answer.status_code == (403 if told is None else 200)
    heard = [app_double.requests.get().headers for _ in range(app_double.calls)]
    assert [(each["X-Operator"], each["X-Operator-Roles"]) for each in heard] == ([] if told is None else [told])


@pytest.mark.parametrize(
    ("file", "old", "new", "refusal"),
    [
        (
            "policies/fragments/owner-subscription.xml",
            "context.Subscription.Id",
            "context.Subscription.Number",
            r"policies/fragments/owner-subscription\.xml\(\d+,\d+\): error CS1061",
        ),
        (
            "policies/fragments/limits-by-owner.xml",
            '(string)context.Variables["owner"]',
            "context.Subscription.Id.Length",
            r"policies/fragments/limits-by-owner\.xml\(\d+,\d+\): error CS0029",
        ),
        ("policies/callers.xml", "<cors ", "<ip-filter ", r"mismatched tag"),
        ("policies/content.xml", "<base />", "<retry />", r"policies/content\.xml\(\d+\): .* no policy <retry>"),
        ("policies/submit.xml", "backbone-submit", "another", r"policies/submit\.xml\(\d+\): .* no backend another"),
        ("policies/callers.xml", '"owner"', '"nobody"', r"policies/callers\.xml\(\d+\): .* no fragment nobody"),
        ("apis.json", '"cors-origins"', '"origins"', r"not both listed and given: cors-origins, origins"),
    ],
)
def test_the_start_is_refused_by_file_and_line(tmp_path: Path, file: str, old: str, new: str, refusal: str) -> None:
    shutil.copytree(APIS.parent, tmp_path / "apim")
    changed = tmp_path / "apim" / file
    assert old in changed.read_text()
    changed.write_text(changed.read_text().replace(old, new, 1))

    with pytest.raises(GatewayError, match=refusal):
        make_gateway("", tmp_path, apis=tmp_path / "apim" / "apis.json")


@pytest.mark.parametrize("tier", ["v2", "consumption"])
@pytest.mark.parametrize("owner", ["subscription", "jwt"])
def test_every_variant_starts(tmp_path: Path, tier: str, owner: str) -> None:
    make_gateway("", tmp_path, tier=tier, owner=owner)


async def test_an_expression_that_throws_is_503_and_its_text_stays_here(
    app_double: AppDouble, tmp_path: Path
) -> None:
    app_double.react = lambda request: request.send(202, {"Location": "no URL"}, b"{}")
    async with in_process(app_double.url, tmp_path) as caller:
        answer = await caller.post("/api/v1/submit/v1/words", content=b"x")

    assert answer.status_code == 503
    assert "Uri" not in answer.text


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    with stack_behind(tmp_path_factory.mktemp("behind"), redis_server, azurite, backend) as stack:
        yield stack


@pytest.fixture
def gateway(stack: Stack, tmp_path: Path) -> Iterator[GatewayProcess]:
    with gateway_before(stack.url, tmp_path, function_key=stack.key) as process:
        yield process


@pytest.fixture
def gate(gateway: GatewayProcess, stack: Stack) -> Gate:
    return local_gate(gateway, stack.url, stack.key)


def test_with_a_dead_app_the_gateway_answers_503_and_nothing_is_lost(
    stack: Stack, gate: Gate, backend: ScriptedBackend
) -> None:
    waiting = gate.call("SubmitTask", rest=WAITING, content=b"x").json()["TaskId"]
    backend.next_call(WAITING)
    stack.host.kill()

    for operation in ("SubmitTask", "GetTask", "GetTaskResult", "ListTasks", "LegacyStatus"):
        dead = gate.call(
            operation, task=waiting, rest=gate.endpoint, **({"content": b"x"} if "Sub" in operation else {})
        )
        assert dead.status_code == 503
        assert int(dead.headers["retry-after"]) >= 1
        assert dead.json()["status"] == 503

    stack.host.start()
    assert gate.call("GetTask", task=waiting).status_code == 200
    gate.completed()


STEPS = (
    (GATEWAY_KEY, NEW_GATEWAY_KEY, GATEWAY_KEY),
    (GATEWAY_KEY, NEW_GATEWAY_KEY, NEW_GATEWAY_KEY),
    (NEW_GATEWAY_KEY, NEW_GATEWAY_KEY, NEW_GATEWAY_KEY),
    (NEW_GATEWAY_KEY, None, NEW_GATEWAY_KEY),
)
"""The runbook of docs/operations.md: the app's GATEWAY_KEY and GATEWAY_KEY_PREVIOUS, and what the gateway sends."""


def test_a_new_gateway_key_takes_the_place_of_the_old_one(stack: Stack, gateway: GatewayProcess, gate: Gate) -> None:
    task = gate.submit()
    app = stack.host.environment
    believed: tuple[str, str | None] = (GATEWAY_KEY, None)
    sent = GATEWAY_KEY
    try:
        for key, previous, sends in STEPS:
            if (key, previous) != believed:
                _set_keys(stack, key, previous)
            if sends != sent:
                gateway.set_named_value("gateway-key", sends)
                gateway.restart()
            believed, sent = (key, previous), sends
            assert gate.call("GetTask", task=task).status_code == 200

        gateway.set_named_value("gateway-key", GATEWAY_KEY)
        gateway.restart()
        assert gate.call("GetTask", task=task).status_code == 403, "the old key is worth nothing"
    finally:
        if app["GATEWAY_KEY"] != GATEWAY_KEY:
            _set_keys(stack, GATEWAY_KEY, None)


def _set_keys(stack: Stack, key: str, previous: str | None) -> None:
    app = stack.host.environment
    app["GATEWAY_KEY"] = key
    app.pop("GATEWAY_KEY_PREVIOUS", None)
    if previous is not None:
        app["GATEWAY_KEY_PREVIOUS"] = previous
    stack.host.restart()


def test_a_large_result_streams(app_double: AppDouble, tmp_path: Path) -> None:
    """The app sends the second half only once the caller has the first one."""
    half, has_arrived = b"x" * (8 * 1024 * 1024), threading.Event()

    def react(request: Any) -> None:
        request.send(200, {"Content-Length": str(2 * len(half))})
        request.wfile.write(half)
        assert has_arrived.wait(PATIENCE_S)
        request.wfile.write(half)

    app_double.react = react
    with (
        gateway_before(app_double.url, tmp_path, function_key="function") as process,
        httpx.stream(
            "GET",
            f"{process.url}{TASK}/result",
            headers={"Ocp-Apim-Subscription-Key": KEY},
            timeout=PATIENCE_S,
        ) as response,
    ):
        size_bytes = 0
        for piece in response.iter_raw():
            size_bytes += len(piece)
            if size_bytes >= len(half):
                has_arrived.set()

    assert size_bytes == 2 * len(half)


def test_a_large_body_streams(app_double: AppDouble, tmp_path: Path) -> None:
    body = b"x" * (20 * 1024 * 1024)
    with gateway_before(app_double.url, tmp_path, function_key="function") as process:
        httpx.post(
            f"{process.url}/api/v1/submit/v1/words",
            content=body,
            headers={"Ocp-Apim-Subscription-Key": KEY},
            timeout=PATIENCE_S,
        )

    got = app_double.requests.get(timeout=PATIENCE_S)
    assert got.headers.get_all("Content-Length") == [str(len(body))]
    assert got.headers["Transfer-Encoding"] is None
    assert got.body == body


def test_an_answer_that_breaks_off_does_not_look_whole(app_double: AppDouble, tmp_path: Path) -> None:
    def react(request: Any) -> None:
        request.send(200, {"Content-Length": "1000"}, b"x")
        request.close_connection = True

    app_double.react = react
    with (
        gateway_before(app_double.url, tmp_path, function_key="function") as process,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        httpx.get(f"{process.url}{TASK}/result", headers={"Ocp-Apim-Subscription-Key": KEY}, timeout=PATIENCE_S)


def test_a_caller_that_leaves_takes_its_request_to_the_app_with_it(app_double: AppDouble, tmp_path: Path) -> None:
    has_gone = threading.Event()

    def react(request: Any) -> None:
        if not request.connection.recv(1):
            has_gone.set()

    app_double.react = react
    with gateway_before(app_double.url, tmp_path, function_key="function") as process:
        target = process.url.removeprefix("http://")
        caller = http.client.HTTPConnection(target)
        caller.request("GET", f"{TASK}?wait=60", headers={"Ocp-Apim-Subscription-Key": KEY})
        app_double.requests.get(timeout=PATIENCE_S)
        caller.close()

        assert has_gone.wait(PATIENCE_S)


def test_without_the_process_of_its_expressions_the_gateway_ends(app_double: AppDouble, tmp_path: Path) -> None:
    with gateway_before(app_double.url, tmp_path, function_key="function") as process:
        (mono,) = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdecimal() and _parent_and_name(entry) == (process.pid, "mono")
        ]
        os.kill(mono, signal.SIGKILL)

        eventually(lambda: not process.is_running)
        with pytest.raises(LocalStackError, match="The mono process that runs the expressions has ended"):
            process.check()


def _parent_and_name(process: Path) -> tuple[int, str]:
    try:
        before, _, after = (process / "stat").read_text().rpartition(")")
    except OSError:  # it has ended
        return 0, ""
    return int(after.split()[1]), before.partition("(")[2]
