"""CacheConnectorUpsert (contract A1): a bad request changes nothing, and the answer names what is wrong."""

import json
import uuid
from typing import Any

import httpx
import pytest

from tests.contract.legacy_support import (
    NOT_AN_OBJECT,
    UPSERT,
    Endpoint,
    assert_problem,
    depth,
    kept_task,
    new_endpoint,
    outside_urls,
    stored,
    trap,
)
from tests.scripted_backend import ScriptedBackend

WRONG: dict[str, list[Any]] = {
    "TaskId": [
        *([], {}, ["a"], 10**400, 1e30),
        *("a/b", "../../etc/passwd", "..\\..\\windows", "%2e%2e%2f", "a b", "a:b", "{04s}t:a", "a*", "a?b", "a&b=c"),
        *(
            "x" * 129,
            "x" * 10_000,
            "a\0b",
            "\0",
            "a\r\nX-Injected: yes",
            "task\n",
            " task",
            "\u202eksat",
            "größe",
            "\uff41",
        ),
    ],
    "Status": [[], {}, ["running"], {"a": 1}],
    "BackendStatus": [
        *(5, True, [], {}, ["running"], "", " ", "unknown", "cancelled", "dispatched", "deleted", "runn ing"),
        *("running\0", "\u202egninnur", "x" * 10_000, "created;failed"),
    ],
    "Endpoint": [[], {}, ["http://127.0.0.1"]],
    "Body": [[], {}, {"images": []}, ["{}"]],
    "PublishToGrid": [[], {}, [True], "yes", "1", "0", "on", "truetrue", "\0", "x" * 10_000],
    "Attempt": [
        *(0, -1, 1.5, 2.0, True, [], {}, "one", "-1", "+1", "1.0", "", " ", "\u0661", "1\n", "1" * 5_000),
        *(10**9, 2**53 + 1, 2**63, 2**64, 10**40, -(2**63), -(10**40)),
    ],
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


def _label(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 30 else f"{text[:20]}… of {len(text)}"


@pytest.fixture
def endpoint(backend: ScriptedBackend) -> Endpoint:
    return new_endpoint(backend)


@pytest.mark.contract("A1.25")
@pytest.mark.parametrize("content", NOT_AN_OBJECT.values(), ids=NOT_AN_OBJECT)
def test_upsert_without_a_json_object_is_refused(app: httpx.Client, content: bytes) -> None:
    assert_problem(app.post(UPSERT, content=content), 400, "")


@pytest.mark.contract("A1.26")
@pytest.mark.parametrize("content", ["{}", "[{}]", '{"Status":"created"}', '{"unknown": [[[]]]}'])
def test_create_without_endpoint_is_refused(app: httpx.Client, content: str) -> None:
    assert_problem(app.post(UPSERT, content=content), 400, "/Endpoint")


@pytest.mark.contract("A1.26")
def test_update_of_unknown_task_without_endpoint_is_refused(app: httpx.Client) -> None:
    task_id = str(uuid.uuid4())
    response = app.post(UPSERT, json={"TaskId": task_id, "BackendStatus": "running", "Status": "on"})
    assert_problem(response, 400, "/Endpoint")
    assert stored(app, task_id) is None


@pytest.mark.contract("A1.27")
@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}={_label(value)}" for name, value in CASES])
def test_update_with_bad_value_names_the_key_and_changes_nothing(
    app: httpx.Client, endpoint: Endpoint, name: str, value: Any
) -> None:
    task = kept_task(app, endpoint)
    update = {"TaskId": task["TaskId"], "Status": "changed", "BackendStatus": "running"}
    response = app.post(UPSERT, content=json.dumps({**update, name: value}))
    document = assert_problem(response, 400, f"/{name}")
    assert name in document["detail"]
    assert stored(app, task["TaskId"]) == task
    assert depth(app, endpoint) == {"waiting": 1}


@pytest.mark.contract("A1.27")
def test_attempt_that_overflows_every_number_type_is_refused(app: httpx.Client, endpoint: Endpoint) -> None:
    task_id = kept_task(app, endpoint)["TaskId"]
    assert_problem(app.post(UPSERT, content=f'{{"TaskId": "{task_id}", "Attempt": 1e999999}}'), 400, "/Attempt")


@pytest.mark.contract("A1.27")
@pytest.mark.parametrize("name", [name for name in WRONG if name != "Attempt"])
def test_create_with_bad_value_creates_nothing(app: httpx.Client, endpoint: Endpoint, name: str) -> None:
    create = {"Endpoint": endpoint.url, "Body": "{}", "BackendStatus": "created", "PublishToGrid": True}
    assert_problem(app.post(UPSERT, json={**create, name: WRONG[name][0]}), 400, f"/{name}")
    assert_problem(app.post(UPSERT, json=[{**create, name: WRONG[name][0]}]), 400, f"/{name}")
    assert depth(app, endpoint) == {}


@pytest.mark.contract("A1.27")
def test_one_answer_names_every_bad_value(app: httpx.Client) -> None:
    response = app.post(UPSERT, json={"taskid": "a/b", "BACKENDSTATUS": "gone", "Status": [5], "Body": {}})
    assert_problem(response, 400, "/TaskId", "/BackendStatus", "/Status", "/Body")


@pytest.mark.contract("A1.29")
def test_problem_never_repeats_the_input(app: httpx.Client, endpoint: Endpoint) -> None:
    secret = "sig=c2VjcmV0"
    bad = {"Endpoint": f"http://user:{secret}@nowhere.test/", "BackendStatus": secret, "Status": [secret]}
    for content in (json.dumps(bad), json.dumps({"Endpoint": bad["Endpoint"]}), f'{{"Status": "{secret}'):
        assert secret not in app.post(UPSERT, content=content).text


@pytest.mark.contract("A1.28")
def test_endpoint_outside_the_registry_is_refused_and_nothing_is_called(
    app: httpx.Client, backend: ScriptedBackend, endpoint: Endpoint
) -> None:
    accepted: list[str] = []
    registered = backend.url.removeprefix("http://")
    task = kept_task(app, endpoint)
    with trap() as trapped:
        for what, url in outside_urls(registered, trapped, endpoint.path).items():
            task_id = str(uuid.uuid4())
            create = {"TaskId": task_id, "Endpoint": url, "Body": "{}", "PublishToGrid": True}
            report = {"TaskId": task_id, "Endpoint": url, "BackendStatus": "running"}
            step = {**create, "TaskId": task["TaskId"], "BackendStatus": "created"}
            for request in (create, [create], report, step):
                response = app.post(UPSERT, json=request)
                if response.status_code != 400:
                    accepted.append(f"{what}: {response.status_code}")
                else:
                    assert_problem(response, 400, "/Endpoint")
            if stored(app, task_id) is not None:
                accepted.append(f"{what}: created")
    assert accepted == []
    assert stored(app, task["TaskId"]) == task
    assert backend.untaken(endpoint.path) == 0


@pytest.mark.contract("A1.28")
def test_problem_does_not_reveal_the_registry(app: httpx.Client, backend: ScriptedBackend) -> None:
    response = app.post(UPSERT, json={"Endpoint": "http://example.org/v1/test/x"})
    assert_problem(response, 400, "/Endpoint")
    assert backend.url.rpartition(":")[2] not in response.text
    assert "/v1/test" not in response.text


@pytest.mark.contract("A1.25")
def test_forty_megabytes_that_are_not_json_are_refused(app: httpx.Client) -> None:
    assert_problem(app.post(UPSERT, content=b"x" * 40_000_000), 400, "")


@pytest.mark.contract("A1.2")
def test_key_of_a_million_characters_is_ignored(app: httpx.Client, endpoint: Endpoint) -> None:
    response = app.post(UPSERT, json={"x" * 1_000_000: 1, "Endpoint": endpoint.url})
    assert response.status_code == 200


@pytest.mark.contract("A1.2")
def test_ten_thousand_unknown_keys_are_ignored(app: httpx.Client, endpoint: Endpoint) -> None:
    response = app.post(UPSERT, json={**{f"p{number}": number for number in range(10_000)}, "Endpoint": endpoint.url})
    assert response.status_code == 200
