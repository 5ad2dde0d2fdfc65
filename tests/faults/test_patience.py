"""What the harness itself must not take for a finding: an app that is busy, and a disk that does not keep up."""

from __future__ import annotations

import json
from pathlib import Path

from local.redis_server import RedisServer
from tests.faults.load import Load
from tests.faults.rig import Rig
from tests.scripted_backend import Answer, ScriptedBackend

BUSY = Answer(503, {"Retry-After": "1"}, b"{}")


class Watched(RedisServer):
    """Notes how it syncs its file when it is killed."""

    at_death = ""

    def kill(self) -> None:
        if self.is_running:
            with self.connect() as client:
                self.at_death = str(client.config_get("appendfsync"))
        super().kill()


def test_an_app_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    queue = {"EndpointPath": "/v1/a", "Delayed": 0, "Waiting": 3, "Dispatched": 0, "Running": 0}
    queues = {"Queues": [queue | {"Completed": 0, "Failed": 0, "Cancelled": 0}]}
    with ScriptedBackend() as app:
        rig.stack.url = app.url
        app.script("/api/v1/queues/", BUSY, BUSY, Answer(body=json.dumps(queues).encode()))
        assert +rig.depths() == {("/v1/a", "waiting"): 3}


def test_a_batch_of_which_a_busy_app_does_not_tell_has_not_ended(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    with ScriptedBackend() as app:
        rig.stack.url = app.url
        app.script("/api/v1/tasks/b", BUSY, Answer(body=b'{"BackendStatus": "completed"}'))
        load = Load(rig, "seed")
        load.batch_id = "b"
        assert not load.has_batch_ended()
        assert load.has_batch_ended()


def test_redis_holds_nothing_back_when_it_is_killed(tmp_path: Path) -> None:
    redis = Watched(tmp_path / "watched")
    redis.start()
    Rig(tmp_path / "rig").kill_redis(redis)
    assert not redis.is_running
    assert redis.at_death == "{'appendfsync': 'no'}"
