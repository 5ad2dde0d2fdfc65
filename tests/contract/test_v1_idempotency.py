"""The Idempotency-Key of a submit (contract B1): repeating a submit is safe."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from local.azurite import Azurite
from local.stack import Stack
from tests.contract.v1_support import (
    assert_problem,
    blob_sizes,
    complete_on_call,
    ended,
    new_path,
    pattern_bytes,
    submit,
    task_of,
)
from tests.scripted_backend import ScriptedBackend


@pytest.mark.contract("B1.16")
def test_same_key_and_body_give_the_same_task(app: httpx.Client, backend: ScriptedBackend, stack: Stack) -> None:
    path = new_path()
    first = submit(app, path, b"body", idempotency_key="order-7")
    again = submit(app, path, b"body", idempotency_key="order-7")
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["TaskId"] == first.json()["TaskId"]
    assert again.headers["location"] == first.headers["location"]


@pytest.mark.contract("B1.16")
def test_same_key_after_the_end_gives_the_finished_task_and_starts_nothing(
    app: httpx.Client, backend: ScriptedBackend, stack: Stack
) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    task_id = submit(app, path, b"body", idempotency_key="k").json()["TaskId"]
    ended(app, task_id)
    backend.next_call(path)
    again = submit(app, path, b"body", idempotency_key="k", prefer="wait=30")
    assert again.status_code == 200
    assert again.json()["TaskId"] == task_id
    assert again.json()["BackendStatus"] == "completed"
    assert backend.untaken(path) == 0


@pytest.mark.contract("B1.17")
def test_same_key_with_another_body_is_422_and_changes_nothing(app: httpx.Client) -> None:
    path = new_path()
    first = submit(app, path, b"body", idempotency_key="k")
    refused = submit(app, path, b"another body", idempotency_key="k")
    document = assert_problem(refused, 422, "idempotency-key-reused")
    assert document["TaskId"] == first.json()["TaskId"]
    again = submit(app, path, b"body", idempotency_key="k")
    assert again.json()["TaskId"] == first.json()["TaskId"]


@pytest.mark.contract("B1.18")
def test_same_key_at_another_endpoint_is_another_task(app: httpx.Client) -> None:
    tasks = {submit(app, new_path(), b"body", idempotency_key="k").json()["TaskId"] for _ in range(2)}
    assert len(tasks) == 2


@pytest.mark.contract("B1.18")
def test_every_submit_without_a_key_is_a_new_task(app: httpx.Client) -> None:
    path = new_path()
    assert len({submit(app, path, b"body").json()["TaskId"] for _ in range(3)}) == 3


@pytest.mark.contract("B1.19")
@pytest.mark.parametrize("size_bytes", [100, 100_000])
def test_twenty_concurrent_submits_with_one_key_make_one_task(
    size_bytes: int, app: httpx.Client, backend: ScriptedBackend, stack: Stack, azurite: Azurite
) -> None:
    path, body = new_path(), pattern_bytes(size_bytes)
    complete_on_call(stack, backend, path)
    with ThreadPoolExecutor(20) as crowd:
        responses = list(crowd.map(lambda _: submit(app, path, body, idempotency_key="one"), range(20)))
    assert {response.status_code for response in responses} == {202}
    (task_id,) = {response.json()["TaskId"] for response in responses}
    assert ended(app, task_id)["Attempt"] == 1
    assert backend.next_call(path).body == body
    assert backend.untaken(path) == 0
    queue = app.get(f"/api/v1/queues{path}").json()
    assert (queue["Completed"], queue["Waiting"], queue["Dispatched"], queue["Running"]) == (1, 0, 0, 0)
    assert blob_sizes(azurite, task_id) == ([size_bytes] if size_bytes == 100_000 else [])


@pytest.mark.contract("B1.19")
def test_one_of_several_concurrent_bodies_with_one_key_wins(
    app: httpx.Client, backend: ScriptedBackend, stack: Stack
) -> None:
    path = new_path()
    complete_on_call(stack, backend, path)
    with ThreadPoolExecutor(10) as crowd:
        responses = list(crowd.map(lambda n: submit(app, path, b"%d" % n, idempotency_key="one"), range(10)))
    winner = next(n for n, response in enumerate(responses) if response.status_code == 202)
    assert sorted(response.status_code for response in responses) == [202] + [422] * 9
    ended(app, responses[winner].json()["TaskId"])
    assert backend.next_call(path).body == b"%d" % winner
    assert backend.untaken(path) == 0


@pytest.mark.contract("B1.16")
def test_longest_key_is_accepted(app: httpx.Client) -> None:
    key = "".join(chr(32 + n % 95) for n in range(1, 254)) + "~"
    task_id = submit(app, new_path(), b"body", idempotency_key=key).json()["TaskId"]
    assert task_of(app, task_id)["TaskId"] == task_id
