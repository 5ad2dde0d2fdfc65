"""The mounts of the v1 API below the console: which operation a path leads to, and which none does."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from types import SimpleNamespace
from typing import Any, cast

import azure.functions as func
import pytest

from cache_manager.request_parsing import location
from local.stack import CONSOLE, ROOT
from operator_console import mounts
from shared.http.functions import HttpFunctions, Operation, json_response
from shared.http.operators import ROLES_OF, Role, operator_now
from shared.services import Services, ServicesByLoop
from shared.settings import Settings
from shared.version import VERSION
from tests.in_process import InProcessApp

GATEWAY_KEY = "the-key-of-the-gateway-0123456789"
SETTINGS = {
    "REDIS_CONNECTION_STRING": "redis://127.0.0.1:1",
    "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
    "BACKENDS": '{"/v1": "https://models.example.org"}',
    "GATEWAY_KEY": GATEWAY_KEY,
}
"""Nobody answers at these: what asks Redis is 503, and so is seen to have been reached."""
ID = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
HOST = "https://app.example.org/api"


@pytest.fixture(scope="module")
def app() -> InProcessApp:
    return InProcessApp(Settings.from_env(SETTINGS))


@pytest.fixture(scope="module")
def signing_in() -> InProcessApp:
    """The app where the platform signs people in."""
    return InProcessApp(Settings.from_env(SETTINGS | {"WEBSITE_AUTH_ENABLED": "True"}))


async def ask(app: InProcessApp, path: str, role: str = "operate", method: str = "GET", **more: Any) -> Any:
    """What a mount answers to what the host gives it as the path below it."""
    name = CONSOLE.get(role, "ConsoleSession")
    url = more.pop("url", f"{HOST}/console/{role}/{path}")
    return await app.call(name, method, url=url, route_params={"path": path} if path else {}, **more)


def kind(answer: func.HttpResponse) -> str:
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = json.loads(answer.get_body())
    assert {"type", "title", "status", "detail"} <= document.keys()
    assert document["status"] == answer.status_code
    return document["type"].rpartition(":")[2]


def roles_of_the_page() -> dict[str, str]:
    """The table of docs/security.md: the role that each operation takes; empty: it is nothing that operators do."""
    page = (ROOT / "docs" / "security.md").read_text()
    section = page.partition("### Operators\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+`) \| (?:`(\w+)`|none: .+) \|$", section, re.MULTILINE)
    named = [(name, role) for names, role in rows for name in re.findall(r"`(\w+)`", names)]
    assert len(named) == len(dict(named))
    return dict(named)


def operations_of_v1(app: InProcessApp) -> dict[str, tuple[Operation, str]]:
    """Each operation of docs/openapi.json below /v1, with its method."""
    paths: dict[str, dict[str, Any]] = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    served = {
        (method.lower(), path): operation
        for operation in app.operations
        for method in operation.methods
        for path in {"/" + operation.route.replace("{*", "{"), "/" + operation.route.partition("/{*")[0]}
    }
    return {
        described["operationId"]: (served[verb, path], verb.upper())
        for path, described_by_verb in paths.items()
        for verb, described in described_by_verb.items()
        if path.startswith("/v1/")
    }


def test_every_operation_of_v1_has_the_role_that_the_page_says(app: InProcessApp) -> None:
    roles = {name: operation.role or "" for name, (operation, _) in operations_of_v1(app).items()}
    assert roles == roles_of_the_page()


def test_what_is_no_operation_of_v1_has_no_role(app: InProcessApp) -> None:
    others = [operation for operation in app.operations if not operation.route.startswith("v1/")]
    assert {operation.name for operation in others} >= {"CacheConnectorUpsert", "BackendWebhook"}
    assert [operation.name for operation in others if operation.role] == []


@pytest.mark.parametrize("role", Role)
async def test_a_mount_does_what_its_role_may_and_nothing_else(app: InProcessApp, role: Role) -> None:
    for name, (operation, method) in operations_of_v1(app).items():
        path = operation.route.removeprefix("v1/").replace("{id}", ID).replace("{*path}", "v1/a")
        answer = await ask(app, path, role, method, body=b"{}")
        if operation.role in ROLES_OF[role]:
            assert answer.status_code not in (401, 403), name
            assert answer.status_code != 404 or kind(answer) != "no-such-operation", name
        else:
            assert (answer.status_code, kind(answer)) == (403, "role-missing"), name


@pytest.mark.parametrize(
    "path",
    [
        "",
        "CacheConnectorUpsert",
        "CacheConnectorGet",
        "../CacheConnectorUpsert",
        "../v1/tasks",
        "tasks/../../CacheConnectorGet",
        "../../admin/functions/Reconciler",
        "admin/functions/Reconciler",
        "runtime/webhooks/eventgrid",
        "BackendWebhook",
        "CurrentProcessingGet",
        "console/read/tasks",
        "console/operate/tasks",
        "read/tasks",
        "index.html",
        "{*file}",
        "v1/tasks",
        "/tasks",
        "tasks//",
        "tasks//history",
        f"tasks/{ID}/history/more",
        f"tasks/{ID}/unknown",
        "tasks%2F",
        "tasks\0",
        "tasks\n",
        "tasks?",
        "t" * 10_000,
        "/".join(["x"] * 5_000),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_v1_does_not_have_is_not_there(app: InProcessApp, path: str, method: str) -> None:
    answer = await ask(app, path, method=method, url=f"{HOST}/console/operate/x", body=b"{}")
    assert (answer.status_code, kind(answer)) == (404, "no-such-operation")


@pytest.mark.parametrize(("method", "path"), [("DELETE", "tasks"), ("PUT", f"tasks/{ID}"), ("HEAD", "queues")])
async def test_a_method_that_v1_does_not_have_is_not_there(app: InProcessApp, method: str, path: str) -> None:
    answer = await ask(app, path, method=method, body=b"")
    assert (answer.status_code, kind(answer)) == (404, "no-such-operation")


@pytest.mark.parametrize(
    ("function", "path", "route_params", "query"),
    [
        ("ListTasks", "tasks", {}, {}),
        ("ListTasks", "Tasks/", {}, {}),
        ("ListTasks", "tasks", {}, {"limit": "0"}),
        ("ListTasks", "tasks", {}, {"code": "a-key", "CLIENTID": "x"}),
        ("ListTasks", "tasks", {}, {"lmit": "1"}),
        ("GetTask", f"tasks/{ID}", {"id": ID}, {"wait": "soon"}),
        ("GetTask", "tasks/%2e%2e", {"id": "%2e%2e"}, {}),
        ("GetTask", "tasks/a\nb", {"id": "a\nb"}, {}),
        ("GetTaskResult", f"tasks/{ID}/result", {"id": ID}, {"link": "2"}),
        ("QueueDepths", "queues", {}, {}),
        ("QueueDepths", "queues/", {}, {}),
        ("QueueDepths", "QUEUES/v1/a/", {"path": "v1/a/"}, {}),
        ("QueueDepths", "queues/v1%2Fa", {"path": "v1%2Fa"}, {}),
        ("QueueDepths", "queues/elsewhere", {"path": "elsewhere"}, {}),
        ("QueueDepths", "queues//", {"path": "/"}, {}),
    ],
)
async def test_a_mount_answers_as_v1_does(
    app: InProcessApp, function: str, path: str, route_params: dict[str, str], query: dict[str, str]
) -> None:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    url = f"{HOST}/{{}}{path}?{asked}"
    mounted = await ask(app, path, url=url.format("console/operate/"), params=query)
    direct = await app.call(function, "GET", url=url.format("v1/"), route_params=route_params, params=query)
    assert (mounted.status_code, mounted.get_body()) == (direct.status_code, direct.get_body())
    assert dict(mounted.headers) == dict(direct.headers)


async def test_a_mount_is_none_of_v1_for_an_owner_that_the_gateway_does_not_name(app: InProcessApp) -> None:
    answer = await ask(app, "tasks", headers={"X-Task-Owner": "alice"})
    assert (answer.status_code, kind(answer)) == (403, "not-the-gateway")


OF_PAGE = {"X-Console": "1", "Sec-Fetch-Site": "same-origin"}


def principal(*roles: str) -> dict[str, str]:
    said = {"claims": [{"typ": "roles", "val": role} for role in roles]}
    packed = base64.b64encode(json.dumps(said).encode()).decode()
    return {"X-MS-CLIENT-PRINCIPAL": packed, "X-MS-CLIENT-PRINCIPAL-NAME": "ada@example.org"}


@pytest.mark.parametrize("headers", [{}, principal("Console.Operate"), principal("Console.Operate") | OF_PAGE])
@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_without_the_platform_s_sign_in_its_word_is_anybody_s(
    app: InProcessApp, headers: dict[str, str], method: str
) -> None:
    for path in ("me", "tasks", "queues/v1/a", "unknown"):
        answer = await ask(app, path, "session", method, headers=headers, body=b'{"Paused": true}')
        assert (answer.status_code, kind(answer)) == (404, "no-sign-in")


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        ({}, (401, "not-signed-in")),
        (OF_PAGE, (401, "not-signed-in")),
        (principal("Console.Operate"), (403, "another-site")),
        (principal("Console.Operate") | OF_PAGE | {"Sec-Fetch-Site": "cross-site"}, (403, "another-site")),
        (principal() | OF_PAGE, (403, "role-missing")),
        (principal("Console.Content") | OF_PAGE, (403, "role-missing")),
    ],
)
async def test_who_is_signed_in_needs_the_page_and_the_role(
    signing_in: InProcessApp, headers: dict[str, str], refusal: tuple[int, str]
) -> None:
    answer = await ask(signing_in, "queues/v1/a", "session", "PATCH", headers=headers, body=b'{"Paused": true}')
    assert (answer.status_code, kind(answer)) == refusal


async def test_who_is_signed_in_is_known_by_name(signing_in: InProcessApp) -> None:
    answer = await ask(signing_in, "me", "session", headers=principal("Console.Content") | OF_PAGE)
    me = json.loads(answer.get_body())
    assert (me["Name"], me["Roles"], me["By"]) == ("ada@example.org", ["read", "content"], "easyauth")


async def test_the_platform_s_word_counts_nowhere_else(signing_in: InProcessApp) -> None:
    answer = await signing_in.call("GetMe", "GET", headers=principal("Console.Operate") | OF_PAGE)
    me = json.loads(answer.get_body())
    assert (me["Name"], me["Roles"], me["By"]) == (None, [], "key")
    answer = await ask(signing_in, "me", "read", headers=principal("Console.Operate") | OF_PAGE)
    me = json.loads(answer.get_body())
    assert (me["Name"], me["Roles"], me["By"]) == (None, ["read"], "key")


class Mounted:
    """An app of a test's own operations, mounted."""

    def __init__(self) -> None:
        self.services = ServicesByLoop(Settings.from_env(SETTINGS))
        self.app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
        self.functions = HttpFunctions(self.app, self.services)
        mounts.register(self.app, self.services)
        self._mount: Any = None

    async def ask(self, path: str, url: str = "", method: str = "POST") -> func.HttpResponse:
        if self._mount is None:  # an app can be enumerated only once
            found: list[Any] = cast("Any", self.app).get_functions()
            self._mount = next(each for each in found if each.get_function_name() == "ConsoleOperate")
        request = func.HttpRequest(
            method, url or f"{HOST}/console/operate/{path}", route_params={"path": path}, body=b""
        )
        context = SimpleNamespace(trace_context=SimpleNamespace(trace_parent="", trace_state=""))
        return await self._mount.get_user_function()(request, context)


STORED = "https://account.blob.core.windows.net/task-backbone/v1/tasks/x?sp=r&sig=a/v1/b"


@pytest.mark.parametrize(
    ("url", "there"),
    [
        (f"{HOST}/console/operate/submit/v1/a", f"{HOST}/console/operate/tasks/{ID}"),
        (f"{HOST}/Console/OPERATE/submit/v1/a?x=/v1/tasks/", f"{HOST}/console/operate/tasks/{ID}"),
        (
            "https://gate.example.org/v1/api/console/operate/submit/v1/submit/v1/a",
            f"https://gate.example.org/v1/api/console/operate/tasks/{ID}",
        ),
    ],
)
async def test_a_new_task_is_found_below_the_mount_and_what_is_stored_where_it_is(url: str, there: str) -> None:
    async def submit(req: func.HttpRequest, services: Services) -> func.HttpResponse:
        return json_response({}, 202, {"Location": location(req, ID)})

    async def result(req: func.HttpRequest, services: Services) -> func.HttpResponse:
        return func.HttpResponse(status_code=303, headers={"Location": STORED})

    mounted = Mounted()
    add = mounted.functions.add
    add("Submit", submit, methods=["POST"], route="v1/submit/{*path}", query=None, role=Role.OPERATE)
    add("Result", result, methods=["GET"], route="v1/tasks/{id}/result", role=Role.CONTENT)
    submitted = await mounted.ask("submit/v1/a", url)
    assert submitted.headers["Location"] == there


async def test_a_redirect_to_the_storage_stays_as_it_is() -> None:
    async def result(req: func.HttpRequest, services: Services) -> func.HttpResponse:
        return func.HttpResponse(status_code=303, headers={"Location": STORED})

    mounted = Mounted()
    mounted.functions.add("Result", result, methods=["POST"], route="v1/tasks/{id}/result", role=Role.CONTENT)
    answer = await mounted.ask(f"tasks/{ID}/result")
    assert (answer.status_code, answer.headers["Location"]) == (303, STORED)


async def test_what_is_written_out_goes_before_parameters_in_whatever_order_they_were_added() -> None:
    async def found(req: func.HttpRequest, services: Services) -> func.HttpResponse:
        operator = operator_now()
        assert operator is not None
        return json_response({"at": req.url, **req.route_params, "by": operator.by})

    mounted = Mounted()
    for route in ("v1/things/{*path}", "v1/things/{id}", "v1/things/special", "v1/things/{id}/part"):
        mounted.functions.add(route, found, methods=["POST"], route=route, role=Role.OPERATE)

    async def values(path: str) -> dict[str, str]:
        return json.loads((await mounted.ask(path)).get_body())

    assert await values("things/special") == {"at": f"{HOST}/v1/things/special", "by": "key"}
    assert await values("things/7") == {"at": f"{HOST}/v1/things/7", "id": "7", "by": "key"}
    assert await values("things/7/part") == {"at": f"{HOST}/v1/things/7/part", "id": "7", "by": "key"}
    assert await values("things/7/x") == {"at": f"{HOST}/v1/things/7/x", "path": "7/x", "by": "key"}
    assert await values("things") == {"at": f"{HOST}/v1/things", "by": "key"}
    assert operator_now() is None


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
