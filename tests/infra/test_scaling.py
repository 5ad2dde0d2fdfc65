"""Whether the chart's ScaledObject scales a model service as it must: asked of the running stack, over a load curve.

The replicas are computed as KEDA and Kubernetes do (`keda.py`), in a time of their own. The backbone, its queue and
what it dispatches are real. Kubernetes takes away the busiest replica first here: it does not know which one is.

Not known by this: how long a cluster takes to start a replica, and what other autoscalers do to its nodes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest

from local.azurite import Azurite
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.infra.chart import example, merged, of_kind, render
from tests.infra.keda import SYNC_S, Autoscaler, Failing, read_by_http
from tests.scripted_backend import Answer, Call, ScriptedBackend
from tests.waiting import eventually

STEP_S = 5
STARTUP_S = 40
"""From a new replica to a ready one."""


@dataclass
class Held:
    """A task that a replica works on."""

    task_id: str
    attempt: int
    path: str
    ends_s: float
    is_reported: bool = False


@dataclass
class Replica:
    ready_s: float
    stopped_s: float | None = None
    tasks: list[Held] = field(default_factory=list)


@dataclass
class Moment:
    at_s: float
    replicas: int
    demand: int
    running: int


class Cluster:
    """A model service on the replicas that an autoscaler asks for.

    Parameters:
        resources: what the chart rendered.
        durations_s: how long a task takes, by path.
    """

    def __init__(
        self,
        stack: Stack,
        backend: ScriptedBackend,
        resources: list[dict[str, Any]],
        durations_s: dict[str, float],
        secrets: dict[str, str] | None = None,
    ) -> None:
        self.scaled_object = of_kind(resources, "ScaledObject")
        self._authentication = of_kind(resources, "TriggerAuthentication")
        pod = of_kind(resources, "Deployment")["spec"]["template"]["spec"]
        environment = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        self.drain_s = float(environment["SERVICE_DRAIN_S"])
        self.slots = int(self.scaled_object["spec"]["triggers"][0]["metadata"]["targetValue"])
        self._secrets = {"task-backbone/scaler-key": stack.key, "scaler-key": stack.key} | (secrets or {})
        self.autoscaler = Autoscaler(self.scaled_object, self._read)
        self._stack = stack
        self._app = stack.client()
        self._durations_s = durations_s
        self._lock = threading.Lock()
        self._replicas: list[Replica] = []
        self.now_s = 0.0
        self.is_away = False
        self.history: list[Moment] = []
        self.lost: list[Held] = []
        self.ended: list[Held] = []
        for path in durations_s:
            backend.react(path, self._take)

    def submit(self, path: str, number: int) -> None:
        for _ in range(number):
            self._app.post(f"/api/v1/submit{path}", content=b"{}").raise_for_status()

    def run(self, until_s: float, load: dict[int, Callable[[], None]] | None = None) -> None:
        """Let time pass, and do at its times what *load* has."""
        while self.now_s < until_s:
            if load and self.now_s in load:
                load[int(self.now_s)]()
            self._end_what_is_due()
            self._stop_what_is_drained()
            if self.now_s % self.autoscaler.polling_s == 0:
                self.autoscaler.poll(self.now_s)
            if self.now_s % SYNC_S == STEP_S:
                self.autoscaler.sync(self.now_s)
            self._follow()
            self._settle()
            self._remember()
            self.now_s += STEP_S

    @property
    def running(self) -> int:
        with self._lock:
            return sum(len(replica.tasks) for replica in self._replicas)

    def _read(self, trigger: dict[str, Any]) -> float:
        return read_by_http(trigger, self._authentication, self._secrets)

    def _demand(self) -> int:
        queues = [self._app.get(f"/api/v1/queues{path}").raise_for_status().json() for path in self._durations_s]
        return sum(queue["Demand"] for queue in queues)

    def _take(self, call: Call) -> Answer:
        """What the gateway of the cluster answers: 503 if no replica is there or has room."""
        with self._lock:
            free = [each for each in self._ready() if len(each.tasks) < self.slots]
            if not free:
                return Answer(503)
            path = call.path.partition("?")[0]
            held = Held(call.task_id, call.attempt, path, self.now_s + self._durations_s[path])
            min(free, key=lambda each: len(each.tasks)).tasks.append(held)
        return Answer(202)

    def _ready(self) -> list[Replica]:
        return [each for each in self._replicas if each.stopped_s is None and each.ready_s <= self.now_s]

    def _end_what_is_due(self) -> None:
        if self.is_away:
            return  # a report would be repeated until the backbone is back
        for replica in self._replicas:
            for held in [each for each in replica.tasks if each.ends_s <= self.now_s]:
                with self._lock:
                    replica.tasks.remove(held)
                self._report(held, "completed")
                self.ended.append(held)

    def _stop_what_is_drained(self) -> None:
        for replica in [each for each in self._replicas if each.stopped_s is not None]:
            over = self.now_s - (replica.stopped_s or 0) >= self.drain_s
            if over and not self.is_away:
                for held in replica.tasks:
                    self._release(held)
            if over:
                self.lost += replica.tasks
            if over or not replica.tasks:
                with self._lock:
                    self._replicas.remove(replica)

    def _follow(self) -> None:
        with self._lock:
            kept = [each for each in self._replicas if each.stopped_s is None]
            for _ in range(self.autoscaler.replicas - len(kept)):
                self._replicas.append(Replica(self.now_s + STARTUP_S))
            for replica in sorted(kept, key=lambda each: -len(each.tasks))[: len(kept) - self.autoscaler.replicas]:
                replica.stopped_s = self.now_s

    def _settle(self) -> None:
        """Wait until the backbone has dispatched what the replicas have room for."""
        if self.is_away:
            return

        def is_settled() -> bool:
            demand = self._demand()
            with self._lock:
                held = [task for replica in self._replicas for task in replica.tasks]
                room = sum(self.slots - len(each.tasks) for each in self._ready())
            for task in held:
                if not task.is_reported:
                    self._report(task, "running")
                    task.is_reported = True
            return room == 0 or demand == len(held)

        eventually(is_settled)

    def _remember(self) -> None:
        demand = -1 if self.is_away else self._demand()
        self.history.append(Moment(self.now_s, self.autoscaler.replicas, demand, self.running))

    def _report(self, held: Held, status: str) -> None:
        report = {"TaskId": held.task_id, "Attempt": held.attempt, "BackendStatus": status, "Status": status}
        self._app.post("/api/CacheConnectorUpsert", json=report).raise_for_status()

    def _release(self, held: Held) -> None:
        headers = {"X-Task-Attempt": str(held.attempt)}
        self._app.post(f"/api/v1/tasks/{held.task_id}/release", json={}, headers=headers).raise_for_status()

    def falls(self) -> list[Moment]:
        """The moments at which there were fewer replicas than before."""
        return [
            later
            for earlier, later in zip(self.history, self.history[1:], strict=False)
            if later.replicas < earlier.replicas
        ]

    def most(self) -> int:
        return max(moment.replicas for moment in self.history)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend) -> Iterator[Stack]:
    with Stack(
        tmp_path_factory.mktemp("scaling"),
        azurite=azurite,
        backends={"/v1/scaled": backend.url},
        with_model=False,
        settings=IN_A_HURRY,
    ) as running:
        yield running


def rendered(stack: Stack, endpoints: list[str], name: str = "python", **scaling: Any) -> list[dict[str, Any]]:
    values = {
        "path": "/v1/scaled",
        "slots": 2,
        "endpoints": endpoints,
        "backbone": {"url": stack.url},
        "scaling": {"maxReplicas": 6, **scaling},
    }
    return render(merged(example(name), values))


def test_replicas_follow_the_tasks_and_go_one_by_one(stack: Stack, backend: ScriptedBackend) -> None:
    """Given tasks shorter than `drain_s`, if replicas go while others are at work, then no task is disturbed."""
    path = "/v1/scaled/by-one"
    cluster = Cluster(stack, backend, rendered(stack, [path], scaleIn="drain"), {path: 100})
    spec = cluster.scaled_object["spec"]
    cluster.run(60)
    assert cluster.most() == 0

    cluster.run(
        1500,
        {
            60: lambda: cluster.submit(path, 1),
            120: lambda: cluster.submit(path, 11),
            # Replicas that a pause of two minutes took away would be missing here.
            400: lambda: cluster.submit(path, 12),
            **{at_s: lambda: cluster.submit(path, 2) for at_s in range(600, 1300, 100)},
        },
    )
    cluster.run(2400)

    assert cluster.lost == []
    assert len(cluster.ended) == 1 + 11 + 12 + 2 * 7
    assert len({held.task_id for held in cluster.ended}) == len(cluster.ended)
    first = next(moment for moment in cluster.history if moment.replicas)
    assert first.at_s - 60 <= spec["pollingInterval"]
    assert cluster.most() == math.ceil(12 / cluster.slots) == 6
    # Down to what two tasks need, and then to nothing.
    assert {moment.replicas for moment in cluster.falls()} >= {1, 0}
    assert all(moment.replicas * cluster.slots >= moment.running for moment in cluster.falls())
    assert min(moment.replicas for moment in cluster.history if 400 <= moment.at_s < 700) == 6
    is_none_when_idle(cluster)


def test_replicas_of_long_tasks_go_together_when_all_are_idle(stack: Stack, backend: ScriptedBackend) -> None:
    """Given tasks longer than `drain_s` and the cooldown, if there are fewer and fewer, then none is disturbed."""
    short, long = "/v1/scaled/short", "/v1/scaled/long"
    cluster = Cluster(stack, backend, rendered(stack, [short, long], scaleIn="idle"), {short: 50, long: 900})
    cluster.run(2400, {0: lambda: (cluster.submit(long, 2), cluster.submit(short, 10))})

    assert cluster.lost == []
    assert len(cluster.ended) == 12
    assert len({held.task_id for held in cluster.ended}) == len(cluster.ended)
    assert cluster.most() == 6  # by both queues together: each alone would ask for five
    assert [moment.replicas for moment in cluster.falls()] == [0]
    is_none_when_idle(cluster)


def is_none_when_idle(cluster: Cluster) -> None:
    spec = cluster.scaled_object["spec"]
    idle_s = max(moment.at_s for moment in cluster.history if moment.demand) + STEP_S
    none_s = cluster.falls()[-1].at_s
    assert cluster.falls()[-1].replicas == 0
    # A look lies before the last task's end, and one after the end of the cooldown.
    assert spec["cooldownPeriod"] - spec["pollingInterval"] <= none_s - idle_s
    assert none_s - idle_s <= spec["cooldownPeriod"] + spec["pollingInterval"]
    assert cluster.history[-1].replicas == 0


def test_an_outage_of_the_backbone_takes_no_replica_away(stack: Stack, backend: ScriptedBackend) -> None:
    path, other = "/v1/scaled/outage", "/v1/scaled/outage-too"  # together, by a formula
    cluster = Cluster(stack, backend, rendered(stack, [path, other], scaleIn="drain"), {path: 1500, other: 1500})
    cluster.run(200, {0: lambda: (cluster.submit(path, 4), cluster.submit(other, 2))})
    assert cluster.autoscaler.replicas == 3

    stack.host.stop()
    cluster.is_away = True
    try:
        cluster.run(1400)  # four times the cooldown
    finally:
        stack.host.start()
    cluster.is_away = False
    eventually(lambda: stack.client().get("/api/v1/health").status_code == 200)
    assert {moment.replicas for moment in cluster.history if moment.at_s >= 200} == {3}
    cluster.run(2200)

    assert cluster.lost == []
    assert len(cluster.ended) == 6
    is_none_when_idle(cluster)


def test_a_key_that_the_app_refuses_wakes_nothing(stack: Stack, backend: ScriptedBackend) -> None:
    path = "/v1/scaled/refused"
    resources = rendered(stack, [path])
    cluster = Cluster(stack, backend, resources, {path: 50}, secrets={"scaler-key": "another"})
    cluster.run(120, {0: lambda: cluster.submit(path, 1)})
    assert cluster.most() == 0
    with_the_key = Cluster(stack, backend, resources, {path: 50})
    with_the_key.run(600)
    assert len(with_the_key.ended) == 1


def test_a_queue_without_a_task_has_a_number_too(stack: Stack) -> None:
    resources = rendered(stack, ["/v1/scaled/never-called"])
    [trigger] = of_kind(resources, "ScaledObject")["spec"]["triggers"]
    secrets = {"scaler-key": stack.key}
    assert read_by_http(trigger, of_kind(resources, "TriggerAuthentication"), secrets) == 0
    trigger["metadata"]["valueLocation"] = "Demanded"
    with pytest.raises(Failing, match="Demanded is None"):
        read_by_http(trigger, of_kind(resources, "TriggerAuthentication"), secrets)


def other_location(spec: dict[str, Any]) -> None:
    spec["triggers"][0]["metadata"]["valueLocation"] = "Waiting"


def removed_while_at_work(spec: dict[str, Any]) -> None:
    spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"] = {"stabilizationWindowSeconds": 60}


@pytest.mark.parametrize("change", [other_location, removed_while_at_work])
def test_the_judge_sees_a_task_that_is_scaled_away(
    stack: Stack, backend: ScriptedBackend, change: Callable[[dict[str, Any]], None]
) -> None:
    """A queue's `Waiting` is 0 while its tasks run; and a replica of a long task may go before it ends."""
    path = f"/v1/scaled/{change.__name__.replace('_', '-')}"
    resources = deepcopy(rendered(stack, [path], scaleIn="idle"))
    change(of_kind(resources, "ScaledObject")["spec"])
    durations = iter([600.0] + [50.0] * 3)
    cluster = Cluster(stack, backend, resources, {path: 600})
    original = cluster._take

    def take(call: Call) -> Answer:
        answer = original(call)
        if answer.status == 202:
            with cluster._lock:
                [held] = [task for each in cluster._replicas for task in each.tasks if task.task_id == call.task_id]
                held.ends_s = cluster.now_s + next(durations, 600.0)
        return answer

    backend.react(path, take)
    cluster.run(700, {0: lambda: cluster.submit(path, 4)})
    assert cluster.lost


def scaled(**spec: Any) -> dict[str, Any]:
    trigger = {"name": "queue_0", "type": "metrics-api", "metadata": {"targetValue": "2"}}
    return {"spec": {"triggers": [trigger], "maxReplicaCount": 20, "cooldownPeriod": 300, **spec}}


@pytest.mark.parametrize(
    ("demand", "before", "after"),
    [
        (0, 1, 1),  # none is not the autoscaler's to give
        (3, 1, 2),
        (40, 1, 5),  # four more at once
        (40, 6, 12),  # twice as many at once
        (60, 18, 20),
        (21, 10, 10),  # near enough
        (23, 10, 12),
    ],
)
def test_the_autoscaler_computes_as_kubernetes_does(demand: float, before: int, after: int) -> None:
    autoscaler = Autoscaler(scaled(), lambda _: demand, replicas=before)
    autoscaler.sync(0)
    assert autoscaler.replicas == after


def test_the_autoscaler_takes_away_what_was_too_much_for_the_whole_window() -> None:
    demand = 20.0
    autoscaler = Autoscaler(scaled(), lambda _: demand, replicas=10)
    autoscaler.sync(0)
    demand = 4.0
    for at_s in range(SYNC_S, 300, SYNC_S):
        autoscaler.sync(at_s)
        assert autoscaler.replicas == 10
    autoscaler.sync(300)
    assert autoscaler.replicas == 2


@pytest.mark.parametrize(
    ("fallback", "after_the_outage"),
    [
        ({"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicasIfHigher"}, 6),
        ({"failureThreshold": 3, "replicas": 2}, 2),  # static: takes four away
        ({"failureThreshold": 3, "replicas": 0}, 0),  # KEDA takes an error for idle
        (None, 6),
    ],
    ids=str,
)
def test_the_autoscaler_falls_back_as_keda_does(fallback: dict[str, Any] | None, after_the_outage: int) -> None:
    is_away = False

    def read(_: dict[str, Any]) -> float:
        if is_away:
            raise Failing
        return 12

    autoscaler = Autoscaler(scaled(**({"fallback": fallback} if fallback else {})), read, replicas=6)
    autoscaler.poll(0)
    autoscaler.sync(5)
    is_away = True
    for at_s in range(15, 1500, 15):
        autoscaler.poll(at_s)
        autoscaler.sync(at_s + 5)
    assert autoscaler.replicas == after_the_outage
