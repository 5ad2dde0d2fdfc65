"""Schedules (contract B27): what is submitted again and again, by the clock."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from azure.storage.blob import ContainerClient
from redis.exceptions import MovedError
from standardwebhooks.webhooks import Webhook

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from shared.store import MOST_SCHEDULES
from shared.store.redis.partitions import tag_of
from shared.tasks import status_texts
from tests.callback_receiver import is_signed, new_secret
from tests.contract.test_v1_uploads import uploaded
from tests.contract.v1_support import INLINE_LIMIT_BYTES, assert_problem, complete_on_call, ended, new_path, task_of
from tests.scripted_backend import Answer, ScriptedBackend
from tests.shared.store.world import nodes
from tests.waiting import eventually

GATEWAY_KEY = "the-key-of-the-gateway-0123456789"
HOOK = "/hooks/schedules"
SECRET = new_secret()
SECONDLY = "* * * * * *"
NEVER_NOW = "0 0 1 1 *"


@pytest.fixture(scope="module")
def redis_server(
    redis_server: RedisServer | RedisCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer | RedisCluster]:
    """One of its own: another stack may see to what is due, and knows neither the destination nor the backends."""
    with type(redis_server)(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """A stack that knows the key of a gateway."""
    with Stack(
        tmp_path_factory.mktemp("schedules"),
        redis=redis_server,
        azurite=azurite,
        backends={
            "/v1/test": backend.url,
            "/v1/bounded": {"url": backend.url, "expires_s": 200, "max_run_s": 50},
            "pipelines": {"/v1/named/two": ["/v1/test/one", "/v1/test/two"]},
        },
        with_model=False,
        settings={
            "GATEWAY_KEY": GATEWAY_KEY,
            "RECONCILER_INTERVAL_S": "1",
            "CALLBACKS": json.dumps({"told": {"url": backend.url + HOOK, "secret_setting": "TOLD_SECRET"}}),
            "TOLD_SECRET": SECRET,
        },
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def app(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


@pytest.fixture
def name(app: httpx.Client) -> Iterator[str]:
    """The name of a schedule of this test alone."""
    name = f"s-{uuid.uuid4().hex}"
    yield name
    app.delete(f"/api/v1/schedules/{name}")


def as_owner(owner: str) -> dict[str, str]:
    return {"X-Task-Owner": owner, "X-Gateway-Key": GATEWAY_KEY}


def as_operator(name: str = "ada", roles: str = "operate") -> dict[str, str]:
    return {"X-Operator": name, "X-Operator-Roles": roles, "X-Gateway-Key": GATEWAY_KEY}


def send(app: httpx.Client, name: str, headers: dict[str, str] | None = None, **members: Any) -> httpx.Response:
    definition = {"Path": "/v1/test/schedules", "Cron": NEVER_NOW} | members
    return app.put(f"/api/v1/schedules/{name}", json=definition, headers=headers or {})


def put(app: httpx.Client, name: str, headers: dict[str, str] | None = None, **members: Any) -> dict[str, Any]:
    response = send(app, name, headers, **members)
    assert response.status_code in (200, 201), response.text
    return response.json()


def get(app: httpx.Client, name: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    return app.get(f"/api/v1/schedules/{name}", headers=headers or {}).raise_for_status().json()


def started(app: httpx.Client, name: str) -> list[dict[str, Any]]:
    return [run for run in get(app, name)["Runs"] if run["Outcome"] == "started"]


def blobs(azurite: Azurite, beginning: str = "s-") -> list[str]:
    with ContainerClient.from_connection_string(azurite.connection_string, "task-backbone") as container:
        return [blob.name for blob in container.list_blobs(name_starts_with=beginning)] if container.exists() else []


@pytest.mark.contract("B27.1")
def test_a_schedule_is_put_and_put_anew(app: httpx.Client, name: str) -> None:
    response = send(
        app,
        name,
        Path="/v1/test/schedules/",
        Query="classes=6",
        Body={"scenes": [1.5, "é"]},
        Cron="30 2 * * *",
        TimeZone="Europe/Berlin",
        Overlap="queue",
        CatchUp="all",
        Until="2999-01-01T00:00:00Z",
        Priority=7,
        StartBefore=300,
        MaxRun=60.5,
        Callback="told",
    )
    assert response.status_code == 201
    first = response.json()
    assert len(first.pop("NextTimes")) == 5
    times = {first.pop(member) for member in ("CreatedAt", "UpdatedAt", "NextTime")}
    assert all(time.endswith("Z") for time in times)
    assert first == {
        "Name": name,
        "Owner": None,
        "Path": "/v1/test/schedules/",
        "Query": "classes=6",
        "ContentType": "application/json",
        "BodyBytes": len('{"scenes":[1.5,"é"]}'.encode()),
        "Cron": "30 2 * * *",
        "TimeZone": "Europe/Berlin",
        "Overlap": "queue",
        "CatchUp": "all",
        "Until": "2999-01-01T00:00:00.000000Z",
        "Priority": 7,
        "StartBefore": 300,
        "MaxRun": 60.5,
        "Callback": "told",
        "Paused": False,
        "Runs": [],
    }
    anew = {"path": "/v1/test/schedules", "CRON": NEVER_NOW, "Body": None}
    again = app.put(f"/api/v1/schedules/{name}", json=anew)
    assert again.status_code == 200
    assert again.json() == get(app, name)
    defaults = ("Query", "ContentType", "BodyBytes", "TimeZone", "Overlap", "CatchUp", "Until", "Priority")
    assert [again.json()[member] for member in defaults] == [
        *("", "application/octet-stream", 0, "UTC", "skip", "last", None, 5)
    ]
    assert [again.json()[member] for member in ("StartBefore", "MaxRun", "Callback")] == [None] * 3


@pytest.mark.contract("B27.2")
def test_each_due_time_makes_a_task(app: httpx.Client, stack: Stack, backend: ScriptedBackend, name: str) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    put(app, name, Path=path, Query="a=1", Body={"n": 1.5}, Cron=SECONDLY, Overlap="queue", Priority=3)
    calls = [backend.next_call(path) for _ in range(2)]
    assert [call.body for call in calls] == [b'{"n":1.5}'] * 2
    assert calls[0].headers["content-type"] == "application/json"
    assert calls[0].path.endswith("?a=1")
    first = task_of(app, calls[0].task_id)
    assert (first["EndpointPath"], first["Priority"]) == (path, 3)
    eventually(lambda: len(started(app, name)) >= 2)
    runs = started(app, name)
    assert len({run["Due"] for run in runs}) == len({run["TaskId"] for run in runs}) == len(runs)
    assert all(run["Due"].endswith(".000000Z") for run in runs)
    assert ended(app, calls[0].task_id)["BackendStatus"] == "completed"


@pytest.mark.contract("B27.3")
@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"Cron": "61 * * * *"}, "/Cron"),
        ({"Cron": "* * * * * * *"}, "/Cron"),
        ({"Cron": 5}, "/Cron"),
        ({"Cron": "0 0 30 2 *"}, "/Cron"),
        ({"Cron": "* * */20 * 1L"}, "/Cron"),
        ({"TimeZone": "Mars/Olympus"}, "/TimeZone"),
        ({"TimeZone": "../../etc/passwd"}, "/TimeZone"),
        ({"Until": "tomorrow"}, "/Until"),
        ({"Until": "2001-01-01T00:00:00Z"}, "/Until"),
        ({"Overlap": "both"}, "/Overlap"),
        ({"CatchUp": "some"}, "/CatchUp"),
        ({"Priority": 10}, "/Priority"),
        ({"StartBefore": 0}, "/StartBefore"),
        ({"StartBefore": "300"}, "/StartBefore"),
        ({"StartBefore": 31_536_001}, "/StartBefore"),
        ({"MaxRun": 0.5}, "/MaxRun"),
        ({"MaxRun": True}, "/MaxRun"),
        ({"Callback": "nobody"}, "/Callback"),
        ({"Path": ""}, "/Path"),
        ({"Query": "x" * 3000}, "/Query"),
        ({"ContentType": "a\nb"}, "/ContentType"),
        ({"BodyUpload": "a/b"}, "/BodyUpload"),
        ({"Body": "x", "BodyUpload": "abc"}, "/BodyUpload"),
        ({"Crom": "x"}, "/Crom"),
    ],
)
def test_a_bad_definition_names_what_is_wrong(
    app: httpx.Client, name: str, members: dict[str, Any], field: str
) -> None:
    assert_problem(send(app, name, **members), 400, "invalid-request", field=field)
    assert_problem(app.get(f"/api/v1/schedules/{name}"), 404, "no-such-schedule")


@pytest.mark.contract("B27.3")
def test_the_last_time_that_a_zone_has_can_be_told(app: httpx.Client, name: str) -> None:
    assert put(app, name, Until="9999-12-31T23:59:59-14:00")["Until"].startswith("9999-12-31T")
    assert name in {each["Name"] for each in app.get("/api/v1/schedules").raise_for_status().json()["Schedules"]}


@pytest.mark.contract("B27.3")
@pytest.mark.parametrize("bad", ["-a", "a%20b", "x" * 129, "é", ".hidden"])
def test_a_bad_name_is_none(app: httpx.Client, bad: str) -> None:
    assert_problem(send(app, bad), 400, "invalid-request", field="name")
    assert_problem(app.get(f"/api/v1/schedules/{bad}"), 404, "no-such-schedule")


@pytest.mark.contract("B27.3")
def test_a_path_or_an_upload_that_is_not_there_makes_no_schedule(app: httpx.Client, name: str) -> None:
    assert_problem(send(app, name, Path="/v9/unheard-of"), 404, "unknown-endpoint")
    assert_problem(send(app, name, BodyUpload=str(uuid.uuid4())), 404, "unknown-upload")
    assert_problem(app.get(f"/api/v1/schedules/{name}"), 404, "no-such-schedule")


@pytest.mark.contract("B27.4")
@pytest.mark.parametrize(
    ("members", "content_type", "body"),
    [
        ({"Body": "plain, é\n"}, "text/plain; charset=utf-8", "plain, é\n".encode()),
        ({"Body": "a,b", "ContentType": "text/csv"}, "text/csv", b"a,b"),
        ({"Body": [1, 2.5, None, True, "x"]}, "application/json", b'[1,2.5,null,true,"x"]'),
        ({"Body": {}, "ContentType": "application/geo+json"}, "application/geo+json", b"{}"),
        ({}, "application/octet-stream", b""),
    ],
)
def test_a_run_submits_the_body(
    app: httpx.Client, backend: ScriptedBackend, name: str, members: dict[str, Any], content_type: str, body: bytes
) -> None:
    path = new_path()
    put(app, name, Path=path, **members)
    app.post(f"/api/v1/schedules/{name}/run").raise_for_status()
    call = backend.next_call(path)
    assert (call.body, call.headers.get("content-type")) == (body, content_type)


@pytest.mark.contract("B27.4")
def test_a_pipeline_that_has_a_name_is_a_path(app: httpx.Client, name: str) -> None:
    put(app, name, Path="/v1/named/two", Body="x")
    task = app.post(f"/api/v1/schedules/{name}/run").raise_for_status().json()
    assert (task["EndpointPath"], task["Step"], task["Steps"]) == ("/v1/test/one", 1, 2)


@pytest.mark.contract("B27.5")
def test_a_large_body_is_kept_apart_and_each_run_has_a_copy(
    app: httpx.Client, azurite: Azurite, backend: ScriptedBackend, name: str
) -> None:
    path, before = new_path(), {*blobs(azurite)}
    large = "x" * (INLINE_LIMIT_BYTES + 1)
    put(app, name, Path=path, Body=large)
    [blob] = {*blobs(azurite)} - before
    tasks = [app.post(f"/api/v1/schedules/{name}/run").raise_for_status().json()["TaskId"] for _ in range(2)]
    assert [backend.next_call(path).body for _ in tasks] == [large.encode()] * 2
    assert [len(blobs(azurite, f"t-{task}/")) for task in tasks] == [1, 1]
    app.delete(f"/api/v1/tasks/{tasks[0]}").raise_for_status()
    app.delete(f"/api/v1/tasks/{tasks[0]}", params={"purge": "true"}).raise_for_status()
    assert blobs(azurite, f"t-{tasks[0]}/") == []
    assert blob in blobs(azurite), "it is the schedule's own"

    put(app, name, Path=path, Body=large + "y")
    eventually(lambda: blob not in blobs(azurite))
    [second] = {*blobs(azurite)} - before
    app.delete(f"/api/v1/schedules/{name}").raise_for_status()
    eventually(lambda: second not in blobs(azurite))


@pytest.mark.contract("B27.5")
def test_a_definition_of_more_than_a_mebibyte_is_refused(app: httpx.Client, name: str) -> None:
    assert_problem(send(app, name, Body="x" * 1024 * 1024), 413, "too-large")


@pytest.mark.contract("B27.6")
def test_an_upload_becomes_the_schedule_s(
    app: httpx.Client, azurite: Azurite, backend: ScriptedBackend, name: str
) -> None:
    path, data = new_path(), b"\0binary" * 20_000
    upload = uploaded(app, data)
    schedule = put(app, name, Path=path, BodyUpload=upload)
    assert (schedule["ContentType"], schedule["BodyBytes"]) == ("image/tiff", len(data))
    assert put(app, name, Path=path, BodyUpload=upload)["BodyBytes"] == len(data), "the same again"
    taken = app.post(f"/api/v1/submit{path}", headers={"X-Upload": upload})
    assert_problem(taken, 409, "upload-used")
    assert_problem(send(app, f"{name}-other", BodyUpload=upload), 409, "upload-used")
    # What becomes of the upload is nothing to the schedule.
    with ContainerClient.from_connection_string(azurite.connection_string, "task-backbone") as container:
        container.delete_blob(f"u-{upload}", delete_snapshots="include")
    app.post(f"/api/v1/schedules/{name}/run").raise_for_status()
    call = backend.next_call(path)
    assert (call.body, call.headers["content-type"]) == (data, "image/tiff")


@pytest.mark.contract("B27.7")
def test_a_schedule_is_deleted_and_its_tasks_stay(app: httpx.Client, name: str) -> None:
    put(app, name)
    task = app.post(f"/api/v1/schedules/{name}/run").raise_for_status().json()
    assert app.delete(f"/api/v1/schedules/{name}").status_code == 204
    for method, verb in (("GET", ""), ("DELETE", ""), ("POST", "/run"), ("POST", "/pause"), ("POST", "/resume")):
        assert_problem(app.request(method, f"/api/v1/schedules/{name}{verb}"), 404, "no-such-schedule")
    assert task_of(app, task["TaskId"])["TaskId"] == task["TaskId"]


@pytest.mark.contract("B27.8")
def test_a_paused_schedule_is_not_due(app: httpx.Client, name: str) -> None:
    put(app, name, Cron=SECONDLY, Overlap="queue")
    eventually(lambda: started(app, name))
    paused = app.post(f"/api/v1/schedules/{name}/pause").raise_for_status().json()
    assert (paused["Paused"], paused["NextTime"], paused["NextTimes"]) == (True, None, [])
    assert app.post(f"/api/v1/schedules/{name}/pause").raise_for_status().json()["Paused"] is True
    assert put(app, name, Cron=SECONDLY, Overlap="queue")["Paused"] is True, "another definition resumes nothing"
    count = len(get(app, name)["Runs"])
    resumed = app.post(f"/api/v1/schedules/{name}/resume").raise_for_status().json()
    assert resumed["Paused"] is False
    assert resumed["NextTime"] == resumed["NextTimes"][0]
    assert resumed["NextTime"] > paused["UpdatedAt"]
    eventually(lambda: len(get(app, name)["Runs"]) > min(count, 9))


@pytest.mark.contract("B27.9")
def test_a_schedule_is_run_now(app: httpx.Client, name: str) -> None:
    put(app, name, Callback="told")
    app.post(f"/api/v1/schedules/{name}/pause").raise_for_status()
    first = app.post(f"/api/v1/schedules/{name}/run")
    assert first.status_code == 202
    assert first.json()["Callback"] == "told"
    task = first.json()["TaskId"]
    assert first.headers["location"].endswith(f"/api/v1/tasks/{task}")
    assert httpx.URL(first.headers["location"]).path == f"/api/v1/tasks/{task}"
    keyed = [
        app.post(f"/api/v1/schedules/{name}/run", headers={"Idempotency-Key": "monday"}).raise_for_status().json()
        for _ in range(2)
    ]
    assert keyed[0]["TaskId"] == keyed[1]["TaskId"] != task
    runs = get(app, name)["Runs"]
    assert [(run["TaskId"], run["Outcome"], run["Asked"]) for run in runs] == [
        (keyed[0]["TaskId"], "started", True),
        (task, "started", True),
    ]


@pytest.mark.contract("B27.10")
def test_schedules_are_listed_page_by_page(app: httpx.Client) -> None:
    owner = as_owner(f"lister-{uuid.uuid4().hex}")
    for name in ("c", "a", "b"):
        put(app, name, owner)
    first = app.get("/api/v1/schedules", params={"limit": 2}, headers=owner)
    page = first.raise_for_status().json()
    assert [schedule["Name"] for schedule in page["Schedules"]] == ["a", "b"]
    assert "Runs" not in page["Schedules"][0]
    again = app.get(
        "/api/v1/schedules", params={"limit": 2}, headers=owner | {"If-None-Match": first.headers["etag"]}
    )
    assert again.status_code == 304
    last = (
        app.get("/api/v1/schedules", params={"cursor": page["NextCursor"]}, headers=owner).raise_for_status().json()
    )
    assert [schedule["Name"] for schedule in last["Schedules"]] == ["c"]
    assert last["NextCursor"] is None
    for cursor in ("x", "é", "a" * 5000, page["NextCursor"][:-3], "YSBiIGM"):
        refused = app.get("/api/v1/schedules", params={"cursor": cursor}, headers=owner)
        assert_problem(refused, 400, "invalid-request", field="cursor")


@pytest.mark.contract("B27.11")
def test_owners_have_schedules_of_their_own(app: httpx.Client) -> None:
    name, ann, bob = f"s-{uuid.uuid4().hex}", as_owner("ann"), as_owner("bob")
    put(app, name, ann, Query="of=ann")
    for method, verb in (("GET", ""), ("DELETE", ""), ("POST", "/run"), ("POST", "/pause"), ("POST", "/resume")):
        theirs = app.request(method, f"/api/v1/schedules/{name}{verb}", headers=bob)
        unknown = app.request(method, f"/api/v1/schedules/unknown{verb}", headers=bob)
        assert (theirs.status_code, theirs.content) == (unknown.status_code, unknown.content)
    put(app, name, bob, Query="of=bob")
    assert [get(app, name, who)["Query"] for who in (ann, bob)] == ["of=ann", "of=bob"]
    assert app.get(f"/api/v1/schedules/{name}").status_code == 404, "nobody's"
    for owner in (None, "ann", "bob"):
        query = {"owner": owner} if owner else {}
        answered = app.get(f"/api/v1/schedules/{name}", params=query, headers=bob)
        assert answered.status_code == (403 if owner == "ann" else 200)
    assert app.get(f"/api/v1/schedules/{name}", params={"owner": "ann"}).json()["Query"] == "of=ann"
    listed = app.get("/api/v1/schedules", headers=bob).json()["Schedules"]
    assert {schedule["Owner"] for schedule in listed} == {"bob"}
    task = app.post(f"/api/v1/schedules/{name}/run", headers=ann).raise_for_status().json()["TaskId"]
    assert app.get(f"/api/v1/tasks/{task}", headers=bob).status_code == 404
    assert app.get(f"/api/v1/tasks/{task}", headers=ann).status_code == 200


@pytest.mark.contract("B27.12")
def test_what_operators_do_is_on_record(app: httpx.Client) -> None:
    name, ann = f"s-{uuid.uuid4().hex}", as_owner("ann")
    put(app, name, ann)
    url, query = f"/api/v1/schedules/{name}", {"owner": "ann"}
    for verb in ("pause", "resume", "run"):
        app.post(f"{url}/{verb}", params=query, headers=as_operator()).raise_for_status()
    app.delete(url, params=query, headers=as_operator()).raise_for_status()
    entries = app.get("/api/v1/audit", params={"limit": 200}, headers=as_operator()).json()["Entries"]
    mine = [(entry["Action"], entry["Operator"]) for entry in entries if entry["Target"] == f"ann {name}"]
    actions = ("delete schedule", "run schedule", "resume schedule", "pause schedule")
    assert mine == [(action, "ada") for action in actions]
    reader = as_operator("bob", "read")
    assert_problem(app.post(f"{url}/run", params=query, headers=reader), 403, "role-missing")
    assert app.get("/api/v1/schedules", headers=reader).status_code == 200


@pytest.mark.contract("B27.13")
@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel-running"])
def test_a_run_that_is_due_while_the_last_one_goes_on(
    app: httpx.Client, backend: ScriptedBackend, name: str, overlap: str
) -> None:
    path, hold = new_path(), threading.Event()
    backend.script(path, *[Answer(hold=hold)] * 20)
    put(app, name, Path=path, Cron=SECONDLY, Overlap=overlap)
    try:
        if overlap == "skip":
            eventually(lambda: any(run["Outcome"] == "skipped" for run in get(app, name)["Runs"]))
            assert len(started(app, name)) <= 1
        elif overlap == "queue":
            eventually(lambda: len(started(app, name)) >= 2)
            assert {run["BackendStatus"] for run in started(app, name)} <= {"created", "running"}
        else:
            eventually(lambda: any(run["BackendStatus"] == "cancelled" for run in started(app, name)))
    finally:
        app.delete(f"/api/v1/schedules/{name}")
        hold.set()


@pytest.mark.contract("B27.14")
def test_a_run_that_its_queue_refuses_is_tried_again_and_told(app: httpx.Client, name: str) -> None:
    path = new_path()
    app.patch(f"/api/v1/queues{path}", json={"Draining": True}).raise_for_status()
    put(app, name, Path=path, Cron="*/3 * * * * *", Overlap="queue")
    eventually(lambda: [run for run in get(app, name)["Runs"] if run["Outcome"] == "skipped"])
    skipped = next(run for run in get(app, name)["Runs"] if run["Outcome"] == "skipped")
    assert (skipped["Reason"], skipped["TaskId"]) == ("The queue takes no new tasks.", None)
    app.patch(f"/api/v1/queues{path}", json={"Draining": False}).raise_for_status()
    eventually(lambda: started(app, name))


@pytest.mark.contract("B27.15")
def test_an_owner_has_a_thousand_schedules_at_most(
    app: httpx.Client, redis_server: RedisServer | RedisCluster, name: str
) -> None:
    owner = f"many-{uuid.uuid4().hex}"
    key = f"{tag_of(owner)}schedules"
    names = {f"{owner} n{number}": 0 for number in range(MOST_SCHEDULES)}
    [node] = [each for each in nodes(redis_server) if _has(each, key)]
    with node.connect() as client:
        client.zadd(key, names)
        assert_problem(send(app, name, as_owner(owner)), 409, "too-many-schedules")
        assert send(app, name, as_owner(f"{owner}-other")).status_code == 201
        client.zrem(key, f"{owner} n7")
        assert send(app, name, as_owner(owner)).status_code == 201
        client.zrem(key, *names)


@pytest.mark.contract("B27.16", "B27.17")
@pytest.mark.parametrize(
    ("prefix", "members", "expires_s", "max_run_s"),
    [
        ("/v1/test", {}, None, None),
        ("/v1/test", {"StartBefore": 300, "MaxRun": 60.5}, 300, 60.5),
        ("/v1/bounded", {}, 200, 50),
        ("/v1/bounded", {"StartBefore": 300, "MaxRun": 60.5}, 300, 50),
        ("/v1/bounded", {"StartBefore": 0.5, "MaxRun": 20}, 0.5, 20),
    ],
)
def test_each_task_has_the_bounds_of_the_schedule_and_of_its_backend(
    app: httpx.Client,
    name: str,
    prefix: str,
    members: dict[str, Any],
    expires_s: float | None,
    max_run_s: float | None,
) -> None:
    path = f"{prefix}/{uuid.uuid4().hex}"
    # Paused, so that no service has it before it is looked at.
    app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()
    put(app, name, Path=path, **members)
    task = app.post(f"/api/v1/schedules/{name}/run").raise_for_status().json()
    assert task.get("MaxRunSeconds") == max_run_s
    if expires_s is None:
        assert "ExpiresAt" not in task
    else:
        assert datetime.fromisoformat(task["ExpiresAt"]) - datetime.fromisoformat(task["CreatedAt"]) == timedelta(
            seconds=expires_s
        )
    if expires_s == 0.5:
        assert ended(app, task["TaskId"])["Status"] == status_texts.expired(0.5)


@pytest.mark.contract("B27.18")
def test_each_task_tells_the_destination_how_it_has_ended(
    app: httpx.Client, stack: Stack, backend: ScriptedBackend, name: str
) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    put(app, name, Path=path, Cron=SECONDLY, Overlap="queue", Callback="told")
    told: list[str] = []
    for _ in range(2):
        call = backend.next_call(HOOK)
        assert is_signed(call.headers, call.body, [Webhook(SECRET)])
        document = json.loads(call.body)
        assert (document["EndpointPath"], document["BackendStatus"]) == (path, "completed")
        told.append(document["TaskId"])
    assert len({*told}) == 2
    eventually(lambda: {*told} <= {run["TaskId"] for run in started(app, name)})


def _has(node: RedisServer, key: str) -> bool:
    """Whether the node has the slot of the key."""
    with node.connect() as client:
        try:
            client.zcard(key)
        except MovedError:
            return False
        return True
