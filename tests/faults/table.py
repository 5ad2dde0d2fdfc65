"""The faults. Each is a context: on entry it strikes a rig under load, on exit it repairs the damage."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from azure.storage.blob import ContainerClient

from shared.tasks import status_texts
from tests.faults.hostile_redis import SmallDisk, why_clocks_are_fixed, why_no_disk_is_full
from tests.faults.model_service import PREFIX, Behaviour
from tests.faults.rig import Rig
from tests.waiting import eventually

CLOCK_ERROR_S = 300
CLOCK_BACK_S = 600
STRIKE_INTERVAL_S = 0.1
THROTTLE = 16
DELETED_SHARE = 0.2
"""Of the records that a strike comes to."""

Strike = Callable[[Rig, random.Random], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    what: str
    strike: Strike
    may_fail_with: frozenset[str] = frozenset()
    """The status texts with which tasks may fail. All other tasks must complete."""
    wants_cluster: bool = False
    renews: bool = False
    """Whether it restarts a process that is checked for leaks, which would hide earlier ones."""
    forgets: bool = False
    """Whether Redis may lose what nobody was told is stored. So who looked at a task meanwhile may see it go back."""
    delays: bool = False
    """Whether it sets back the clock by which tasks start later, so that these start as much later."""
    why_not: Callable[[], str | None] = lambda: None
    """Why it cannot be had on this machine, if it cannot."""


FAULTS: Final[dict[str, Fault]] = {}


def _fault(name: str, what: str, **more: Any) -> Callable[[Callable[[Rig, random.Random], Generator[None]]], None]:
    def register(strike: Callable[[Rig, random.Random], Generator[None]]) -> None:
        FAULTS[name] = Fault(name, what, contextmanager(strike), **more)

    return register


@contextmanager
def again_and_again(strike: Callable[[], None]) -> Generator[None]:
    over = threading.Event()

    def run() -> None:
        while not over.wait(STRIKE_INTERVAL_S):
            strike()

    striker = threading.Thread(target=run, name="striker", daemon=True)
    striker.start()
    try:
        yield
    finally:
        over.set()
        striker.join()


@_fault("none", "nothing happens: the baseline for the other faults")
def _none(rig: Rig, chance: random.Random) -> Generator[None]:
    yield


@_fault("host-killed", "kill -9 of the functions host", renews=True)
def _host_killed(rig: Rig, chance: random.Random) -> Generator[None]:
    rig.stack.host.kill()
    yield
    rig.stack.host.start()


@_fault("timers-gone", "no timer fires, from one restart of the functions host to the next", renews=True)
def _timers_gone(rig: Rig, chance: random.Random) -> Generator[None]:
    host = rig.stack.host
    host.environment["AzureWebJobs.Reconciler.Disabled"] = "true"
    host.restart()
    yield
    del host.environment["AzureWebJobs.Reconciler.Disabled"]
    host.restart()


@_fault(
    "rounds-killed", "kill -9 of the functions host that runs the reconciler's rounds; another one lives", renews=True
)
def _rounds_killed(rig: Rig, chance: random.Random) -> Generator[None]:
    with rig.second_host():
        rig.stack.host.kill()
        yield
        rig.until_taken_up()
    rig.stack.host.start()


@_fault(
    "rounds-frozen", "the functions host that runs the reconciler's rounds freezes, and goes on beside another one"
)
def _rounds_frozen(rig: Rig, chance: random.Random) -> Generator[None]:
    with rig.second_host():
        os.kill(rig.stack.host.pid, signal.SIGSTOP)
        yield
        rig.until_taken_up()
        os.kill(rig.stack.host.pid, signal.SIGCONT)


@_fault(
    "rounds-cut-off",
    "no event arrives, so that work goes on by the reconciler's rounds, and kill -9 cuts off what these have begun",
    renews=True,
)
def _rounds_cut_off(rig: Rig, chance: random.Random) -> Generator[None]:
    rig.stack.set_faults({"loseDelivery": {}})
    yield
    rig.stack.host.kill()
    rig.stack.host.start()
    rig.until_taken_up()
    rig.stack.host.kill()
    rig.stack.host.start()
    rig.stack.set_faults({})


@_fault(
    "host-throttled",
    f"the functions host takes {THROTTLE} requests at a time and answers 429 to others, from one restart to the next",
    renews=True,
)
def _host_throttled(rig: Rig, chance: random.Random) -> Generator[None]:
    host, limit = rig.stack.host, "AzureFunctionsJobHost__extensions__http__maxOutstandingRequests"
    host.environment[limit] = str(THROTTLE)
    host.restart()
    yield
    del host.environment[limit]
    host.restart()


@_fault("grid-killed", "kill -9 of the Event Grid emulator", renews=True)
def _grid_killed(rig: Rig, chance: random.Random) -> Generator[None]:
    rig.stack.event_grid.kill()
    yield
    rig.stack.event_grid.start()


@_fault(
    "clock-off",
    f"the clock of the functions host is {CLOCK_ERROR_S} s fast or slow, from one restart to the next",
    renews=True,
)
def _clock_off(rig: Rig, chance: random.Random) -> Generator[None]:
    host = rig.stack.host
    host.stop()
    host.environment["CLOCK_SHIFT_S"] = str(chance.choice((-CLOCK_ERROR_S, CLOCK_ERROR_S)))
    host.start()
    yield
    del host.environment["CLOCK_SHIFT_S"]
    host.restart()


@_fault("model-killed", "kill -9 of the model service, with all its tasks in flight")
def _model_killed(rig: Rig, chance: random.Random) -> Generator[None]:
    rig.model.kill()
    yield
    rig.model.start()


@_fault("model-frozen", "the model service freezes for longer than its leases, and then goes on")
def _model_frozen(rig: Rig, chance: random.Random) -> Generator[None]:
    os.kill(rig.model.pid, signal.SIGSTOP)
    yield
    eventually(lambda: not any(count for (_, state), count in rig.depths().items() if state == "running"))
    os.kill(rig.model.pid, signal.SIGCONT)


@contextmanager
def _registered(rig: Rig, backends: dict[str, str]) -> Generator[None]:
    """The host has another registry, from one restart to the next."""
    host = rig.stack.host
    known = host.environment["BACKENDS"]
    host.environment["BACKENDS"] = json.dumps(backends)
    host.restart()
    yield
    host.environment["BACKENDS"] = known
    host.restart()


@_fault("registry-entry-gone", "the model service is not in the registry, from one restart to the next", renews=True)
def _registry_entry_gone(rig: Rig, chance: random.Random) -> Generator[None]:
    with _registered(rig, {"/v1/elsewhere": "http://models.invalid"}):
        yield


@_fault("name-gone", "the name of the model service is gone from DNS", renews=True)
def _name_gone(rig: Rig, chance: random.Random) -> Generator[None]:
    with _registered(rig, {PREFIX: "http://models.invalid"}):
        yield


@_fault("redis-frozen", "Redis freezes, and then goes on")
def _redis_frozen(rig: Rig, chance: random.Random) -> Generator[None]:
    [redis] = rig.redis_nodes
    os.kill(redis.pid, signal.SIGSTOP)
    yield
    os.kill(redis.pid, signal.SIGCONT)


@_fault("redis-killed", "kill -9 of Redis, which comes back with its append-only file")
def _redis_killed(rig: Rig, chance: random.Random) -> Generator[None]:
    [redis] = rig.redis_nodes
    rig.kill_redis(redis)
    yield
    redis.start()


@_fault("redis-restarted", "Redis is shut down in order and comes back with its append-only file")
def _redis_restarted(rig: Rig, chance: random.Random) -> Generator[None]:
    rig.redis.stop()
    yield
    rig.redis.start()


@_fault(
    "clock-back",
    f"the clock of Redis is set back by {CLOCK_BACK_S} s, and stays there",
    delays=True,
    why_not=why_clocks_are_fixed,
)
def _clock_back(rig: Rig, chance: random.Random) -> Generator[None]:
    for clock in rig.redis_clocks:  # those of a cluster's nodes may not differ by much
        clock.set_back(CLOCK_BACK_S)
    eventually(lambda: all(clock.is_followed() for clock in rig.redis_clocks))
    yield


@contextmanager
def _full_disk(rig: Rig) -> Generator[SmallDisk]:
    redis = rig.redis
    assert isinstance(redis, SmallDisk)
    redis.fill()
    yield redis
    if redis.is_running:
        redis.empty()


@_fault("disk-full", "the disk of Redis is full, and then has room again", why_not=why_no_disk_is_full)
def _disk_full_for_a_while(rig: Rig, chance: random.Random) -> Generator[None]:
    with _full_disk(rig):
        yield


@_fault(
    "disk-full-killed",
    "kill -9 of Redis while its disk is full, with DURABILITY=fsync from one restart of the host to the next",
    renews=True,
    forgets=True,
    why_not=why_no_disk_is_full,
)
def _disk_full_at_death(rig: Rig, chance: random.Random) -> Generator[None]:
    host = rig.stack.host
    host.environment["DURABILITY"] = "fsync"
    host.restart()
    # Some have begun with it before the disk is full.
    before_s = chance.uniform(0.3, 1.5)
    threading.Event().wait(before_s)
    with _full_disk(rig) as redis:
        yield
        redis.kill()
    redis.start()
    del host.environment["DURABILITY"]
    host.restart()


@_fault("azurite-gone", "Blob Storage is shut down and comes back with its data")
def _azurite_gone(rig: Rig, chance: random.Random) -> Generator[None]:
    rig.azurite.stop()
    yield
    rig.azurite.start()


@_fault(
    "bodies-short",
    "the blobs of waiting tasks' bodies lose their second half",
    may_fail_with=frozenset({status_texts.BODY_GONE}),
)
def _bodies_short(rig: Rig, chance: random.Random) -> Generator[None]:
    # While the service is away, tasks wait, and none has a result yet.
    rig.model.kill()
    with (
        rig.stack.client() as app,
        ContainerClient.from_connection_string(rig.azurite.connection_string, "task-backbone") as blobs,
    ):

        def cut() -> bool:
            names = list(blobs.list_blob_names())
            for name in names:
                task = app.get(f"/api/v1/tasks/{name.removeprefix('t-').rpartition('/')[0]}").json()
                if task.get("BackendStatus") == "created" and task["ResultSize"] is None:
                    data = blobs.download_blob(name).readall()
                    blobs.upload_blob(name, data[: len(data) // 2], overwrite=True)
                    return True
            return False

        eventually(cut)
    yield
    rig.model.start()


@_fault("queue-lost", "some of the queues' keys are deleted, again and again")
def _queue_lost(rig: Rig, chance: random.Random) -> Generator[None]:
    def lose() -> None:
        for redis in rig.redis_nodes:
            with redis.connect() as client:
                # Not an operator's settings, which nothing can rebuild.
                keys = [key for kind in ("q:", "qo:", "qw:", "qh:", "qb:") for key in client.scan_iter(f"*}}{kind}*")]
                if lost := chance.sample(keys, chance.randint(0, len(keys))):
                    client.delete(*lost)

    with again_and_again(lose):
        yield


_DELETE_OPEN = """
local raw = redis.call('GET', KEYS[1])
local rec = raw and cmsgpack.unpack(raw)
if not rec or rec.B or rec.G then return 0 end
if rec.s ~= 'created' and rec.s ~= 'dispatched' and rec.s ~= 'running' then return 0 end
return redis.call('DEL', KEYS[1])
"""
"""Deletes a record, unless its task has ended or belongs to a batch."""


@_fault(
    "records-deleted", "records of tasks that have not ended are deleted, as by hand or by eviction, again and again"
)
def _records_deleted(rig: Rig, chance: random.Random) -> Generator[None]:
    def delete() -> None:
        for redis in rig.redis_nodes:
            with redis.connect() as client:
                for key in client.scan_iter("*}t:*", count=1000):
                    name = key.decode() if isinstance(key, bytes) else key
                    if chance.random() < DELETED_SHARE and client.eval(_DELETE_OPEN, 1, name):
                        rig.deleted.add(name.partition("}t:")[2])

    with again_and_again(delete):
        yield


def _event_grid(name: str, what: str, **switches: object) -> None:
    @_fault(name, what)
    def strike(rig: Rig, chance: random.Random) -> Generator[None]:
        rig.stack.set_faults({**switches, "seed": chance.getrandbits(31)})
        yield
        rig.stack.set_faults({})


_event_grid("publish-unanswered", "Event Grid accepts each publish and answers none", losePublishResponse={})
_event_grid("publish-refused", "Event Grid refuses each publish (503)", refusePublish={"status": 503})
_event_grid("event-twice", "each event is delivered twice at the same time", duplicate={})
_event_grid("event-out-of-order", "events overtake each other within two seconds", reorder={"windowSeconds": 60})
_event_grid("event-never", "each event is accepted and never delivered", loseDelivery={})
_event_grid("event-reply-lost", "the webhook's replies get lost, so each event comes again", loseResponse={})
_event_grid("event-probation", "each event is dead-lettered without an attempt", probation={})
_event_grid(
    "event-held-back",
    "each event is delivered ten minutes late, so that it finds its task done",
    delay={"seconds": 600},
)


@_fault("backend-dies", "the model service accepts a task and dies, again and again")
def _backend_dies(rig: Rig, chance: random.Random) -> Generator[None]:
    with rig.model_restarted_whenever_it_dies():
        rig.behave(Behaviour.DIE)
        yield
        rig.behave(Behaviour.WORK)


@_fault(
    "backend-stalls", "the model service works in silence for longer than its lease, and reports when it is too late"
)
def _backend_stalls(rig: Rig, chance: random.Random) -> Generator[None]:
    rig.behave(Behaviour.STALL)
    yield
    rig.behave(Behaviour.WORK)


@_fault("backend-hangs", "the model service reads requests and never answers")
def _backend_hangs(rig: Rig, chance: random.Random) -> Generator[None]:
    rig.behave(Behaviour.HANG)
    yield
    rig.behave(Behaviour.WORK)


@_fault(
    "backend-answers-garbage",
    "the model service answers with a redirect, 418, no HTTP, cut, impossible or endless messages, or a huge header",
    may_fail_with=frozenset({"Failed - the backend answered 302.", "Failed - the backend answered 418."}),
)
def _backend_answers_garbage(rig: Rig, chance: random.Random) -> Generator[None]:
    rig.behave(Behaviour.GARBAGE)
    yield
    rig.behave(Behaviour.WORK)


@_fault(
    "redis-primary-killed",
    "kill -9 of one of three primaries of a Redis Cluster without replicas: its slots are away until it is back",
    wants_cluster=True,
)
def _redis_primary_killed(rig: Rig, chance: random.Random) -> Generator[None]:
    primary = chance.choice(rig.redis_nodes)
    rig.kill_redis(primary)
    yield
    primary.start()


OF_MESSAGES: Final = [name for name in FAULTS if name.startswith(("publish-", "event-", "backend-"))]
OF_PARTS: Final = [name for name, fault in FAULTS.items() if name not in OF_MESSAGES and not fault.wants_cluster]
ON_CLUSTER: Final = [
    *(name for name, fault in FAULTS.items() if fault.wants_cluster),
    # On a cluster a task and its queue lie on different nodes, and the rounds on one of them.
    *("timers-gone", "rounds-killed", "rounds-frozen", "rounds-cut-off", "host-throttled", "azurite-gone"),
    *("records-deleted", "clock-back"),
    *("publish-refused", "publish-unanswered", "event-never", "event-held-back"),
]
