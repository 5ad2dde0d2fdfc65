"""Operators over HTTP (contract B20): what each role may do, by a key, or by the gateway's or the platform's word."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import NO_TLS, ROOT, Stack
from shared.settings import Settings
from tests.contract.test_owners_by_route import ROUTES
from tests.contract.v1_support import ISO_TIME, assert_problem, keep, new_path, report, submit, task_of
from tests.in_process import InProcessApp
from tests.operator_console.test_mounts import roles_of_the_page
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S

GATEWAY_KEY = "the-key-of-the-gateway-0123456789"
ROLES = {"read": ["read"], "content": ["read", "content"], "operate": ["read", "content", "operate"]}
NEEDED = roles_of_the_page()
UNKNOWN = "00000000-0000-4000-8000-000000000000"
LEGACY = ("CacheConnectorUpsert", "CacheConnectorGet", "CurrentProcessingUpsert", "CurrentProcessingGet")


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """A stack that knows the key of a gateway, and whose platform signs people in."""
    with Stack(
        tmp_path_factory.mktemp("operators"),
        redis=redis_server,
        azurite=azurite,
        backends={"/v1/test": backend.url},
        with_model=False,
        settings={"GATEWAY_KEY": GATEWAY_KEY, "WEBSITE_AUTH_ENABLED": "True"},
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def app(stack: Stack) -> Iterator[httpx.Client]:
    """Who has a key of the v1 API, and is no operator."""
    with stack.client() as client:
        yield client


@pytest.fixture(scope="module")
def anybody(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=PATIENCE_S, verify=NO_TLS) as client:
        yield client


class Holder:
    """Who has the key of one function of the console."""

    def __init__(self, stack: Stack, client: httpx.Client, role: str) -> None:
        self.role, self._client = role, client
        self.key = {"x-functions-key": stack.console_keys[role]}

    def call(self, method: str, path: str, mount: str = "", **more: Any) -> httpx.Response:
        headers = self.key | more.pop("headers", {})
        url = f"/api/console/{mount or self.role}/{path}"
        return self._client.request(method, url, headers=headers, **more)


@pytest.fixture(params=ROLES)
def holder(request: pytest.FixtureRequest, stack: Stack, anybody: httpx.Client) -> Holder:
    return Holder(stack, anybody, request.param)


@pytest.fixture
def operating(stack: Stack, anybody: httpx.Client) -> Holder:
    return Holder(stack, anybody, "operate")


def of_gateway(roles: str | None, name: str = "ada", **headers: str) -> dict[str, str]:
    return {
        "X-Gateway-Key": GATEWAY_KEY,
        "X-Operator": name,
        **({} if roles is None else {"X-Operator-Roles": roles}),
        **headers,
    }


def signed_in(*roles: str, **headers: str) -> dict[str, str]:
    claims = [{"typ": "roles", "val": role} for role in roles]
    principal = base64.b64encode(json.dumps({"auth_typ": "aad", "claims": claims}).encode()).decode()
    return {
        "X-MS-CLIENT-PRINCIPAL": principal,
        "X-MS-CLIENT-PRINCIPAL-NAME": "ada@example.org",
        "X-Console": "1",
        "Sec-Fetch-Site": "same-origin",
        **headers,
    }


def path_of(name: str, task_id: str = UNKNOWN) -> tuple[str, str]:
    method, path = ROUTES[name]
    return method, path.removeprefix("/v1/").replace("{id}", task_id).replace("{name}", "nightly").replace(
        "{path}", "v1/test/operators"
    )


def body_of(name: str, method: str) -> dict[str, Any]:
    if method in ("GET", "HEAD", "DELETE"):
        return {}
    return {"json": {"Size": 1, "ContentType": "text/plain"} if name == "CreateUpload" else {}}


def kind(response: httpx.Response) -> str:
    return response.json()["type"].rpartition(":")[2]


@pytest.mark.contract("B20.1", "B20.2", "B20.3")
@pytest.mark.parametrize("name", NEEDED)
def test_a_key_opens_what_its_role_may_do_and_nothing_else(holder: Holder, name: str) -> None:
    method, path = path_of(name)
    response = holder.call(method, path, **body_of(name, method))
    if method not in ("GET", "HEAD") and holder.role != "operate":
        assert (response.status_code, response.content) == (404, b"")
    elif NEEDED[name] in ROLES[holder.role]:
        assert response.status_code not in (401, 403, 405, 500)
        assert response.status_code != 404 or method == "HEAD" or kind(response) != "no-such-operation"
    elif method == "HEAD":
        assert response.status_code == 403
    else:
        assert_problem(response, 403, "role-missing")


@pytest.mark.contract("B20.1")
@pytest.mark.parametrize("name", [name for name in NEEDED if NEEDED[name] and name not in ("CreateUpload", "GetMe")])
def test_a_mount_answers_as_v1_does(app: httpx.Client, operating: Holder, name: str) -> None:
    method, path = path_of(name)
    submits = {"SubmitTask": "submit", "SubmitMany": "submit-many"}
    differing = (
        "CreateBatch",
        "ListTasks",
        "ListBatches",
        "AllQueueDepths",
        "QueueDepths",
        "GetSeries",
        "GetMetrics",
    )
    if name in (*submits, *differing):
        # What they answer else changes with each call, or an operator sees more of it.
        path = f"{submits[name]}/no/such/endpoint" if name in submits else f"{path}?unknown=1"
    mounted = operating.call(method, path, **body_of(name, method))
    direct = app.request(method, f"/api/v1/{path}", **body_of(name, method))
    assert (mounted.status_code, mounted.content) == (direct.status_code, direct.content)
    names = ("content-type", "content-length", "cache-control", "retry-after")
    assert [mounted.headers.get(each) for each in names] == [direct.headers.get(each) for each in names]


@pytest.mark.contract("B20.1")
def test_the_life_of_a_task_by_one_key(
    app: httpx.Client, operating: Holder, backend: ScriptedBackend, stack: Stack
) -> None:
    path = new_path()
    paused = operating.call("PATCH", f"queues{path}", json={"Paused": True})
    assert (paused.status_code, paused.json()["Paused"]) == (200, True)
    submitted = operating.call("POST", f"submit{path}?x=1", content=b"work", headers={"Content-Type": "text/plain"})
    assert submitted.status_code == 202
    task_id = submitted.json()["TaskId"]
    assert submitted.headers["Location"] == f"{stack.url}/api/console/operate/tasks/{task_id}"
    followed = httpx.get(submitted.headers["Location"], headers=operating.key, timeout=PATIENCE_S, verify=NO_TLS)
    assert followed.json()["TaskId"] == task_id
    assert operating.call("GET", f"tasks/{task_id}/body").content == b"work"
    assert operating.call("HEAD", f"tasks/{task_id}/body").headers["content-length"] == "4"
    assert operating.call("GET", f"tasks/{task_id}", headers={"If-None-Match": "*"}).status_code in (200, 304)
    listed = operating.call("GET", "tasks", params={"path": path}).json()["Tasks"]
    assert [task["TaskId"] for task in listed] == [task_id]
    cancelled = operating.call("DELETE", f"tasks/{task_id}")
    assert cancelled.json()["BackendStatus"] == "cancelled"
    replayed = operating.call("POST", f"tasks/{task_id}/replay")
    assert replayed.status_code in (202, 409)
    assert task_of(app, task_id)["EndpointPath"] == path


@pytest.mark.contract("B20.2")
def test_a_key_for_reading_shows_no_content(
    app: httpx.Client, stack: Stack, anybody: httpx.Client, backend: ScriptedBackend
) -> None:
    task_id = keep(app, backend, Body='"the secret of a caller"')
    app.put(f"/api/v1/tasks/{task_id}/result", content=b"the secret of a model").raise_for_status()
    reading, seeing = Holder(stack, anybody, "read"), Holder(stack, anybody, "content")
    for part in ("body", "result", "checkpoint", "result?link=1"):
        assert_problem(reading.call("GET", f"tasks/{task_id}/{part}"), 403, "role-missing")
        assert reading.call("HEAD", f"tasks/{task_id}/{part}").status_code == 403
    for path in (f"tasks/{task_id}", f"tasks/{task_id}/history", "tasks?limit=200", "queues"):
        answer = reading.call("GET", path)
        assert answer.status_code == 200
        assert "secret of a" not in answer.text
    assert seeing.call("GET", f"tasks/{task_id}/body").content == b'"the secret of a caller"'
    assert seeing.call("GET", f"tasks/{task_id}/result").content == b"the secret of a model"


@pytest.mark.contract("B20.3")
@pytest.mark.parametrize("role", ["read", "content"])
def test_a_key_for_looking_changes_nothing(
    app: httpx.Client, stack: Stack, anybody: httpx.Client, backend: ScriptedBackend, role: str
) -> None:
    looking, path = Holder(stack, anybody, role), new_path()
    task_id = keep(app, backend, path)
    before = task_of(app, task_id)
    for mount in (role, "operate"):
        for method, rest in (
            ("DELETE", f"tasks/{task_id}"),
            ("POST", f"tasks/{task_id}/replay"),
            ("PATCH", f"queues{path}"),
            ("POST", f"submit{path}"),
            ("POST", "batches"),
        ):
            refused = looking.call(method, rest, mount, json={"Paused": True})
            assert refused.status_code == (404 if mount == role else 401)
    # Nor does a word for another method.
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert looking.call("GET", f"tasks/{task_id}", headers={name: "DELETE"}).status_code == 200
    assert task_of(app, task_id) == before
    assert app.get(f"/api/v1/queues{path}").json()["Paused"] is False
    assert app.get("/api/v1/tasks", params={"path": path}).json()["Tasks"] == [before]


@pytest.mark.contract("B20.4")
def test_a_key_opens_its_own_mount_alone(holder: Holder, anybody: httpx.Client) -> None:
    for role in ROLES:
        expected = 200 if role == holder.role else 401
        assert holder.call("GET", "me", role).status_code == expected
        assert holder.call("GET", f"me?code={holder.key['x-functions-key']}", role).status_code == expected
    for path in ("v1/tasks", "v1/queues", "v1/me", *LEGACY[1::2]):
        assert anybody.get(f"/api/{path}", headers=holder.key).status_code == 401
    for path in (*LEGACY[::2], "BackendWebhook", f"v1/tasks/{UNKNOWN}/replay"):
        assert anybody.post(f"/api/{path}", headers=holder.key, json={}).status_code == 401
    assert anybody.post("/admin/functions/Reconciler", headers=holder.key, json={}).status_code == 403


@pytest.mark.contract("B20.4")
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_without_a_key_a_mount_is_shut(anybody: httpx.Client, role: str, key: str | None) -> None:
    for path in ("me", "tasks", "", "index.html", "../index.html"):
        headers = {} if key is None else {"x-functions-key": key}
        url = f"/api/console/{role}/{path}" + ("" if key is None else f"?code={key}")
        if path.startswith(".."):
            continue
        answer = anybody.get(url, headers=headers)
        assert (answer.status_code, answer.content) == (401, b"")


def raw(stack: Stack, target: str, key: str, method: str = "GET") -> tuple[int, bytes]:
    """What is answered to a target as it stands: clients write dots in another way before they send them."""
    place = urlsplit(stack.url)
    with socket.create_connection((place.hostname, place.port), timeout=PATIENCE_S) as connection:
        head = f"{method} {target} HTTP/1.1\r\nHost: app\r\nx-functions-key: {key}\r\nContent-Length: 2\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n{{}}".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    return int(answer[9:12]), answer


@pytest.mark.contract("B20.5")
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "target",
    [
        *(f"/api/console/operate/{name}" for name in (*LEGACY, "BackendWebhook", "index.html", "")),
        "/api/console/operate",
        "/api/console/operate/console/read/me",
        "/api/console/operate/v1/me",
        "/api/console/operate/%2e%2e/v1/me",
        "/api/console/operate/..%2fv1%2fme",
        "/api/console/operate/..%2f..%2fCacheConnectorGet",
        "/api/console/operate/tasks/..%2f..%2fCacheConnectorGet",
        "/api/console/operate//me",
        "/api/console/operate/me%00",
        "/api/console/operate/me%0a",
        "/api/console/operate/me//",
        "/api/console/operate/%6de/x",
        "/api/console//operate/me",
        "/api/console/operate%2fme",
        "/api/console/read/../../CacheConnectorGet?taskId=x",
        "/api/console/operate/../read/me",
        "/api/console/operate/../content/me",
        "/api/console/operate/./../../v1/me",
        "/api/console/operate/%2e%2e/read/me",
        "/api/console/operate/../../v1/tasks",
        "/api/console/operate/../../../admin/host/status",
        "/api/console/operate/../../../runtime/webhooks/eventgrid",
        "/api/console/operate/..;/..;/v1/tasks",
        "/api/console/operate/\\..\\..\\v1\\tasks",
    ],
)
def test_no_path_leads_out_of_a_mount(stack: Stack, target: str, method: str) -> None:
    status, answer = raw(stack, target, stack.console_keys["operate"], method)
    assert status in (400, 401, 403, 404), answer
    assert b'"Roles"' not in answer
    assert b'"Tasks"' not in answer
    if status == 404 and b"problem+json" in answer and b"no-such-page" not in answer:
        assert b"no-such-operation" in answer or b"no-such-task" in answer


@pytest.mark.contract("B20.5")
@pytest.mark.parametrize("path", ["ME", "me/", "Me?code=x", "%6De"])
def test_a_path_is_written_as_the_host_takes_it(operating: Holder, path: str) -> None:
    answer = operating.call("GET", path)
    assert answer.json()["Roles"] == ROLES["operate"]


@pytest.mark.contract("B20.6")
@pytest.mark.parametrize("key", [None, "wrong"])
@pytest.mark.parametrize("name", ROUTES)
def test_nobody_but_the_gateway_names_an_operator(app: httpx.Client, name: str, key: str | None) -> None:
    method, path = ROUTES[name]
    url = "/api" + path.replace("{id}", UNKNOWN).replace("/{path}", "/v1/test/a")
    for said in ({"X-Operator": "ada", "X-Operator-Roles": "operate"}, {"X-Operator-Roles": "operate"}):
        headers = said | ({"X-Gateway-Key": key} if key else {})
        response = app.request(method, url, headers=headers, **body_of(name, method))
        assert response.status_code == 403
        if method != "HEAD":
            assert kind(response) == "not-the-gateway"


@pytest.mark.contract("B20.6")
def test_nobody_names_itself_in_a_mount(holder: Holder) -> None:
    for said in ({"X-Operator": "ada"}, {"X-Operator-Roles": "operate"}):
        assert_problem(holder.call("GET", "me", headers=said), 403, "not-the-gateway")
        assert_problem(holder.call("GET", "me", headers={**said, "X-Gateway-Key": "x"}), 403, "not-the-gateway")


@pytest.mark.contract("B20.7")
@pytest.mark.parametrize("roles", ["read", "content", "operate", "", None])
@pytest.mark.parametrize("name", ROUTES)
def test_the_gateway_s_operator_does_what_its_roles_may(app: httpx.Client, name: str, roles: str | None) -> None:
    method, path = ROUTES[name]
    url = "/api" + path.replace("{id}", UNKNOWN).replace("/{path}", "/v1/test/a")
    response = app.request(method, url, headers=of_gateway(roles), **body_of(name, method))
    may = NEEDED.get(name) in ROLES.get(roles or "", [])
    assert (response.status_code != 403) == may
    if not may and method != "HEAD":
        assert_problem(response, 403, "role-missing")


@pytest.mark.contract("B20.7")
def test_the_gateway_of_this_repository_has_every_operation_that_has_a_role() -> None:
    apis = json.loads((ROOT / "infra" / "apim" / "apis.json").read_text())["apis"]
    [offered] = [api["operations"] for api in apis if api["name"] == "operators"]
    assert {operation["name"] for operation in offered} == {name for name, role in NEEDED.items() if role}
    for operation in offered:
        method, path = ROUTES[operation["name"]]
        assert (operation["method"], operation["urlTemplate"].replace("/*", "/{path}")) == (method, path)


@pytest.mark.contract("B20.8")
@pytest.mark.parametrize(
    ("headers", "field"),
    [
        (of_gateway("read", ""), "X-Operator"),
        (of_gateway("read", "a" * 129), "X-Operator"),
        ({"X-Gateway-Key": GATEWAY_KEY, "X-Operator-Roles": "read"}, "X-Operator"),
        (of_gateway("admin"), "X-Operator-Roles"),
        (of_gateway("read;operate"), "X-Operator-Roles"),
    ],
)
def test_what_cannot_be_an_operator_is_refused(app: httpx.Client, headers: dict[str, str], field: str) -> None:
    assert_problem(app.get("/api/v1/tasks", headers=headers), 400, "invalid-request", field=field)


@pytest.mark.contract("B20.9")
def test_an_operator_in_the_name_of_an_owner_meets_that_owner_s_tasks(app: httpx.Client) -> None:
    path = new_path()
    tasks = {
        owner: submit(app, path, X_Task_Owner=owner, X_Gateway_Key=GATEWAY_KEY).json()["TaskId"]
        for owner in ("alice", "bob")
    }
    headers = of_gateway("operate", **{"X-Task-Owner": "alice"})
    assert app.get(f"/api/v1/tasks/{tasks['alice']}", headers=headers).status_code == 200
    assert_problem(app.get(f"/api/v1/tasks/{tasks['bob']}", headers=headers), 404, "no-such-task")
    listed = app.get("/api/v1/tasks", params={"path": path}, headers=headers).json()["Tasks"]
    assert [task["TaskId"] for task in listed] == [tasks["alice"]]
    assert_problem(app.get("/api/v1/queues", headers=headers), 403, "not-for-owners")
    reading = of_gateway("read", **{"X-Task-Owner": "alice"})
    assert_problem(app.delete(f"/api/v1/tasks/{tasks['alice']}", headers=reading), 403, "role-missing")
    everybody = app.get("/api/v1/tasks", params={"path": path}, headers=of_gateway("read")).json()["Tasks"]
    assert {task["TaskId"] for task in everybody} == set(tasks.values())


@pytest.mark.contract("B20.9")
def test_a_mount_keeps_owners_apart_too(operating: Holder, app: httpx.Client) -> None:
    mine = submit(app, new_path(), X_Task_Owner="alice", X_Gateway_Key=GATEWAY_KEY).json()["TaskId"]
    assert operating.call("GET", f"tasks/{mine}").status_code == 200
    as_bob = {"X-Task-Owner": "bob", "X-Gateway-Key": GATEWAY_KEY}
    assert_problem(operating.call("GET", f"tasks/{mine}", headers=as_bob), 404, "no-such-task")
    forged = {"X-Task-Owner": "alice"}
    assert_problem(operating.call("GET", f"tasks/{mine}", headers=forged), 403, "not-the-gateway")


@pytest.mark.contract("B20.10")
def test_the_gateway_gives_no_role_beyond_the_mount_s(stack: Stack, anybody: httpx.Client) -> None:
    reading = Holder(stack, anybody, "read")
    me = reading.call("GET", "me", headers=of_gateway("operate")).json()
    assert (me["Name"], me["Roles"], me["By"]) == ("ada", ["read"], "gateway")
    refused = reading.call("GET", f"tasks/{UNKNOWN}/body", headers=of_gateway("operate"))
    assert_problem(refused, 403, "role-missing")
    less = Holder(stack, anybody, "operate").call("POST", f"tasks/{UNKNOWN}/replay", headers=of_gateway("read"))
    assert_problem(less, 403, "role-missing")


@pytest.mark.contract("B20.11")
def test_me_is_who_asks(stack: Stack, app: httpx.Client, holder: Holder) -> None:
    me = holder.call("GET", "me").json()
    assert (me["Name"], me["Roles"], me["By"]) == (None, ROLES[holder.role], "key")
    assert me.keys() == {"Name", "Roles", "By", "Version", "Environment", "Now", "RetentionSeconds", "TraceUrl"}
    assert ISO_TIME.fullmatch(me["Now"])
    assert me["RetentionSeconds"] == 604_800
    assert me["TraceUrl"] is None
    told = app.get("/api/v1/me", headers=of_gateway("content", "Ada L.")).json()
    assert (told["Name"], told["Roles"], told["By"]) == ("Ada L.", ROLES["content"], "gateway")
    nobody = app.get("/api/v1/me").json()
    assert (nobody["Name"], nobody["Roles"], nobody["By"]) == (None, [], "key")
    assert_problem(
        app.get("/api/v1/me", headers={"X-Task-Owner": "alice", "X-Gateway-Key": GATEWAY_KEY}), 403, "not-for-owners"
    )
    assert_problem(app.get("/api/v1/me?who=ada"), 400, "invalid-request", field="who")


@pytest.mark.contract("B20.12")
def test_who_has_a_key_of_v1_does_what_it_did(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = new_path()
    task_id = submit(app, path).json()["TaskId"]
    assert app.post(f"/api/v1/tasks/{task_id}/heartbeat").status_code in (200, 409)
    assert app.get(f"/api/v1/tasks/{task_id}/body").status_code == 200
    assert report(app, TaskId=task_id, BackendStatus="completed")["BackendStatus"] == "completed"
    assert app.patch(f"/api/v1/queues{path}", json={"Limit": 3}).json()["Limit"] == 3


@pytest.mark.contract("B20.13")
@pytest.mark.parametrize("said", ["", "False", "0", "what?"])
async def test_where_the_platform_signs_nobody_in_its_word_is_anybody_s(said: str) -> None:
    settings = {
        "REDIS_CONNECTION_STRING": "redis://127.0.0.1:1",
        "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
        "BACKENDS": '{"/v1": "https://models.example.org"}',
        "WEBSITE_AUTH_ENABLED": said,
    }
    app = InProcessApp(Settings.from_env(settings))
    for method, path in (("GET", "me"), ("PATCH", "queues/v1/a"), ("GET", "unknown")):
        for headers in ({}, signed_in("Console.Operate")):
            answer = await app.call("ConsoleSession", method, headers=headers, route_params={"path": path})
            assert answer.status_code == 404
            assert json.loads(answer.get_body())["type"] == "urn:task-backbone:problem:no-sign-in"


@pytest.mark.contract("B20.14")
def test_who_is_signed_in_does_what_the_role_may(app: httpx.Client, anybody: httpx.Client) -> None:
    session, path = "/api/console/session", new_path()
    me = anybody.get(f"{session}/me", headers=signed_in("Console.Content")).json()
    assert (me["Name"], me["Roles"], me["By"]) == ("ada@example.org", ROLES["content"], "easyauth")
    assert anybody.get(f"{session}/tasks", headers=signed_in("Console.Read")).status_code == 200
    refused = anybody.get(f"{session}/tasks/{UNKNOWN}/body", headers=signed_in("Console.Read"))
    assert_problem(refused, 403, "role-missing")
    settings = {"Paused": True}
    refused = anybody.patch(f"{session}/queues{path}", json=settings, headers=signed_in("Console.Content"))
    assert_problem(refused, 403, "role-missing")
    assert app.get(f"/api/v1/queues{path}").json()["Paused"] is False
    done = anybody.patch(f"{session}/queues{path}", json=settings, headers=signed_in("Console.Operate"))
    assert (done.status_code, done.json()["Paused"]) == (200, True)
    assert_problem(anybody.get(f"{session}/tasks", headers=signed_in("Reader")), 403, "role-missing")
    for name in ("CacheConnectorGet", "console/operate/me", "v1/me"):
        outside = anybody.get(f"{session}/{name}", headers=signed_in("Console.Operate"))
        assert_problem(outside, 404, "no-such-operation")


@pytest.mark.contract("B20.15")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Console": "1", "Sec-Fetch-Site": "same-origin"},
        signed_in("Console.Operate") | {"X-MS-CLIENT-PRINCIPAL": "garbage"},
        signed_in("Console.Operate") | {"X-MS-CLIENT-PRINCIPAL": base64.b64encode(b"[" * 9_000).decode()},
        signed_in("Console.Operate") | {"X-MS-CLIENT-PRINCIPAL-NAME": ""},
        {key: value for key, value in signed_in("Console.Operate").items() if "NAME" not in key},
    ],
)
def test_who_cannot_be_read_is_not_signed_in(anybody: httpx.Client, headers: dict[str, str]) -> None:
    for path in ("me", "unknown"):
        assert_problem(anybody.get(f"/api/console/session/{path}", headers=headers), 401, "not-signed-in")


@pytest.mark.contract("B20.16")
@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", None])
@pytest.mark.parametrize("console", ["1", None])
def test_another_site_does_nothing_by_a_signed_in_browser(
    app: httpx.Client, anybody: httpx.Client, site: str | None, console: str | None
) -> None:
    path = new_path()
    headers = signed_in("Console.Operate")
    for name, value in (("Sec-Fetch-Site", site), ("X-Console", console)):
        del headers[name]
        if value is not None:
            headers[name] = value
    form = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": "AppServiceAuthSession=x"}
    url = f"/api/console/session/submit{path}"
    refused = anybody.post(url, content=b"a=b", headers=headers | form)
    assert_problem(refused, 403, "another-site")
    assert app.get("/api/v1/tasks", params={"path": path}).json()["Tasks"] == []
    if site is not None:
        without = anybody.post(url, content=b"", headers=headers | {"Sec-Fetch-Site": "same-origin"})
        assert without.status_code == (202 if console else 403)


@pytest.mark.contract("B20.17")
def test_the_platform_s_word_counts_nowhere_else(app: httpx.Client, anybody: httpx.Client, holder: Holder) -> None:
    said = signed_in("Console.Operate")
    assert anybody.get("/api/v1/tasks", headers=said).status_code == 401
    assert app.get("/api/v1/me", headers=said).json()["Name"] is None
    me = holder.call("GET", "me", headers=said).json()
    assert (me["Name"], me["Roles"]) == (None, ROLES[holder.role])
