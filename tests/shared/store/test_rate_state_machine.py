"""Random interleavings of what happens to a queue with a rate: no window of time has more grants than it says."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, cast

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from shared.rate import Rate
from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.link import RedisLink
from shared.tasks.outcomes import Granted, SlotGrant
from shared.tasks.task import Task
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.fleet import PATH, new_task
from tests.shared.store.test_queues import POLICY, delete
from tests.shared.store.test_rates import most_within
from tests.shared.store.world import START_MS, Server

RATES = (Rate(3, 1), Rate(3, 1, is_burst=True), Rate(7, 1), Rate(2, 20), Rate(2, 20, is_burst=True), Rate(2000, 1))
rates, shares = st.sampled_from(RATES), st.floats(0, 1)


class RateMachine(RuleBasedStateMachine):
    """Several processes with the same settings.

    Attributes:
        passed_ms: the time that has passed, whatever the clock says.
    """

    def __init__(self, server: Server, runner: asyncio.Runner, link: RedisLink, clock: Clock) -> None:
        super().__init__()
        self.server, self.runner, self.link, self.clock = server, runner, link, clock
        self.configure(RATES[0])
        self.passed_ms = 0
        self.granted_ms: list[int] = []
        self.held: list[Task] = []
        self.count = 0
        self.asks: list[int] = []

    @initialize(rate=rates)
    def start(self, rate: Rate) -> None:
        self.server.flush()
        self.clock.ms = START_MS
        self.configure(rate)

    def configure(self, rate: Rate) -> None:
        self.rate = rate
        self.queues = QueueSteps(self.link, POLICY, now_ms=self.clock, rate_of=lambda path: rate)

    def run(self, step: Coroutine[Any, Any, Granted]) -> None:
        granted = self.runner.run(step)
        for grant in granted.grants:
            self.granted_ms.append(self.passed_ms)
            self.held.append(_task_of(grant, self.clock))
        if granted.ask_again_s is not None:
            self.asks.append(self.passed_ms + round(granted.ask_again_s * 1000))

    def pass_ms(self, ms: int) -> None:
        self.passed_ms += ms
        self.clock.ms += ms

    @rule(count=st.integers(1, 30))
    def come(self, count: int) -> None:
        entries: list[QueueEntry] = []
        for _ in range(count):
            self.count += 1
            entries.append(QueueEntry.of(new_task(f"t{self.count}", self.clock)))
        self.run(self.queues.enqueue(entries))

    @rule(ms=st.sampled_from([0, 1, 40, 333, 500, 1_000, 1_001, 7_000, 20_000]))
    def time_passes(self, ms: int) -> None:
        self.pass_ms(ms)

    @rule(late_ms=st.sampled_from([0, 0, 1, 5, 120]), times=st.integers(1, 8))
    def ask(self, late_ms: int, times: int) -> None:
        """Who was told when to ask does so, a moment late."""
        for _ in range(times):
            if not self.asks:
                return
            self.pass_ms(max(0, min(self.asks) + late_ms - self.passed_ms))
            self.asks = [at for at in self.asks if at > self.passed_ms]
            self.run(self.queues.grant_free_slots(PATH))

    @rule()
    def ask_at_any_time(self) -> None:
        self.run(self.queues.grant_free_slots(PATH))

    @rule(share=shares, how=st.sampled_from(["accept", "end", "refuse", "return"]))
    def answer(self, share: float, how: str) -> None:
        if not self.held:
            return
        task = self.held.pop(round(share * (len(self.held) - 1)))
        following = replace(task, attempt=task.attempt + 1)
        if how == "accept":
            self.run(self.queues.accepted(task))
            self.held.append(task)
        elif how == "end":
            self.run(self.queues.release(PATH, SlotGrant.of(task), "", 10))
        elif how == "refuse":
            self.run(self.queues.refused(task, following, after_s=0.001))
        else:
            self.runner.run(self.queues.return_entry(task, following))

    @rule()
    def end_all(self) -> None:
        while self.held:
            self.answer(0, "end")

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.run(self.queues.configure(PATH, {"paused": paused}))

    @rule(is_burst=st.booleans())
    def change_how(self, is_burst: bool) -> None:
        self.configure(replace(self.rate, is_burst=is_burst))

    @rule(rate=rates)
    def change_rate(self, rate: Rate) -> None:
        """It counts for the windows that begin after it."""
        self.configure(rate)
        self.granted_ms.clear()

    @rule(kinds=st.sampled_from([("q",), ("qr",), ("q", "qh"), ("q", "qo")]))
    def lose(self, kinds: tuple[str, ...]) -> None:
        delete(self.server, *kinds)
        if kinds != ("qr",):
            # Until a step has found the loss of the one, the other is all that is known.
            self.run(self.queues.grant_free_slots(PATH))

    @rule()
    def maintain(self) -> None:
        maintained = self.runner.run(self.queues.maintain(PATH))
        self.run(_ready(maintained.granted))
        if maintained.loss is not None:
            self.runner.run(self.queues.mark_rebuilt(PATH, maintained.loss))

    @rule(ms=st.sampled_from([100, 5_000, 3_600_000]))
    def set_the_clock_back(self, ms: int) -> None:
        self.clock.ms -= ms
        self.run(self.queues.grant_free_slots(PATH))

    @invariant()
    def no_window_has_more_grants(self) -> None:
        if self.granted_ms:
            assert most_within(self.granted_ms, self.rate.window_s * 1000) <= self.rate.tasks

    def teardown(self) -> None:
        """In the end, the queue grants all of them, as fast as it may but for its probes' pauses."""
        self.run(self.queues.configure(PATH, {"paused": False}))
        self.come(self.rate.tasks * 3 if self.rate.tasks < 100 else 30)
        waiting = self.runner.run(self.queues.status(PATH)).waiting
        before, windows = len(self.granted_ms), 3 + waiting // self.rate.tasks
        until_ms = self.passed_ms + windows * self.rate.window_s * 1000 + 60_000
        while self.passed_ms < until_ms and waiting > len(self.granted_ms) - before:
            self.end_all()
            self.ask(0, 1)
            self.maintain()
        assert len(self.granted_ms) - before >= waiting
        self.no_window_has_more_grants()


async def _ready(granted: Granted) -> Granted:
    return granted


def _task_of(grant: SlotGrant, clock: Clock) -> Task:
    return replace(new_task(grant.task_id, clock), attempt=grant.attempt)


def test_no_interleaving_of_steps_grants_more_than_the_rate_says(redis_server: Server) -> None:
    clock = Clock()
    with asyncio.Runner() as runner:
        link = RedisLink(opener(redis_server.url))
        try:
            run_state_machine_as_test(
                cast("Any", lambda: RateMachine(redis_server, runner, link, clock)),
                settings=settings(
                    max_examples=60,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            runner.run(link.aclose())
