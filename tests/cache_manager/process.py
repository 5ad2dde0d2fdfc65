"""A process of the app for the reconciler, on a real Redis, with the tests' clock. It publishes nothing and calls no
backend: it keeps the events and grants instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.dispatch.backend_client import BackendTransport
from shared.dispatch.dispatcher import Dispatcher
from shared.resilience.circuit_breaker import Reachability
from shared.services import Services
from shared.settings import Settings
from shared.store import RedisLink, StorePolicy, TaskQueues, TaskStore
from shared.store.queue_steps import QueueSteps
from shared.tasks.outcomes import Claimed, Granted, SlotGrant
from shared.tasks.task import Task
from tests.shared.store.conftest import LifeSteps, opener
from tests.shared.store.policies import store_policy

REPUBLISH_S = 30
MAX_ATTEMPTS = 3
POLICY = store_policy(
    republish_s=REPUBLISH_S, max_attempts=MAX_ATTEMPTS, slot_claim_s=REPUBLISH_S, slot_check_s=REPUBLISH_S
)


class KeepingPublisher:
    """Accepts all events, and keeps the attempts that they name."""

    def __init__(self) -> None:
        self.attempts: list[SlotGrant] = []

    @property
    def state(self) -> Reachability:
        return "ok"

    @property
    def task_ids(self) -> list[str]:
        return [attempt.task_id for attempt in self.attempts]

    async def publish_dispatches(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        self.attempts += [SlotGrant.of(task) for task in tasks]

    async def publish_completions(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        raise AssertionError("no completions are to be published")

    async def aclose(self) -> None:
        return


class KeepingDispatcher(Dispatcher):
    """Keeps the granted slots instead of dispatching, each with the queue's answer that granted it."""

    granted: list[tuple[Granted, SlotGrant]]

    def dispatch_granted(self, granted: Iterable[Granted], *, but: SlotGrant | None = None) -> bool:
        slots = [(each, grant) for each in granted for grant in each.grants]
        self.granted += [(each, grant) for each, grant in slots if grant != but]
        return any(grant == but for _, grant in slots)


@dataclass(frozen=True)
class Process:
    """Attributes:
    steps, queue_steps: the store's inner steps, which do not inform each other.
    """

    services: Services
    published: KeepingPublisher
    dispatcher: KeepingDispatcher
    steps: LifeSteps
    queue_steps: QueueSteps
    link: RedisLink

    @classmethod
    def start(
        cls,
        url: str,
        clock: Callable[[], int],
        *,
        policy: StorePolicy = POLICY,
        link: RedisLink | None = None,
        transport: BackendTransport | None = None,
        per_owner: Mapping[str, Any] | None = None,
    ) -> Process:
        """
        Args:
            per_owner: how much of each endpoint one owner may have, as ``BACKENDS`` says it.
        """
        link = link or RedisLink(opener(url))
        settings = Settings.from_env(
            {
                "REDIS_CONNECTION_STRING": url,
                "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
                "BACKENDS": json.dumps({"/v1": {"url": "https://models.example.org", "per_owner": per_owner or {}}}),
                "MAX_ATTEMPTS": str(MAX_ATTEMPTS),
            }
        )
        published = KeepingPublisher()
        whole = Services.compose(
            settings, link=link, publisher=published, transport=transport, now_ms=clock, policy=policy
        )
        dispatcher = KeepingDispatcher(
            settings,
            whole.registry,
            whole.store,
            whole.bodies,
            whole.limits,
            whole.dispatcher._backend,
            published,
            None,
        )
        dispatcher.granted = []
        return cls(
            replace(whole, dispatcher=dispatcher),
            published,
            dispatcher,
            LifeSteps(link, policy, clock),
            QueueSteps(link, policy, whole.registry.limit, clock, bounds_of=whole.registry.owner_bounds),
            link,
        )

    @property
    def store(self) -> TaskStore:
        return self.services.store

    @property
    def queues(self) -> TaskQueues:
        return self.services.store.queues

    def take_granted(self) -> list[tuple[Granted, SlotGrant]]:
        """The slots that were granted since the last call."""
        granted = self.dispatcher.granted[:]
        self.dispatcher.granted.clear()
        return granted

    async def loss(self, path: str) -> int | None:
        """The loss that the queue's maintenance finds, if any."""
        return (await self.queue_steps.maintain(path)).loss

    async def backend_accepts_all(self) -> list[str]:
        """Let the backend accept every granted task. Returns their ids."""
        accepted: list[str] = []
        while slots := self.take_granted():
            for granted, grant in slots:
                claimed = await self.store.claim_granted(granted, grant)
                if isinstance(claimed, Claimed):
                    self.dispatcher.dispatch_granted(await self.store.accept(claimed.task))
                    accepted.append(grant.task_id)
                else:
                    self.dispatcher.dispatch_granted(claimed.granted)
        return accepted
