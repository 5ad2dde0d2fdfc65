"""CurrentProcessingUpsert (contract A3) counts requests in flight, CurrentProcessingGet (A4) answers the count."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.contract.legacy_support import NOT_AN_OBJECT, REPORT, REPORTED, assert_problem
from tests.waiting import eventually

WRONG: dict[str, list[Any]] = {
    "ApiPath": [[], {}, ["/v1"], "x" * 10_000, 10**300],
    "ServiceCluster": [[], {}, ["east"], "x" * 10_000, 10**300],
    "IncrementBy": ["one", "", "1.0", "1e2", "\u0661", 1.5, [], {}, 2**53 + 1, 2**63, 2**64, 10**40, -(10**40)],
    "DecrementBy": ["one", "", "1.0", "1e2", "1" * 5_000, 1.5, [], {}, 2**53 + 1, 2**63, 2**64, 10**40],
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.fixture
def path() -> str:
    return f"/v1/org/{uuid.uuid4().hex}"


def report(app: httpx.Client, path: str, cluster: str = "eastus", **change: int) -> None:
    body = {"ApiPath": path, "ServiceCluster": cluster, **change}
    response = app.post(REPORT, json=body)
    assert response.status_code == 200, response.text
    assert response.content == b""


def count(app: httpx.Client, path: str, cluster: str = "eastus", method: str = "GET") -> str | None:
    response = app.request(method, REPORTED, params={"cluster": cluster, "path": path})
    if response.status_code == 204:
        assert response.content == b""
        return None
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].partition(";")[0] == "text/plain"
    return response.text


@pytest.mark.contract("A3.1")
def test_increments_and_decrements_add_up(app: httpx.Client, path: str) -> None:
    report(app, path, IncrementBy=1)
    report(app, path, IncrementBy=1, DecrementBy=0)
    report(app, path, IncrementBy=5, DecrementBy=2)
    report(app, path, DecrementBy=1)
    assert count(app, path) == "4"


@pytest.mark.contract("A3.1")
def test_missing_increment_and_decrement_count_as_0(app: httpx.Client, path: str) -> None:
    report(app, path, IncrementBy=3)
    report(app, path)
    assert count(app, path) == "3"


@pytest.mark.contract("A3.2")
def test_array_of_one_report_is_accepted(app: httpx.Client, path: str) -> None:
    body = [{"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": 2, "DecrementBy": 0}]
    assert app.post(REPORT, json=body).status_code == 200
    assert count(app, path) == "2"


@pytest.mark.contract("A3.2")
def test_report_keys_match_in_any_case_and_unknown_ones_are_ignored(app: httpx.Client, path: str) -> None:
    body = {"apipath": path, "SERVICECLUSTER": "eastus", "incrementBy": 2, "Extra": {"a": [1]}}
    assert app.post(REPORT, json=body).status_code == 200
    assert count(app, path) == "2"


@pytest.mark.contract("A3.2")
def test_byte_order_mark_before_a_report_is_skipped(app: httpx.Client, path: str) -> None:
    body = json.dumps({"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": 1}).encode()
    assert app.post(REPORT, content=b"\xef\xbb\xbf" + body).status_code == 200
    assert count(app, path) == "1"


@pytest.mark.contract("A3.3")
def test_clusters_and_paths_are_counted_apart(app: httpx.Client, path: str) -> None:
    report(app, path, "eastus", IncrementBy=1)
    report(app, path, "westus", IncrementBy=2)
    report(app, path + "/more", "eastus", IncrementBy=3)
    assert [count(app, path), count(app, path, "westus"), count(app, path + "/more")] == ["1", "2", "3"]


@pytest.mark.contract("A3.3")
def test_blanks_in_names_do_not_mix_up_two_counters(app: httpx.Client, path: str) -> None:
    report(app, f"{path} /b", "a", IncrementBy=1)
    assert count(app, "/b", f"a {path}") is None
    report(app, "/b", f"a {path}", IncrementBy=5)
    assert count(app, f"{path} /b", "a") == "1"


@pytest.mark.contract("A3.3")
@pytest.mark.parametrize(
    "cluster",
    ["größe", "\U0001f418", "\u202ekcart", "a\r\nX-Injected: yes", "a\0b", "{04s}", "a&b=c", "../..", "x" * 256],
    ids=lambda cluster: ascii(cluster)[:30],
)
def test_cluster_may_have_any_name(app: httpx.Client, path: str, cluster: str) -> None:
    report(app, path, cluster, IncrementBy=7)
    assert count(app, path, cluster) == "7"


@pytest.mark.contract("A3.8")
@pytest.mark.parametrize("sent", ["3", " +3 ", "003", 3.0, "3e0"], ids=repr)
def test_increment_may_come_in_any_form_of_a_whole_number(app: httpx.Client, path: str, sent: Any) -> None:
    number = sent if sent == "3e0" else json.dumps(sent)
    body = f'{{"ApiPath": "{path}", "ServiceCluster": "eastus", "IncrementBy": {number}, "DecrementBy": true}}'
    assert app.post(REPORT, content=body).status_code == 200
    assert count(app, path) == "2"


@pytest.mark.contract("A3.8")
def test_null_increment_is_0(app: httpx.Client, path: str) -> None:
    body = {"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": None, "DecrementBy": None}
    assert app.post(REPORT, json=body).status_code == 200
    assert count(app, path) == "0"


@pytest.mark.contract("A3.8")
@pytest.mark.parametrize(("written", "cluster"), [("7", "7"), ("1.50", "1.50"), ("true", "true"), ("null", "")])
def test_cluster_may_be_a_number_a_boolean_or_null(app: httpx.Client, path: str, written: str, cluster: str) -> None:
    body = f'[{{"ApiPath": "{path}", "ServiceCluster": {written}, "IncrementBy": 3}}]'
    assert app.post(REPORT, content=body).status_code == 200
    assert count(app, path, cluster) == "3"


@pytest.mark.contract("A3.8", "A4.1")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_cluster_may_be_empty(app: httpx.Client, path: str, method: str) -> None:
    report(app, path, "", IncrementBy=4)
    assert count(app, path, "", method=method) == "4"
    assert count(app, path) is None


@pytest.mark.contract("A3.8", "A4.1")
@pytest.mark.parametrize("empty", [None, "", "/"])
def test_path_may_be_empty(app: httpx.Client, path: str, empty: str | None) -> None:
    cluster = f"{path} {empty}"
    assert app.post(REPORT, json={"ApiPath": empty, "ServiceCluster": cluster, "IncrementBy": 2}).status_code == 200
    assert count(app, "", cluster) == count(app, "/", cluster) == "2"


@pytest.mark.contract("A3.4")
def test_counter_never_shows_less_than_0(app: httpx.Client, path: str) -> None:
    report(app, path, DecrementBy=3)
    assert count(app, path) == "0"
    other = path + "/other"
    report(app, other, IncrementBy=1)
    report(app, other, DecrementBy=2)
    assert count(app, other) == "0"


@pytest.mark.contract("A3.1")
def test_concurrent_reports_are_all_counted(app: httpx.Client, path: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(report, app, path, IncrementBy=2, DecrementBy=1) for _ in range(40)]:
            done.result()
    assert count(app, path) == "40"


@pytest.mark.contract("A4.1")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_get_and_post_both_answer_the_count(app: httpx.Client, path: str, method: str) -> None:
    assert count(app, path, method=method) is None
    report(app, path, IncrementBy=3)
    assert count(app, path, method=method) == "3"


@pytest.mark.contract("A4.2")
@pytest.mark.parametrize("reported", [True, False], ids=["reported with its slash", "reported without"])
@pytest.mark.parametrize("asked", [True, False], ids=["asked with it", "asked without"])
def test_slashes_around_the_path_do_not_matter(app: httpx.Client, path: str, reported: bool, asked: bool) -> None:
    bare, slashed = path.removeprefix("/"), path + "/"
    report(app, slashed if reported else bare, IncrementBy=3)
    assert count(app, slashed if asked else bare) == count(app, path) == "3"


@pytest.mark.contract("A4.3")
def test_never_counted_is_204_and_counted_down_is_0(app: httpx.Client, path: str) -> None:
    assert count(app, path) is None
    report(app, path, IncrementBy=1)
    report(app, path, DecrementBy=1)
    assert count(app, path) == "0"


@pytest.mark.contract("A4.4")
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("params", "missing"),
    [
        ({}, "cluster"),
        ({"path": "/v1/a"}, "cluster"),
        ({"cluster": "a"}, "path"),
        ({"cluster": ""}, "path"),
    ],
    ids=str,
)
def test_count_without_cluster_or_path_is_refused(
    app: httpx.Client, method: str, params: dict[str, str], missing: str
) -> None:
    assert_problem(app.request(method, REPORTED, params=params), 400, missing)


@pytest.mark.contract("A3.50")
def test_instances_of_a_counter_are_bounded(app: httpx.Client, path: str) -> None:
    def report(names: range) -> httpx.Response:
        body = {"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": 1}
        return app.post(REPORT, json=[{**body, "Instance": f"pod-{number}"} for number in names])

    assert report(range(1_000)).status_code == 200
    refused = report(range(1_000, 1_001))
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:task-backbone:problem:too-many-reporters")
    assert report(range(1)).status_code == 200
    assert app.post(REPORT, json={"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": 1}).status_code == 200
    assert count(app, path) == "1002"


@pytest.mark.contract("A3.5", "A3.50")
def test_of_an_array_with_an_instance_too_many_none_is_counted(app: httpx.Client, path: str) -> None:
    crowded, others = {"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": 1}, range(20)
    pods = [{**crowded, "Instance": f"pod-{number}"} for number in range(1_001)]
    assert app.post(REPORT, json=pods[:1_000]).status_code == 200
    reports = [{**crowded, "ApiPath": f"{path}/{number}"} for number in others]
    refused = app.post(REPORT, json=[*reports[:10], pods[0], pods[1_000], *reports[10:]])
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:task-backbone:problem:too-many-reporters")
    assert count(app, path) == "1000"
    assert {count(app, f"{path}/{number}") for number in others} == {None}
    assert app.post(REPORT, json=[*reports, pods[0]]).status_code == 200
    assert count(app, path) == "1001"
    assert {count(app, f"{path}/{number}") for number in others} == {"1"}


@pytest.mark.contract("A3.7")
@pytest.mark.parametrize("content", NOT_AN_OBJECT.values(), ids=NOT_AN_OBJECT)
def test_report_without_a_json_object_is_refused(app: httpx.Client, content: bytes) -> None:
    assert_problem(app.post(REPORT, content=content), 400, "/0" if content == b"[1, 2]" else "")


@pytest.mark.contract("A3.5")
def test_one_call_may_report_several_endpoints(app: httpx.Client, path: str) -> None:
    reports = [
        {"ApiPath": f"{path}/{number}", "ServiceCluster": "eastus", "IncrementBy": number} for number in range(1, 6)
    ]
    assert app.post(REPORT, json=reports).status_code == 200
    assert [count(app, f"{path}/{number}") for number in range(1, 6)] == ["1", "2", "3", "4", "5"]


@pytest.mark.contract("A3.5")
def test_one_bad_report_of_several_means_none_is_counted(app: httpx.Client, path: str) -> None:
    good = {"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": 1}
    assert_problem(app.post(REPORT, json=[good, good | {"IncrementBy": "x"}, good]), 400, "/1/IncrementBy")
    assert count(app, path) is None


@pytest.mark.contract("A3.5")
def test_more_than_1000_reports_in_one_call_are_refused(app: httpx.Client, path: str) -> None:
    good = {"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": 1}
    assert_problem(app.post(REPORT, json=[good] * 1_001), 400, "")
    assert count(app, path) is None


@pytest.mark.contract("A3.6")
def test_shares_of_named_and_unnamed_reporters_add_up(app: httpx.Client, path: str) -> None:
    report(app, path, IncrementBy=2)
    assert (
        app.post(
            REPORT,
            json=[
                {
                    "ApiPath": path,
                    "ServiceCluster": "eastus",
                    "IncrementBy": 3,
                    "Instance": pod,
                    "IntervalSeconds": 60,
                }
                for pod in ("pod-1", "pod-2")
            ],
        ).status_code
        == 200
    )
    assert count(app, path) == "8"


@pytest.mark.contract("A3.6")
def test_share_of_a_silent_instance_is_dropped(app: httpx.Client, path: str) -> None:
    report(app, path, IncrementBy=1)
    pod = {"ApiPath": path, "ServiceCluster": "eastus", "Instance": "pod"}
    assert app.post(REPORT, json={**pod, "IncrementBy": 5, "IntervalSeconds": 3600}).status_code == 200
    assert count(app, path) == "6"
    assert app.post(REPORT, json={**pod, "IntervalSeconds": 1}).status_code == 200
    eventually(lambda: count(app, path) == "1")


@pytest.mark.contract("A3.49")
def test_null_for_what_may_be_absent_is_as_if_it_were(app: httpx.Client, path: str) -> None:
    body = {"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": 3, "Instance": None, "IntervalSeconds": None}
    assert app.post(REPORT, json=body).status_code == 200
    assert count(app, path) == "3"


@pytest.mark.contract("A3.7")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Instance", ""),
        ("Instance", "x" * 129),
        *(("IntervalSeconds", v) for v in (0, -1, "x", 1e9)),
    ],
)
def test_bad_instance_or_interval_is_refused(app: httpx.Client, path: str, name: str, value: Any) -> None:
    body = {"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": 1, name: value}
    assert_problem(app.post(REPORT, json=body), 400, f"/{name}")
    assert count(app, path) is None


@pytest.mark.contract("A3.7")
@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}={ascii(value)[:25]}" for name, value in CASES])
def test_report_with_bad_value_names_the_key_and_counts_nothing(
    app: httpx.Client, path: str, name: str, value: Any
) -> None:
    body = {"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": 1, name: value}
    assert_problem(app.post(REPORT, content=json.dumps(body)), 400, f"/{name}")
    assert count(app, path) is None


@pytest.mark.contract("A3.7")
@pytest.mark.parametrize("number", ["1e999999", "-1e999999", "1e-2", "1.5"])
@pytest.mark.parametrize("name", ["IncrementBy", "DecrementBy"])
def test_increment_that_is_not_an_integer_is_refused(app: httpx.Client, path: str, name: str, number: str) -> None:
    body = f'{{"ApiPath": "{path}", "ServiceCluster": "eastus", "{name}": {number}}}'
    assert_problem(app.post(REPORT, content=body), 400, f"/{name}")


@pytest.mark.contract("A3.7")
@pytest.mark.parametrize("name", ["ApiPath", "ServiceCluster"])
def test_report_without_path_or_cluster_is_refused(app: httpx.Client, path: str, name: str) -> None:
    body = {"ApiPath": path, "ServiceCluster": "eastus", "IncrementBy": 1}
    del body[name]
    assert_problem(app.post(REPORT, json=body), 400, f"/{name}")
    assert_problem(app.post(REPORT, json={}), 400, "/ApiPath", "/ServiceCluster")
