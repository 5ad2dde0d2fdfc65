"""Tasks as JSON: what is parsed, what is refused and how, and what a document contains."""

import asyncio
import json
import time
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from cache_manager.history import HistoryEntry, TaskHistory
from cache_manager.queue_schemas import QueueSettings
from cache_manager.schemas import TaskUpsert, TaskView
from shared.dispatch.registry import BackendRegistry
from shared.http.problems import Problem
from shared.http.times import iso
from shared.settings import Settings
from shared.tasks.outcomes import QueuePosition
from shared.tasks.task import DEFAULT_PRIORITY, MAX_ATTEMPT, Content, Event, Reason, State, Task

BACKENDS = BackendRegistry(
    Settings.model_validate(
        {
            "redis_connection_string": "redis://127.0.0.1",
            "event_grid_topic_uri": "https://topic.example.org/api/events",
            "backends": {"/v1/org": {"url": "https://models.example.org/base"}},
        }
    )
)
TASK = Task(
    id="7",
    state=State.RUNNING,
    path="/v1/org/api",
    query="a=1",
    status="on it",
    attempt=3,
    failures=1,
    publishes=1,
    dispatch_requested=True,
    version=9,
    created_ms=1_795_342_364_123,
    updated_ms=1_795_342_424_000,
    queued_ms=1_795_342_364_123,
    body=Content("application/json", 2),
    result=None,
    traceparent="",
    fingerprint="",
    owner="",
    away_ms=None,
    completion_unpublished=False,
    history=(),
    priority=7,
    lease_ms=90_000,
)


def parse(document: Any) -> TaskUpsert:
    return asyncio.run(TaskUpsert.parse(json.dumps(document).encode()))


def refusal(body: bytes) -> dict[str, Any]:
    with pytest.raises(Problem) as refused:
        asyncio.run(TaskUpsert.parse(body))
    assert refused.value.status == 400
    return refused.value.document


FULL = {
    "TaskId": "a-b_c.7",
    "Timestamp": "yesterday",
    "Status": "ünder way",
    "BackendStatus": "running",
    "Endpoint": "https://models.example.org/v1/org",
    "Body": '{"a": 1}',
    "PublishToGrid": True,
    "Attempt": 2,
}
PARSED = TaskUpsert.model_construct(
    task_id="a-b_c.7",
    status="ünder way".encode(),
    backend_status="running",
    endpoint="https://models.example.org/v1/org",
    body=b'{"a": 1}',
    publish_to_grid=True,
    attempt=2,
)


@pytest.mark.parametrize(
    "spell", [str, str.lower, str.upper, str.swapcase], ids=["as is", "lower", "upper", "swapped"]
)
@pytest.mark.parametrize("wrap", [lambda task: task, lambda task: [task], lambda task: [task, {"TaskId": "8"}, 5]])
def test_an_object_or_the_first_of_an_array_is_read_with_names_in_any_case(spell: Any, wrap: Any) -> None:
    assert parse(wrap({spell(name): value for name, value in FULL.items()})) == PARSED


def test_a_byte_order_mark_and_blanks_are_ignored() -> None:
    assert asyncio.run(TaskUpsert.parse(b"\xef\xbb\xbf \r\n" + json.dumps(FULL).encode() + b"\n")) == PARSED


def test_an_empty_object_has_the_defaults() -> None:
    nothing = parse({})
    assert nothing.model_dump() == {
        "task_id": None,
        "status": None,
        "backend_status": None,
        "endpoint": None,
        "body": None,
        "publish_to_grid": False,
        "attempt": None,
        "priority": DEFAULT_PRIORITY,
        "progress": None,
    }
    assert nothing.state is None


def test_null_means_absent() -> None:
    assert parse(dict.fromkeys(FULL)) == parse({})


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u00a0"])
def test_a_blank_id_or_endpoint_means_absent(blank: str) -> None:
    assert parse({"TaskId": blank, "Endpoint": blank}) == parse({})


@pytest.mark.parametrize("task_id", ["a", "x" * 128, "A.b-c_9", "...", "0"])
def test_a_caller_may_choose_the_task_id(task_id: str) -> None:
    assert parse({"TaskId": task_id}).task_id == task_id


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (True, True),
        (False, False),
        ("true", True),
        ("TRUE", True),
        (" True ", True),
        ("false", False),
        ("FALSE", False),
        ("", False),
        (None, False),
        (1, True),
        (-0.5, True),
        (0, False),
        (0.0, False),
    ],
)
def test_publish_to_grid_may_come_as_text_or_number(sent: object, meant: bool) -> None:
    assert parse({"PublishToGrid": sent}).publish_to_grid is meant


@pytest.mark.parametrize(("sent", "meant"), [(1, 1), ("1", 1), ("0012", 12), (MAX_ATTEMPT, MAX_ATTEMPT)])
def test_an_attempt_may_come_as_text(sent: object, meant: int) -> None:
    assert parse({"Attempt": sent}).attempt == meant


@pytest.mark.parametrize("state", ["created", "running", "completed", "failed"])
@pytest.mark.parametrize("spell", [str, str.title, str.upper, " {}\n".format])
def test_a_backend_status_is_a_state_in_any_case_and_with_blanks(state: str, spell: Any) -> None:
    assert parse({"BackendStatus": spell(state)}).state == State(state)


WRITTEN = ["0", "-0", "7", "1.50", "1e5", "1E+2", "-0.10", "1e999999", "1" * 4_000, "true", "false"]


@pytest.mark.parametrize("written", WRITTEN, ids=lambda written: written[:9])
@pytest.mark.parametrize("name", ["Status", "Body", "Endpoint"])
@pytest.mark.parametrize("form", ['{"a": 5, "%s": %s}', '[{"%s": %s}, 6]', '\ufeff{"Unknown": 4, "%s": %s}'])
def test_a_number_or_boolean_for_a_text_is_the_text_as_it_is_written(written: str, name: str, form: str) -> None:
    task = asyncio.run(TaskUpsert.parse((form % (name, written)).encode()))
    assert getattr(task, name.lower()) == (written if name == "Endpoint" else written.encode())


@pytest.mark.parametrize("written", ["7", "1.50", "-0", "true", "1" * 128])
def test_a_number_or_boolean_for_an_id_is_the_id_as_it_is_written(written: str) -> None:
    assert asyncio.run(TaskUpsert.parse(f'{{"TaskId": {written}}}'.encode())).task_id == written


def test_an_empty_body_and_status_are_not_absent() -> None:
    empty = parse({"Body": "", "Status": ""})
    assert (empty.body, empty.status) == (b"", b"")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("TaskId", "x" * 129),
        ("TaskId", "a b"),
        ("TaskId", "a/b"),
        ("TaskId", "a\n"),
        ("TaskId", "ä"),
        ("TaskId", "{04s}"),
        ("TaskId", 10**128),
        ("TaskId", 1e30),
        ("TaskId", ["a"]),
        ("Status", []),
        ("Status", {}),
        ("BackendStatus", "cancelled"),
        ("BackendStatus", "dispatched"),
        ("BackendStatus", ""),
        ("BackendStatus", 1),
        ("BackendStatus", True),
        ("BackendStatus", ["running"]),
        ("Endpoint", ["https://models.example.org/v1/org"]),
        ("Body", {"a": 1}),
        ("Body", [1]),
        ("PublishToGrid", "yes"),
        ("PublishToGrid", "1"),
        ("PublishToGrid", []),
        ("Priority", -1),
        ("Priority", 10),
        ("Priority", 1.5),
        ("Priority", True),
        ("Priority", "high"),
        ("Priority", "10"),
        ("Priority", ""),
        ("Attempt", 0),
        ("Attempt", -1),
        ("Attempt", 1.5),
        ("Attempt", True),
        ("Attempt", "one"),
        ("Attempt", ""),
        ("Attempt", "0"),
        ("Attempt", "²"),
        ("Attempt", MAX_ATTEMPT + 1),
        ("Attempt", 10**30),
    ],
)
def test_a_wrong_value_is_named(member: str, value: Any) -> None:
    document = refusal(json.dumps({member.lower(): value}).encode())
    assert {error["pointer"] for error in document["errors"]} == {f"/{member}"}
    assert member in document["detail"]


def test_a_wrong_value_is_not_repeated() -> None:
    wrong: dict[str, Any] = dict.fromkeys(("TaskId", "BackendStatus", "PublishToGrid", "Attempt"), "hunter 2")
    wrong |= {"Status": ["hunter 2"], "Endpoint": ["hunter 2"], "Body": {"hunter 2": "hunter 2"}}
    document = refusal(json.dumps(wrong).encode())
    assert {error["pointer"] for error in document["errors"]} == {f"/{member}" for member in wrong}
    assert "hunter" not in json.dumps(document)


@pytest.mark.parametrize(("sent", "meant"), [(0, 0), (9, 9), ("0", 0), ("9", 9)])
def test_a_priority_may_come_as_text(sent: int | str, meant: int) -> None:
    assert parse({"Priority": sent}).priority == meant
    assert parse({}).priority == DEFAULT_PRIORITY


def test_all_errors_are_reported_at_once() -> None:
    document = refusal(b'{"Status": [5], "BackendStatus": "done", "Attempt": 0}')
    assert [error["pointer"] for error in document["errors"]] == ["/Status", "/BackendStatus", "/Attempt"]


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"null", b"5", b'"text"', b"[]", b"[5]", b"[[{}]]", b"{", b"{} {}", b"\xff", b'{"Attempt": NaN}'],
)
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    (error,) = refusal(body)["errors"]
    assert error["pointer"] == ""


def test_a_task_document_begins_with_the_names_of_the_legacy_platform() -> None:
    assert list(TaskView.of(TASK, registry=BACKENDS).document().items()) == [
        ("TaskId", "7"),
        ("Timestamp", "2026-11-22T10:13:44.000000Z"),
        ("Status", "on it"),
        ("BackendStatus", "running"),
        ("Endpoint", "https://models.example.org/base/v1/org/api?a=1"),
        ("Body", None),
        ("PublishToGrid", True),
        ("EndpointPath", "/v1/org/api"),
        ("Attempt", 3),
        ("CreatedAt", "2026-11-22T10:12:44.123000Z"),
        ("ResultContentType", None),
        ("ResultSize", None),
        ("Priority", 7),
        ("LeaseSeconds", 90.0),
        ("Progress", None),
    ]


def test_a_waiting_tasks_document_has_its_position_and_its_estimated_start_if_known() -> None:
    document = TaskView.of(TASK, QueuePosition(ahead=0, slots=2, service_s=None)).document()
    assert document["QueuePosition"] == 1
    assert "EstimatedStart" not in document

    before_ms = time.time() * 1000
    document = TaskView.of(TASK, QueuePosition(ahead=5, slots=2, service_s=10)).document()
    after_ms = time.time() * 1000
    assert document["QueuePosition"] == 6
    start_ms = datetime.fromisoformat(document["EstimatedStart"]).timestamp() * 1000
    assert before_ms - 1 <= start_ms - 30_000 <= after_ms + 1, "six tasks of 10 s each have to end, two at a time"


@pytest.mark.parametrize("state", State)
def test_legacy_clients_see_no_state_between_created_and_running(state: State) -> None:
    status = TaskView.of(_with(state=state)).backend_status
    assert status == ("created" if state is State.DISPATCHED else state.value)


def test_a_result_is_described_by_type_and_size() -> None:
    view = TaskView.of(_with(result=Content("image/tiff", 5_000_000, "t-7/x")))
    assert (view.result_content_type, view.result_size) == ("image/tiff", 5_000_000)
    assert "t-7/x" not in json.dumps(view.document())


def test_a_task_is_shown_even_if_its_backend_was_removed_from_the_registry() -> None:
    assert TaskView.of(_with(path="/v9/gone"), registry=BACKENDS).endpoint == "/v9/gone"


def test_only_legacy_clients_see_the_url_of_the_model_service() -> None:
    assert TaskView.of(TASK).endpoint == "/v1/org/api"


@pytest.mark.parametrize("member", TaskUpsert.model_fields)
@pytest.mark.parametrize("value", [["x"], {}, "x" * 200, 1.5, -1, 10**12, True])
def test_errors_are_written_for_people(member: str, value: Any) -> None:
    name = TaskUpsert.model_fields[member].alias
    try:
        parse({name: value})
    except Problem as problem:
        (error,) = problem.document["errors"]
        assert error["pointer"] == f"/{name}"
        assert error["detail"].endswith((" is expected", " are expected", " are allowed", " are taken"))


@pytest.mark.parametrize(
    ("body", "details"),
    [
        (b'{"Pause": true}', ["there is no such member; did you mean Paused?"]),
        (b'{"limits": 3}', ["there is no such member; did you mean Limit?"]),
        (b'{"Slots": 3}', ["there is no such member; this request takes Paused, Draining, Limit, Rate, Burst"]),
        (b'{"Paused": 1, "Limit": 0}', ["true or false is expected", "at least 1 is expected"]),
        (b'{"Limit": 1000001}', ["at most 1000000 is expected"]),
        (b'{"Limit": "3"}', ["a whole number is expected"]),
    ],
)
def test_a_wrong_queue_setting_is_told_in_words_for_people(body: bytes, details: list[str]) -> None:
    with pytest.raises(Problem) as refused:
        asyncio.run(QueueSettings.parse(body))
    assert [error["detail"] for error in refused.value.document["errors"]] == details


def test_an_endless_name_is_not_repeated_in_full() -> None:
    with pytest.raises(Problem) as refused:
        asyncio.run(QueueSettings.parse(json.dumps({"x" * 50_000: 1}).encode()))
    assert len(json.dumps(refused.value.document)) < 1_000


@pytest.mark.parametrize("body", [b'{"paused": true, "LIMIT": 3}', b'\xef\xbb\xbf{"Paused":true,"limit":3}'])
def test_names_of_queue_settings_match_in_any_case(body: bytes) -> None:
    assert asyncio.run(QueueSettings.parse(body)).changes == {"paused": True, "limit": 3}


def test_queue_settings_may_be_null() -> None:
    settings = asyncio.run(QueueSettings.parse(b'{"Paused": null, "Draining": null, "Limit": null}'))
    assert settings.changes == {"paused": None, "draining": None, "limit": None}


@pytest.mark.parametrize("state", State)
def test_the_history_shows_every_state(state: State) -> None:
    entry = HistoryEntry.of(Event(1_795_342_364_001, state, 2, "dispatcher", "status", "/v1/a", Reason.ANSWER))
    history = TaskHistory(task_id="7", events=[entry]).model_dump(by_alias=True)
    assert history == {
        "TaskId": "7",
        "Events": [
            {
                "Timestamp": "2026-11-22T10:12:44.001000Z",
                "State": state.value,
                "Status": "status",
                "Attempt": 2,
                "Who": "dispatcher",
                "EndpointPath": "/v1/a",
                "Reason": "answer",
            }
        ],
    }


@pytest.mark.parametrize(
    ("moment_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.001000Z"),
        (1_795_342_364_999, "2026-11-22T10:12:44.999000Z"),
        (4_102_444_799_999, "2099-12-31T23:59:59.999000Z"),
    ],
)
def test_times_are_iso_8601_utc_to_the_millisecond(moment_ms: int, text: str) -> None:
    assert iso(moment_ms) == text


def _with(**changes: Any) -> Task:
    return replace(TASK, **changes)
