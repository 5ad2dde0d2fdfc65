"""How much of a queue one owner may have (contract B26). No reconciler runs: only reports move tasks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from shared.dispatch.registry import BackendRegistry
from shared.settings import Settings, SettingsError
from tests.contract.test_v1_queues import (
    GATEWAY_KEY,
    NEVER,
    YEAR_S,
    ModelService,
    as_owner,
    configure,
    contents,
    has_dispatched,
    queue,
    submit_all,
    task_id_of,
)
from tests.contract.v1_support import assert_problem, report, submit, task_of
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually

MOST, WAITING, IN_FLIGHT, BACKLOG = 5, 3, 2, 9
"""``MAX_WAITING_PER_OWNER``, the same for one backend, how many tasks it has in flight, and ``MAX_BACKLOG``."""
GREEDY, MODEST = as_owner("greedy"), as_owner("modest")


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("owner-bounds")
    bounds = {"waiting": WAITING, "in_flight": IN_FLIGHT}
    with (
        type(redis_server)(directory / "redis") as redis,
        Stack(
            directory,
            redis=redis,
            azurite=azurite,
            backends={
                "/v1/test": backend.url,
                "/v1/soft": {"url": backend.url, "per_owner": bounds},
                "/v1/hard": {"url": backend.url, "per_owner": {"in_flight": IN_FLIGHT, "hard": True}},
            },
            with_model=False,
            settings={
                "RECONCILER_SCHEDULE": NEVER,
                "RECONCILER_INTERVAL_S": str(YEAR_S),
                "GATEWAY_KEY": GATEWAY_KEY,
                "MAX_BACKLOG": str(BACKLOG),
                "MAX_WAITING_PER_OWNER": str(MOST),
            },
        ) as stack,
        stack.client() as app,
    ):
        eventually(lambda: has_dispatched(app))
        yield stack


@pytest.fixture
def app(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


def path_below(prefix: str) -> str:
    return f"{prefix}/{uuid.uuid4().hex}"


def assert_owner_is_full(response: httpx.Response) -> None:
    assert assert_problem(response, 429, "queue-full")["Full"] == "owner"
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.contract("B26.1")
@pytest.mark.parametrize(("prefix", "most"), [("/v1/test", MOST), ("/v1/soft", WAITING), ("/v1/hard", MOST)])
def test_an_owner_whose_tasks_wait_is_refused_and_others_are_not(
    app: httpx.Client, stack: Stack, prefix: str, most: int
) -> None:
    path = path_below(prefix)
    configure(app, path, Paused=True)
    submit_all(app, path, most, **GREEDY)
    before = contents(stack, path)
    assert_owner_is_full(submit(app, path, **GREEDY))
    assert_owner_is_full(submit(app, path, b"x" * 100_000, **GREEDY))
    assert contents(stack, path) == before, "a submit that was refused left something behind"
    assert task_id_of(submit(app, path, **MODEST))
    assert task_id_of(submit(app, path_below(prefix), **GREEDY)), "only at this endpoint"


@pytest.mark.contract("B26.1")
def test_a_full_owner_is_told_when_it_has_room(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = path_below("/v1/soft")
    service = ModelService(backend, path)
    configure(app, path, Limit=1)
    submit_all(app, path, 1, **GREEDY)
    service.until_working(1)
    submit_all(app, path, WAITING, **GREEDY)
    eventually(lambda: queue(app, path)["OldestWaitingSeconds"] > 1)
    service.finish_next(app)
    service.until_working(1)
    [last] = submit_all(app, path, 1, **GREEDY)
    refused = submit(app, path, **GREEDY)
    assert_owner_is_full(refused)
    first_starts_s = task_of(app, last)["QueuePosition"]
    assert first_starts_s == WAITING
    service.finish_next(app)
    service.until_working(1)
    assert task_id_of(submit(app, path, **GREEDY))


@pytest.mark.contract("B26.2")
def test_all_tasks_without_an_owner_are_one_owners(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = path_below("/v1/test")
    configure(app, path, Paused=True)
    submit_all(app, path, MOST)
    assert_owner_is_full(submit(app, path))
    legacy = {"Endpoint": backend.url + path, "Body": "x", "PublishToGrid": True}
    assert_owner_is_full(app.post("/api/CacheConnectorUpsert", json=legacy))
    assert task_id_of(submit(app, path, **MODEST))


@pytest.mark.contract("B26.3")
def test_an_owner_and_the_queue_may_both_be_full(app: httpx.Client) -> None:
    path = path_below("/v1/test")
    configure(app, path, Paused=True)
    submit_all(app, path, MOST, **GREEDY)
    submit_all(app, path, BACKLOG - MOST, **MODEST)
    assert assert_problem(submit(app, path, **MODEST), 429, "queue-full")["Full"] == "queue"
    assert_owner_is_full(submit(app, path, **GREEDY))


@pytest.mark.contract("B26.4")
def test_what_is_no_new_task_is_never_refused_and_counts(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = path_below("/v1/soft")
    service = ModelService(backend, path)
    [held] = submit_all(app, path, 1, **GREEDY)
    [failed] = submit_all(app, path, 1, **GREEDY)
    service.until_working(2)
    report(app, TaskId=failed, BackendStatus="failed", Status="failed")
    service.forget(failed)
    configure(app, path, Paused=True)
    submit_all(app, path, WAITING, **GREEDY)
    assert_owner_is_full(submit(app, path, **GREEDY))
    app.post(f"/api/v1/tasks/{failed}/replay", headers=GREEDY).raise_for_status()
    report(app, TaskId=held, BackendStatus="created", PublishToGrid=True, Body="again")
    assert queue(app, path)["Waiting"] == WAITING + 2
    app.delete(f"/api/v1/tasks/{held}", headers=GREEDY).raise_for_status()
    app.delete(f"/api/v1/tasks/{failed}", headers=GREEDY).raise_for_status()
    assert_owner_is_full(submit(app, path, **GREEDY))


@pytest.mark.contract("B26.5")
def test_a_full_owner_gets_the_task_of_a_key_that_is_known(app: httpx.Client) -> None:
    path = path_below("/v1/soft")
    configure(app, path, Paused=True)
    first = task_id_of(submit(app, path, b"body", **GREEDY, idempotency_key="k"))
    submit_all(app, path, WAITING - 1, **GREEDY)
    assert_owner_is_full(submit(app, path, **GREEDY))
    assert task_id_of(submit(app, path, b"body", **GREEDY, idempotency_key="k")) == first


@pytest.mark.contract("B26.6")
def test_a_batch_is_no_way_around_the_bound(app: httpx.Client) -> None:
    path = path_below("/v1/soft")
    configure(app, path, Paused=True)
    created = app.post("/api/v1/batches", json={}, headers=GREEDY)
    assert created.status_code == 202, created.text
    batch = created.json()["TaskId"]
    submit_all(app, path, WAITING, **GREEDY, Batch=batch)
    assert_owner_is_full(submit(app, path, **GREEDY, Batch=batch))
    assert task_of_owner(app, batch)["Total"] == WAITING


def task_of_owner(app: httpx.Client, task_id: str) -> dict[str, object]:
    return app.get(f"/api/v1/tasks/{task_id}", headers=GREEDY).raise_for_status().json()


@pytest.mark.contract("B26.11")
def test_an_owner_cannot_pile_up_tasks_that_start_later(app: httpx.Client, stack: Stack) -> None:
    path = path_below("/v1/soft")
    configure(app, path, Paused=True)
    task_id_of(submit(app, path, **GREEDY))
    first, *_ = [task_id_of(submit(app, path, **GREEDY, Start_After="86400")) for _ in range(WAITING - 1)]
    before = contents(stack, path)
    refused = submit(app, path, **GREEDY, Start_After="86400")
    assert_owner_is_full(refused)
    assert refused.json()["detail"] == (
        "As many tasks of this owner wait at this endpoint, or are to start there later, as may. Try again."
    )
    assert contents(stack, path) == before, "a submit that was refused left something behind"
    task_id_of(submit(app, path, **MODEST, Start_After="86400"))
    app.delete(f"/api/v1/tasks/{first}", headers=GREEDY).raise_for_status()
    task_id_of(submit(app, path, **GREEDY, Start_After="86400"))


@pytest.mark.contract("B23.11")
def test_a_queue_takes_no_more_tasks_that_start_later_than_may_wait(app: httpx.Client) -> None:
    path = path_below("/v1/test")
    for number in range(BACKLOG):
        task_id_of(submit(app, path, **as_owner(f"owner{number}"), Start_After="86400"))
    refused = submit(app, path, **GREEDY, Start_After="86400")
    problem = assert_problem(refused, 429, "queue-full")
    assert problem["Full"] == "queue"
    assert problem["detail"] == "As many tasks wait at this endpoint, or are to start there later, as may. Try again."
    assert 86_000 < int(refused.headers["retry-after"]) <= 86_400, "until the first one starts"
    assert task_id_of(submit(app, path, **GREEDY)), "nothing waits there"


@pytest.mark.contract("B26.7")
def test_an_owner_gives_way_to_one_that_has_less_in_flight(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = path_below("/v1/soft")
    service = ModelService(backend, path)
    configure(app, path, Limit=4)
    mine = submit_all(app, path, 4, **GREEDY)
    eventually(lambda: sorted(service.working()) == sorted(mine))
    submit_all(app, path, 2, **GREEDY)
    theirs = submit_all(app, path, 3, **MODEST)
    for _ in range(2):
        service.finish(app, next(task_id for task_id in service.working() if task_id in mine))
        service.until_working(4)
    assert sorted(service.taken[4:]) == sorted(theirs[:2]), "until it has as many"


@pytest.mark.contract("B26.8")
def test_slots_that_nobody_else_wants_are_not_left_idle_unless_the_bound_is_hard(
    app: httpx.Client, backend: ScriptedBackend
) -> None:
    soft, hard = path_below("/v1/soft"), path_below("/v1/hard")
    services = {path: ModelService(backend, path) for path in (soft, hard)}
    for path in services:
        configure(app, path, Limit=4)
        for _ in range(4):
            task_id_of(submit(app, path, **GREEDY))
    services[soft].until_working(4)
    working = services[hard].until_working(IN_FLIGHT)
    assert queue(app, hard)["Waiting"] == 2
    assert task_id_of(submit(app, hard, **MODEST)) in services[hard].until_working(IN_FLIGHT + 1)
    services[hard].finish(app, working[0])
    services[hard].until_working(IN_FLIGHT + 1)
    assert services[hard].most == IN_FLIGHT + 1


@pytest.mark.contract("B26.9")
def test_a_queue_shows_what_one_owner_may_have(app: httpx.Client) -> None:
    assert queue(app, path_below("/v1/soft"))["PerOwner"] == {
        "Waiting": WAITING,
        "InFlight": IN_FLIGHT,
        "Hard": False,
    }
    assert queue(app, path_below("/v1/hard"))["PerOwner"] == {"Waiting": MOST, "InFlight": IN_FLIGHT, "Hard": True}
    assert queue(app, path_below("/v1/test"))["PerOwner"] == {"Waiting": MOST, "InFlight": None, "Hard": False}


@pytest.mark.contract("B26.12")
def test_an_operator_sees_whose_tasks_fill_a_queue(app: httpx.Client, backend: ScriptedBackend) -> None:
    path = path_below("/v1/soft")
    service = ModelService(backend, path)
    configure(app, path, Limit=1)
    submit_all(app, path, 2, **MODEST)
    service.until_working(1)
    submit_all(app, path, WAITING, **GREEDY)
    submit_all(app, path, 1)
    operator = {"X-Gateway-Key": GATEWAY_KEY, "X-Operator": "ada", "X-Operator-Roles": "read"}
    shown = app.get(f"/api/v1/queues{path}", headers=operator).raise_for_status().json()
    assert shown["Owners"] == [
        {"Owner": "greedy", "Waiting": WAITING, "InFlight": 0},
        {"Owner": "modest", "Waiting": 1, "InFlight": 1},
        {"Owner": None, "Waiting": 1, "InFlight": 0},
    ]
    assert shown["PerOwner"]["Waiting"] == WAITING
    assert queue(app, path)["Owners"] is None, "whoever asks is no operator"
    listed = app.get("/api/v1/queues/", headers=operator).raise_for_status().json()["Queues"]
    assert {each["Owners"] for each in listed} == {None}
    assert app.get(f"/api/v1/queues{path}", headers=GREEDY).status_code == 403


@pytest.mark.contract("B26.10")
@pytest.mark.parametrize(
    "per_owner", [{"waiting": 0}, {"in_flight": 0}, {"hard": True}, {"slots": 1}, 3, {"in_flight": "many"}]
)
def test_the_app_does_not_start_with_a_bound_that_is_none(per_owner: object) -> None:
    environment = {
        "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
        "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
        "BACKENDS": json.dumps({"/v1": {"url": "https://models.example.org", "per_owner": per_owner}}),
    }
    with pytest.raises(SettingsError, match="BACKENDS"):
        BackendRegistry(Settings.from_env(environment))
