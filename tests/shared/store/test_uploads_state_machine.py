"""Random interleavings of what several processes do with a few uploads, compared with a model."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from shared.store.upkeep_steps import BLOB_GRACE_S
from shared.store.uploads import UPLOAD_GRACE_S
from shared.tasks.uploads import NewUpload, Taken
from tests.shared.store.conftest import POLICY, Clock, Store, store_at
from tests.shared.store.steps import sweep_all
from tests.shared.store.world import START_MS, Server, World

VALID_S = 100
IDS = ("u1", "u2")
ids, takers = st.sampled_from(IDS), st.sampled_from(["t1", "t2", "t2 3"])


@dataclass
class Model:
    ends_s: float
    due_s: float
    taker: str = ""
    snapshot: str = ""
    last: int | None = None
    """The operation that took it last."""

    def is_usable(self, now_s: float) -> bool:
        return bool(self.taker) or now_s < self.ends_s


class UploadsMachine(RuleBasedStateMachine):
    """Each step is sent once or, as after a lost answer, twice."""

    taken = Bundle("taken")

    def __init__(self, server: Server, runner: asyncio.Runner, once: Store, twice: Store, clock: Clock) -> None:
        super().__init__()
        self.server, self.runner, self.stores, self.clock = server, runner, (once, twice), clock
        self.models: dict[str, Model] = {}
        self.snapshots = 0

    @initialize()
    def start(self) -> None:
        self.server.flush()
        self.clock.ms = START_MS

    @property
    def now_s(self) -> float:
        return (self.clock.ms - START_MS) / 1000

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(step)

    @rule(twice=st.booleans(), upload_id=ids)
    def create(self, twice: bool, upload_id: str) -> None:
        if upload_id not in self.models:  # an id is drawn once
            new = NewUpload(upload_id, f"u-{upload_id}", 1, "a/b")
            self.run(self.stores[twice].uploads.create(new, VALID_S))
            ends_s = self.now_s + VALID_S
            self.models[upload_id] = Model(ends_s, ends_s + UPLOAD_GRACE_S)

    @rule(target=taken, twice=st.booleans(), upload_id=ids, taker=takers, has_snapshot=st.booleans())
    def take(self, twice: bool, upload_id: str, taker: str, has_snapshot: bool) -> Any:
        self.snapshots += 1
        snapshot = f"s{self.snapshots}" if has_snapshot else ""
        found: Taken | None = self.run(self.stores[twice].uploads.take(upload_id, taker, snapshot))
        model = self.models.get(upload_id)
        if model is None or not model.is_usable(self.now_s):
            assert found is None
            return multiple()
        assert found is not None
        if not model.taker and snapshot:
            model.taker, model.snapshot = taker, snapshot
        if model.taker == taker:
            model.last = found.operation
        assert (found.upload.taker, found.upload.snapshot) == (model.taker, model.snapshot)
        return found if model.taker == taker else multiple()

    @rule(twice=st.booleans(), taken=taken)
    def give_back(self, twice: bool, taken: Taken) -> None:
        is_free = self.run(self.stores[twice].uploads.give_back(taken))
        model = self.models.get(taken.upload.id)
        if model is not None and model.last == taken.operation:
            model.taker, model.snapshot, model.last = "", "", None
        assert is_free == (model is not None and not model.taker)

    @rule(is_forgotten=st.booleans(), late_s=st.sampled_from([0, 0, 5]))
    def sweep(self, is_forgotten: bool, late_s: float) -> None:
        """A reconciler finds what is due, and deletes the blobs or dies before that."""
        if self.models:
            earliest_s = min(model.due_s for model in self.models.values())
            self.clock.advance(max(0, earliest_s - self.now_s + late_s))
        due = {name: model for name, model in self.models.items() if model.due_s <= self.now_s}
        found = self.run(sweep_all(self.stores[0]))
        assert {item.id: item.upload and item.upload.taker for item in found} == {
            name: model.taker for name, model in due.items()
        }
        for name, model in due.items():
            model.due_s = self.now_s + BLOB_GRACE_S
            if is_forgotten:
                self.run(self.stores[1].uploads.forget([name]))
                del self.models[name]

    @rule(seconds=st.sampled_from([1, 50, VALID_S]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def redis_holds_what_the_models_say(self) -> None:
        world = World(self.server)
        world.assert_consistent()
        assert {name: (each.get("T", ""), each.get("S", "")) for name, each in world.uploads.items()} == {
            name: (model.taker, model.snapshot) for name, model in self.models.items()
        }
        assert world.due_s == {f"u/{name}": model.due_s for name, model in self.models.items()}
        for name, model in self.models.items():
            found = self.run(self.stores[0].uploads.get(name))
            assert (found is not None) == model.is_usable(self.now_s)


def test_uploads_behave_like_the_model(redis_server: Server) -> None:
    clock = Clock()
    with asyncio.Runner() as runner:
        once = store_at(redis_server.url, POLICY, clock)
        twice = store_at(redis_server.url, POLICY, clock, repeating=True)
        try:
            run_state_machine_as_test(
                cast("Any", partial(UploadsMachine, redis_server, runner, once, twice, clock)),
                settings=settings(
                    max_examples=60,
                    stateful_step_count=25,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            for store in (once, twice):
                runner.run(store.aclose())
