"""Promise: an acknowledged task survives the sudden death of any one process, at any time."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from local.processes import ChildProcess, free_port
from local.stack import ROOT, Stack
from shared.settings import INLINE_LIMIT_BYTES
from tests.conftest import IN_A_HURRY
from tests.end_to_end.backbone import Backbone
from tests.waiting import eventually

PATH = "/v1/digest"
TASKS = 24
LARGE_EVERY = 6
# Short deadlines recover the work of a killed process soon; many attempts allow for an overloaded machine.
SETTINGS = {**IN_A_HURRY, "MAX_ATTEMPTS": "1000", "DISPATCH_TIMEOUT_S": "5", "REPUBLISH_S": "1", "LEASE_S": "5"}


@pytest.fixture(scope="module")
def stack_and_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, ChildProcess]]:
    """A stack whose parts no other test uses, and a model service that can be killed too."""
    directory = tmp_path_factory.mktemp("stack")
    port = free_port()
    stack = Stack(
        directory,
        settings=SETTINGS,
        backends={PATH: f"http://127.0.0.1:{port}"},
        with_model=False,
        time_scale=30,  # Event Grid's first retry is due after 10 s
    )
    model = ChildProcess(
        "the model service",
        [sys.executable, "-m", "tests.end_to_end.model_process", str(port), PATH],
        log_path=directory / "model.log",
        environment={"PYTHONPATH": str(ROOT), "BACKBONE_URL": stack.url, "BACKBONE_KEY": stack.key},
    )
    with model, stack:
        yield stack, model


@pytest.mark.parametrize("victim", ["redis", "host", "event_grid", "azurite", "model"])
def test_every_acknowledged_task_ends_although_a_process_is_killed(
    stack_and_model: tuple[Stack, ChildProcess], victim: str
) -> None:
    stack, model = stack_and_model
    process = model if victim == "model" else getattr(stack, victim)
    chance = random.Random(victim)
    bodies = [_body(chance, large=number % LARGE_EVERY == 0) for number in range(TASKS)]
    with stack.client() as http:
        before = Counter(Backbone(http).depth(PATH))
        submits = _Submits(stack, bodies)
        progress, goal = chance.choice(
            [
                (lambda: len(submits.acknowledged), chance.randrange(1, TASKS)),
                (lambda: Backbone(http).depth(PATH).get("Completed", 0) - before["Completed"], TASKS // 2),
            ]
        )
        eventually(lambda: progress() >= goal)

    process.kill()
    process.start()

    task_ids = submits.finish()
    with stack.client() as http:
        backbone = Backbone(http)
        ended = [backbone.ended(task_id) for task_id in task_ids]
        counts = Counter(task["BackendStatus"].capitalize() for task in ended)
        assert Counter(backbone.depth(PATH)) == before + counts, "the depth counts each record once"
        for task, body in zip(ended, bodies, strict=True):
            if task["BackendStatus"] == "completed":
                result = http.get(f"/api/v1/tasks/{task['TaskId']}/result").raise_for_status()
                assert result.content == hashlib.sha256(body).digest()
    failures = {task["Status"] for task in ended if task["BackendStatus"] != "completed"}
    # Azurite writes its index only every few seconds.
    assert failures <= ({"Failed - the request body is gone."} if victim == "azurite" else set())


class _Submits:
    """A caller in a thread of its own that repeats each submit until it is acknowledged."""

    def __init__(self, stack: Stack, bodies: list[bytes]) -> None:
        self.acknowledged: list[str] = []
        self._stack = stack
        self._bodies = bodies
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> list[str]:
        """Wait until all tasks are acknowledged, and return their ids."""
        self._thread.join()
        if self._error:
            raise self._error
        assert len(set(self.acknowledged)) == len(self._bodies)
        return self.acknowledged

    def _run(self) -> None:
        try:
            for body in self._bodies:
                task_id = eventually(lambda body=body: self._submit(body))
                self.acknowledged.append(str(task_id))
        except BaseException as error:
            self._error = error

    def _submit(self, body: bytes) -> str | None:
        headers = {"Idempotency-Key": hashlib.sha256(body).hexdigest()}
        try:
            with self._stack.client() as http:
                response = http.post(f"/api/v1/submit{PATH}", content=body, headers=headers)
        except httpx.TransportError:
            return None
        if response.status_code == 503:
            assert response.headers["Retry-After"]
            return None
        assert response.status_code == 202, response.text
        return response.json()["TaskId"]


def _body(chance: random.Random, *, large: bool) -> bytes:
    return chance.randbytes(INLINE_LIMIT_BYTES + 1 if large else 100)
