"""What operators do: the audit, who did it, bulk actions, and the filters of lists (contract B21)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from tests.contract.v1_support import UNKNOWN_ID, assert_problem, new_path, report, task_of
from tests.scripted_backend import Answer, ScriptedBackend
from tests.waiting import eventually

GATEWAY_KEY = "the-key-of-the-gateway-0123456789"


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """A stack that knows the key of a gateway."""
    with Stack(
        tmp_path_factory.mktemp("audit"),
        redis=redis_server,
        azurite=azurite,
        backends={"/v1/test": backend.url},
        with_model=False,
        settings={"GATEWAY_KEY": GATEWAY_KEY},
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def app(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


def as_operator(name: str = "ada", roles: str = "operate") -> dict[str, str]:
    return {"X-Operator": name, "X-Operator-Roles": roles, "X-Gateway-Key": GATEWAY_KEY}


def as_owner(owner: str) -> dict[str, str]:
    return {"X-Task-Owner": owner, "X-Gateway-Key": GATEWAY_KEY}


@dataclass(frozen=True)
class Tasks:
    """Makes tasks that nobody dispatches."""

    app: httpx.Client
    backend: ScriptedBackend

    def kept(self, path: str, **update: Any) -> str:
        return report(self.app, Endpoint=self.backend.url + path, **update)["TaskId"]

    def failed(self, path: str, status: str = "no room") -> str:
        """A failed one with a body, so that it can be replayed."""
        task_id = self.kept(path, Body="{}")
        report(self.app, TaskId=task_id, BackendStatus="failed", Status=status)
        return task_id


@pytest.fixture
def tasks(app: httpx.Client, backend: ScriptedBackend) -> Tasks:
    return Tasks(app, backend)


def audit(app: httpx.Client, target: str | None = None, **query: str) -> list[dict[str, Any]]:
    """The entries of a target, or all of the first page, the newest first."""
    entries = app.get("/api/v1/audit", params={"limit": "200", **query}).raise_for_status().json()["Entries"]
    return entries if target is None else [entry for entry in entries if entry["Target"] == target]


def without_time(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "At"}


def bulk(app: httpx.Client, headers: dict[str, str] | None = None, **request: Any) -> dict[str, Any]:
    request = {"OperationId": uuid.uuid4().hex, **request}
    answer = app.post("/api/v1/bulk", json=request, headers=headers).raise_for_status()
    return answer.json()


def listed(app: httpx.Client, headers: dict[str, str] | None = None, **query: str) -> list[str]:
    answer = app.get("/api/v1/tasks", params={"limit": "200", **query}, headers=headers).raise_for_status()
    return [task["TaskId"] for task in answer.json()["Tasks"]]


# The audit


@pytest.mark.contract("B21.1")
def test_each_action_of_a_named_operator_is_on_record(app: httpx.Client, tasks: Tasks) -> None:
    path = new_path()
    cancelled, replayed, purged = tasks.kept(path), tasks.failed(path), tasks.failed(path)
    ada = as_operator("ada lovelace")
    app.delete(f"/api/v1/tasks/{cancelled}", headers=ada).raise_for_status()
    app.post(f"/api/v1/tasks/{replayed}/replay", headers=ada).raise_for_status()
    app.delete(f"/api/v1/tasks/{purged}", params={"purge": "true"}, headers=ada).raise_for_status()
    for settings in ({"Paused": True}, {"Paused": False, "Limit": 3}, {"Draining": True}, {"Limit": None}):
        app.patch(f"/api/v1/queues{path}", json=settings, headers=ada).raise_for_status()
    submitted = app.post(f"/api/v1/submit{path}", content=b"{}", headers=ada)
    assert submitted.status_code == 503, submitted.text
    app.patch(f"/api/v1/queues{path}", json={"Draining": False}, headers=ada).raise_for_status()
    submitted = app.post(f"/api/v1/submit{path}", content=b"{}", headers=ada).raise_for_status().json()["TaskId"]
    by_ada = {"Operator": "ada lovelace", "By": "gateway", "OperationId": None}
    for target, action in ((cancelled, "cancel"), (replayed, "replay"), (purged, "purge"), (submitted, "submit")):
        [entry] = audit(app, target)
        assert without_time(entry) == by_ada | {"Action": action, "Target": target, "Count": 1}
    actions = [entry["Action"] for entry in audit(app, path)]
    assert actions == ["accept", "no limit", "drain", "resume, limit 3", "pause"]
    assert [(entry["Action"], entry["Count"]) for entry in audit(app)[:3]] == [
        ("submit", 1),
        ("accept", 1),
        ("submit", 0),
    ]


@pytest.mark.contract("B21.2")
def test_the_holder_of_a_function_key_is_on_record_without_a_name(app: httpx.Client, tasks: Tasks) -> None:
    task_id = tasks.kept(new_path())
    app.delete(f"/api/v1/tasks/{task_id}").raise_for_status()
    [entry] = audit(app, task_id)
    expected = {"Operator": None, "By": "key", "Action": "cancel", "Target": task_id, "Count": 1, "OperationId": None}
    assert without_time(entry) == expected


@pytest.mark.contract("B21.3")
def test_what_an_owner_or_a_caller_does_is_no_action_of_an_operator(app: httpx.Client) -> None:
    path = new_path()
    newest = audit(app)[:1]
    theirs = app.post(f"/api/v1/submit{path}", content=b"{}", headers=as_owner("ada")).json()["TaskId"]
    app.delete(f"/api/v1/tasks/{theirs}", headers=as_owner("ada")).raise_for_status()
    app.post(f"/api/v1/submit{path}", content=b"{}").raise_for_status()
    app.post("/api/v1/batches", json={}).raise_for_status()
    assert audit(app)[:1] == newest


@pytest.mark.contract("B21.4")
def test_an_action_that_was_refused_has_changed_nothing(app: httpx.Client, tasks: Tasks) -> None:
    task_id = tasks.kept(new_path())
    assert app.post(f"/api/v1/tasks/{task_id}/replay", headers=as_operator()).status_code == 409
    assert app.delete(f"/api/v1/tasks/{UNKNOWN_ID}", headers=as_operator()).status_code == 404
    assert [(entry["Action"], entry["Count"]) for entry in audit(app, task_id)] == [("replay", 0)]
    assert audit(app, UNKNOWN_ID)[0]["Count"] == 0


@pytest.mark.contract("B21.5")
def test_the_audit_has_pages(app: httpx.Client, tasks: Tasks) -> None:
    for _ in range(5):
        app.delete(f"/api/v1/tasks/{tasks.kept(new_path())}").raise_for_status()
    whole = audit(app)
    assert [entry["At"] for entry in whole] == sorted((entry["At"] for entry in whole), reverse=True)
    page = app.get("/api/v1/audit", params={"limit": "2"}).json()
    assert page.keys() == {"Entries", "NextCursor"}
    following = app.get("/api/v1/audit", params={"limit": "2", "cursor": page["NextCursor"]}).json()
    assert page["Entries"] + following["Entries"] == whole[:4]
    cursor: str | None = ""
    while cursor is not None:
        cursor = (
            app.get("/api/v1/audit", params={"limit": "200", "cursor": cursor})
            .raise_for_status()
            .json()["NextCursor"]
        )


@pytest.mark.contract("B21.6")
def test_owners_have_no_audit_and_a_reader_has(app: httpx.Client) -> None:
    assert_problem(app.get("/api/v1/audit", headers=as_owner("ada")), 403, "not-for-owners")
    app.get("/api/v1/audit", headers=as_operator(roles="read")).raise_for_status()
    refused = app.post("/api/v1/bulk", json={"Action": "cancel"}, headers=as_operator(roles="content"))
    assert_problem(refused, 403, "role-missing")
    refused = app.post("/api/v1/bulk", json={"Action": "cancel"}, headers=as_owner("ada"))
    assert_problem(refused, 403, "not-for-owners")


@pytest.mark.contract("B21.7")
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "1-2-3"}, "cursor"),
        ({"cursor": "9" * 40 + "-0"}, "cursor"),
        ({"cursor": "0-0"}, "cursor"),
        ({"cursor": "000-00"}, "cursor"),
        ({"cursor": "1"}, "cursor"),
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
    ],
)
def test_a_bad_page_of_the_audit_is_refused(app: httpx.Client, query: dict[str, str], field: str) -> None:
    assert_problem(app.get("/api/v1/audit", params=query), 400, "invalid-request", field=field)


# The history


@pytest.mark.contract("B21.8")
def test_the_history_says_that_an_operator_did_it_and_the_name_to_operators_alone(app: httpx.Client) -> None:
    path = new_path()
    task_id = app.post(f"/api/v1/submit{path}", content=b"{}", headers=as_owner("eve")).json()["TaskId"]
    app.delete(f"/api/v1/tasks/{task_id}", headers=as_operator("ada")).raise_for_status()

    def last(headers: dict[str, str] | None = None) -> tuple[str, str | None]:
        answer = app.get(f"/api/v1/tasks/{task_id}/history", headers=headers).raise_for_status()
        event = answer.json()["Events"][-1]
        assert event["State"] == "cancelled"
        return event["Who"], event.get("Operator")

    assert last(as_operator("bob", "read")) == ("operator", "ada")
    assert last(as_owner("eve")) == ("operator", None)
    assert last() == ("operator", None)
    assert "ada" not in app.get(f"/api/v1/tasks/{task_id}/history", headers=as_owner("eve")).text


@pytest.mark.contract("B21.8")
def test_the_children_of_a_batch_name_the_operator_too(app: httpx.Client, backend: ScriptedBackend) -> None:
    path, ada = new_path(), as_operator("ada")
    backend.react(path, lambda call: Answer(status=400))
    batch = app.post("/api/v1/batches", json={}).json()["TaskId"]
    child = app.post(f"/api/v1/submit{path}", content=b"{}", headers={"Batch": batch}).json()["TaskId"]
    app.post(f"/api/v1/batches/{batch}/seal").raise_for_status()
    eventually(lambda: task_of(app, batch)["BackendStatus"] == "failed")
    app.patch(f"/api/v1/queues{path}", json={"Paused": True}).raise_for_status()
    app.post(f"/api/v1/tasks/{batch}/replay", headers=ada).raise_for_status()
    eventually(lambda: task_of(app, child)["Attempt"] == 2)
    app.delete(f"/api/v1/tasks/{batch}", headers=as_operator("bob")).raise_for_status()
    eventually(lambda: task_of(app, child)["BackendStatus"] == "cancelled")
    for task_id in (batch, child):
        events = app.get(f"/api/v1/tasks/{task_id}/history", headers=ada).raise_for_status().json()["Events"]
        assert {(event["Reason"], event.get("Operator")) for event in events} >= {
            ("replay", "ada"),
            ("cancel", "bob"),
        }


@pytest.mark.contract("B21.9")
def test_the_history_says_why_a_task_has_ended(app: httpx.Client, tasks: Tasks, backend: ScriptedBackend) -> None:
    path = new_path()
    backend.react(path, lambda call: Answer(status=400))
    rejected = app.post(f"/api/v1/submit{path}", content=b"{}").json()["TaskId"]
    eventually(lambda: task_of(app, rejected)["BackendStatus"] == "failed")
    cancelled, completed = tasks.kept(path), tasks.kept(path)
    app.delete(f"/api/v1/tasks/{cancelled}").raise_for_status()
    report(app, TaskId=completed, BackendStatus="completed")
    ends = {rejected: "rejected", cancelled: "cancelled", completed: "completed", tasks.failed(path): "reported"}
    for task_id, reason in ends.items():
        *earlier, last = app.get(f"/api/v1/tasks/{task_id}/history").raise_for_status().json()["Events"]
        assert last["EndReason"] == reason
        assert not any("EndReason" in event for event in earlier)


# Bulk actions


@pytest.mark.contract("B21.10")
def test_all_that_fit_are_cancelled(app: httpx.Client, tasks: Tasks) -> None:
    path, other = new_path(), new_path()
    open_ones = [tasks.kept(path) for _ in range(5)]
    ended, elsewhere = tasks.failed(path), tasks.kept(other)
    answer = bulk(app, as_operator("ada"), Action="cancel", Path=path, OperationId="cancel-1")
    assert answer == {"Matched": 5, "Done": 5, "Refused": [], "NextCursor": None}
    assert {task_of(app, task_id)["BackendStatus"] for task_id in open_ones} == {"cancelled"}
    assert task_of(app, ended)["BackendStatus"] == "failed"
    assert task_of(app, elsewhere)["BackendStatus"] == "created"
    [entry] = audit(app, path)
    assert without_time(entry) == {
        "Operator": "ada",
        "By": "gateway",
        "Action": "bulk cancel",
        "Target": path,
        "Count": 5,
        "OperationId": "cancel-1",
    }
    for task_id in open_ones:
        events = app.get(f"/api/v1/tasks/{task_id}/history", headers=as_operator("bob")).json()["Events"]
        assert (events[-1]["Who"], events[-1]["Operator"]) == ("operator", "ada")


@pytest.mark.contract("B21.11")
def test_what_failed_is_replayed_piece_by_piece(app: httpx.Client, tasks: Tasks, backend: ScriptedBackend) -> None:
    path, operation = new_path(), uuid.uuid4().hex
    wanted = [tasks.failed(path, "CUDA out of memory") for _ in range(5)]
    unwanted = tasks.failed(path, "no such image")
    found, cursor = 0, None
    while True:
        asked = {"Action": "replay", "Path": path, "Q": "out of MEMORY", "Limit": 2, "OperationId": operation}
        answer = bulk(app, **asked, **({"Cursor": cursor} if cursor else {}))
        assert answer["Refused"] == []
        assert answer["Done"] == answer["Matched"] <= 2
        found, cursor = found + answer["Done"], answer["NextCursor"]
        if cursor is None:
            break
    assert found == 5
    assert {task_of(app, task_id)["Attempt"] for task_id in wanted} == {2}
    assert task_of(app, unwanted)["Attempt"] == 1
    assert sum(entry["Count"] for entry in audit(app, path)) == 5


@pytest.mark.contract("B21.12")
def test_a_dry_run_counts_and_changes_nothing(app: httpx.Client, tasks: Tasks) -> None:
    path = new_path()
    ids = [tasks.kept(path) for _ in range(3)]
    answer = bulk(app, Action="cancel", Path=path, DryRun=True)
    assert answer == {"Matched": 3, "Done": 0, "Refused": [], "NextCursor": None}
    assert {task_of(app, task_id)["BackendStatus"] for task_id in ids} == {"created"}
    assert audit(app, path) == []


@pytest.mark.contract("B21.13")
def test_one_operation_replays_a_task_once_whatever_is_repeated(app: httpx.Client, tasks: Tasks) -> None:
    path, operation = new_path(), uuid.uuid4().hex
    ids = [tasks.failed(path) for _ in range(3)]
    asked = {"Action": "replay", "Path": path, "OperationId": operation}
    assert bulk(app, **asked)["Done"] == 3
    assert bulk(app, **asked)["Matched"] == 0
    for task_id in ids:
        report(app, TaskId=task_id, BackendStatus="failed", Status="again")
    answer = bulk(app, **asked)
    assert (answer["Matched"], answer["Done"]) == (3, 0)
    assert sorted(refused["TaskId"] for refused in answer["Refused"]) == sorted(ids)
    assert {refused["Why"] for refused in answer["Refused"]} == {"done"}
    assert bulk(app, **asked | {"OperationId": uuid.uuid4().hex})["Done"] == 3
    assert {task_of(app, task_id)["Attempt"] for task_id in ids} == {3}


@pytest.mark.contract("B21.14")
def test_a_bulk_action_leaves_what_was_created_later(app: httpx.Client, tasks: Tasks) -> None:
    path = new_path()
    early = tasks.kept(path)
    before = task_of(app, early)["CreatedAt"]
    assert bulk(app, Action="cancel", Path=path, CreatedBefore=before)["Matched"] == 0
    answer = bulk(app, Action="cancel", Path=path, CreatedBefore="2999-01-01T00:00:00+01:00", Status="created")
    assert answer["Done"] == 1


@pytest.mark.contract("B21.15")
def test_what_cannot_be_replayed_is_told(app: httpx.Client, tasks: Tasks) -> None:
    path = new_path()
    bodiless = tasks.kept(path)
    report(app, TaskId=bodiless, BackendStatus="failed")
    answer = bulk(app, Action="replay", Path=path)
    assert answer["Refused"] == [{"TaskId": bodiless, "Why": "bodiless"}]
    assert (answer["Matched"], answer["Done"]) == (1, 0)


GOOD = {"Action": "cancel", "OperationId": "op-1", "DryRun": True}
BAD_MEMBERS: list[tuple[str, Any]] = [
    *(("Action", bad) for bad in ("delete", "", "Cancel ", None, 1, True, ["cancel"], {"x": 1}, "cancel\x00")),
    *(("OperationId", bad) for bad in ("", "a b", "x" * 129, None, 5, "../x", "ü", ["a"], "a\n", "\u202e")),
    *(("Path", bad) for bad in ("", "/v1/../x", "/v1/a?b", "x" * 3_000, 7, ["/v1/a"], "/v1/\x00", "/v1/a b#c", "//")),
    *(("Status", bad) for bad in ("", "completed", "failed", "cancelled", "Created", 1, ["created"], "x" * 1000)),
    *(("Q", bad) for bad in ("", "x" * 201, 1, ["x"], {"$ne": ""}, True)),
    *(
        ("CreatedBefore", bad)
        for bad in ("", "yesterday", "2026-11-28", "2026-11-28T06:00:00", "2026-13-01T00:00:00Z")
    ),
    *(("CreatedBefore", bad) for bad in (0, 1e300, "9999-99-99T99:99:99Z", "2026-11-28T06:00:00+99:99", [])),
    *(("Limit", bad) for bad in (0, -1, 501, "5", 1.5, True, 10**30, [1], "")),
    *(("DryRun", bad) for bad in ("true", 1, "", [], {})),
    *(("Cursor", bad) for bad in ("", "x", "zz-t1", "1" * 13 + "-t1", "-", "1-", "1-a b", 5, "1-\x00")),
]


@pytest.mark.contract("B21.16")
@pytest.mark.parametrize(("member", "bad"), BAD_MEMBERS, ids=lambda value: json.dumps(value)[:40])
def test_a_bad_member_of_a_bulk_action_is_named(app: httpx.Client, member: str, bad: Any) -> None:
    answer = app.post("/api/v1/bulk", json=GOOD | {member: bad})
    if bad is None and member not in ("Action", "OperationId"):
        answer.raise_for_status()
        return
    document = assert_problem(answer, 400, "invalid-request", field=f"/{member}")
    assert len(answer.content) < 2_000
    assert document["errors"][0]["detail"]


@pytest.mark.contract("B21.16")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'"cancel"',
        b"\xff\xfe",
        b'{"Action":"cancel","action":"replay","OperationId":"x"}',
        b'{"Action":"cancel","OperationId":"x","Owner":"ada"}',
        b'{"Action":"cancel","OperationId":"\\ud800"}',
        b'{"Action":"cancel","OperationId":"x","Q":"\\ud800"}',
        b'{"Action":"cancel","OperationId":"x","Q":NaN}',
        b"[" * 10_000,
    ],
    ids=lambda body: body[:30].decode("latin-1"),
)
def test_a_bad_bulk_action_is_refused(app: httpx.Client, body: bytes) -> None:
    answer = app.post("/api/v1/bulk", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["type"] == "urn:task-backbone:problem:invalid-request"


@pytest.mark.contract("B21.17")
def test_a_state_that_an_action_cannot_take_is_refused(app: httpx.Client) -> None:
    for action, status in (("cancel", "failed"), ("replay", "running"), ("replay", "created")):
        request = {"Action": action, "Status": status, "OperationId": "x"}
        assert_problem(app.post("/api/v1/bulk", json=request), 400, "invalid-request", field="/Status")


# The filters of lists


@pytest.mark.contract("B21.18")
def test_a_list_is_filtered_by_time_text_owner_and_attempts(app: httpx.Client, tasks: Tasks) -> None:
    path = new_path()
    plain, told = tasks.kept(path), tasks.failed(path, "CUDA out of memory")
    owned = app.post(f"/api/v1/submit{path}", content=b"{}", headers=as_owner("ada")).json()["TaskId"]
    app.post(f"/api/v1/tasks/{told}/replay").raise_for_status()
    report(app, TaskId=told, BackendStatus="failed", Status="CUDA out of memory")
    assert listed(app, path=path) == [owned, told, plain]
    assert listed(app, path=path, q="cuda OUT") == [told]
    assert listed(app, path=path, q=plain[:13].upper()) == [plain]
    assert listed(app, path=path, owner="ada") == [owned]
    assert listed(app, as_operator(roles="read"), path=path, owner="ada") == [owned]
    assert listed(app, path=path, attempts="2") == [told]
    at = task_of(app, told)["CreatedAt"]
    assert listed(app, path=path, since=at) == [owned, told]
    assert listed(app, path=path, until=at) == [plain]
    assert listed(app, path=path, since=at, until=at) == []
    assert listed(app, path=path, since=at, q="memory", status="failed", attempts="2") == [told]


@pytest.mark.contract("B21.19")
def test_a_list_tells_how_much_it_looked_at_and_a_filter_that_takes_nothing_ends(
    app: httpx.Client, tasks: Tasks
) -> None:
    path = new_path()
    for _ in range(4):
        tasks.kept(path)
    page = app.get("/api/v1/tasks", params={"path": path, "limit": "2"}).json()
    assert (len(page["Tasks"]), page["Looked"]) == (2, 2)
    page = app.get("/api/v1/tasks", params={"path": path, "q": "no such text"}).json()
    assert page == {"Tasks": [], "NextCursor": None, "Looked": 4}


@pytest.mark.contract("B21.19")
def test_an_owner_does_not_learn_how_many_tasks_others_have(app: httpx.Client, tasks: Tasks) -> None:
    path = new_path()
    for owner in ("ada", "grace", "ada"):
        app.post(f"/api/v1/submit{path}", content=b"{}", headers=as_owner(owner)).raise_for_status()
    tasks.kept(path)

    def looked(headers: dict[str, str], **query: str) -> tuple[int, int]:
        page = app.get("/api/v1/tasks", params={"path": path, **query}, headers=headers).raise_for_status().json()
        return len(page["Tasks"]), page["Looked"]

    assert looked(as_owner("ada")) == (2, 2)
    assert looked(as_owner("ada"), q="no such text") == (0, 2)
    assert looked(as_owner("ada"), attempts="9") == (0, 2)
    assert looked(as_owner("mary")) == (0, 0)
    assert looked(as_operator(), owner="mary") == (0, 4), "an operator sees all of them anyway"


@pytest.mark.contract("B21.19")
def test_the_children_of_a_batch_are_filtered_too(app: httpx.Client) -> None:
    batch = app.post("/api/v1/batches", json={}).json()["TaskId"]
    path = new_path()
    first, second = (
        app.post(f"/api/v1/submit{path}", content=b"{}", headers={"Batch": batch}).json()["TaskId"] for _ in range(2)
    )
    app.delete(f"/api/v1/tasks/{first}").raise_for_status()
    page = app.get("/api/v1/tasks", params={"batch": batch, "q": "CANCELLED"}).json()
    assert ([task["TaskId"] for task in page["Tasks"]], page["Looked"]) == ([first], 2)
    assert sorted(listed(app, batch=batch, attempts="1")) == sorted([first, second])
    assert listed(app, batch=batch, attempts="9") == []


@pytest.mark.contract("B21.20")
@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(
            ("since", bad)
            for bad in ("yesterday", "2026-11-28", "2026-11-28T06:00:00", "1e9", "2026-02-30T00:00:00Z")
        ),
        *(("until", bad) for bad in ("x", "2026-11-28T06:00Z", "2026-11-28T06:00:00 99:99", "\u0661", "-1")),
        *(("attempts", bad) for bad in ("0", "-1", "x", "1.5", "9" * 30, "\u0661")),
        *(("owner", bad) for bad in ("a b", "x" * 129, "ü", "a\n")),
        ("q", "x" * 201),
    ],
)
def test_a_bad_filter_is_named(app: httpx.Client, name: str, bad: str) -> None:
    assert_problem(app.get("/api/v1/tasks", params={name: bad}), 400, "invalid-request", field=name)


@pytest.mark.contract("B21.21")
def test_an_owner_lists_nobody_elses_tasks(app: httpx.Client, tasks: Tasks) -> None:
    path = new_path()
    mine = app.post(f"/api/v1/submit{path}", content=b"{}", headers=as_owner("eve")).json()["TaskId"]
    tasks.kept(path)
    refused = app.get("/api/v1/tasks", params={"owner": "ada"}, headers=as_owner("eve"))
    assert_problem(refused, 403, "not-for-owners")
    assert listed(app, as_owner("eve"), path=path, owner="eve") == [mine]
    assert listed(app, as_owner("eve"), path=path, q="") == [mine]
    page = app.get("/api/v1/tasks", params={"path": path, "q": "/v1/test"}, headers=as_owner("eve")).json()
    assert [task["TaskId"] for task in page["Tasks"]] == [mine]
