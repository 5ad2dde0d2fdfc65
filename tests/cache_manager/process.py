"""A process of the app as the reconciler knows it, on a real Redis, by the tests' clock. It publishes nothing and
calls no backend: what would be published or dispatched is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shared.dispatch.dispatcher import Dispatcher
from shared.events.event_grid import EventGridTopic
from shared.services import Services
from shared.settings import Settings
from shared.store.policy import StorePolicy
from shared.store.queue_steps import QueueSteps
from shared.store.redis.link import RedisLink
from shared.store.task_steps import TaskSteps
from shared.tasks.outcomes import Claimed, Granted, Refused, SlotGrant
from shared.tasks.task import Task
from tests.shared.store.conftest import opener
from tests.shared.store.policies import store_policy

REPUBLISH_S = 30
MAX_ATTEMPTS = 3
POLICY = store_policy(slot_claim_s=REPUBLISH_S, slot_check_s=REPUBLISH_S)


Claim = Claimed | Refused | None


class Published(EventGridTopic):
    """Takes all events, and keeps of which attempts they speak."""

    def __init__(self) -> None:
        super().__init__("https://topic.example.org/api/events", None)
        self.attempts: list[SlotGrant] = []

    @property
    def task_ids(self) -> list[str]:
        return [attempt.task_id for attempt in self.attempts]

    async def publish(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        self.attempts += [SlotGrant.of(task) for task in tasks]


class KeepingDispatcher(Dispatcher):
    """Keeps the slots that it is to hand on, with the paths of their queues, and what came of a claim."""

    grants: list[tuple[str, SlotGrant, Claim]]

    def dispatch_granted(self, path: str, granted: Granted, *, but: SlotGrant | None = None) -> bool:
        self.grants += [(path, grant, granted.claims.get(grant)) for grant in granted.grants if grant != but]
        return but in granted.grants


@dataclass(frozen=True)
class Process:
    services: Services
    published: Published
    dispatcher: KeepingDispatcher
    link: RedisLink

    @classmethod
    def start(
        cls,
        url: str,
        clock: Callable[[], int],
        *,
        policy: StorePolicy = POLICY,
        limit: Callable[[str], int | None] = lambda path: None,
        store_type: type[TaskSteps] = TaskSteps,
        link: RedisLink | None = None,
    ) -> Process:
        link = link or RedisLink(opener(url))
        settings = Settings.from_env(
            {
                "REDIS_CONNECTION_STRING": url,
                "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
                "BACKENDS": '{"/v1": "https://models.example.org"}',
                "MAX_ATTEMPTS": str(MAX_ATTEMPTS),
            }
        )
        queues = QueueSteps(link, policy, limit, clock)
        store = store_type(link, store_policy(republish_s=REPUBLISH_S, max_attempts=MAX_ATTEMPTS), clock, queues)
        whole = Services.of(settings)
        dispatcher = KeepingDispatcher(settings, whole.backends, store, queues, whole.bodies, whole.limits, None)
        dispatcher.grants = []
        published = Published()
        services = replace(whole, store=store, queues=queues, dispatcher=dispatcher, events=published)
        return cls(services, published, dispatcher, link)

    @property
    def store(self) -> TaskSteps:
        return self.services.store

    @property
    def queues(self) -> QueueSteps:
        return self.services.queues

    def taken_grants(self) -> list[SlotGrant]:
        """What was granted since this was last asked."""
        return [grant for grant, _ in self.taken_claims()]

    def taken_claims(self) -> list[tuple[SlotGrant, Claim]]:
        claims = [(grant, claimed) for _, grant, claimed in self.dispatcher.grants]
        self.dispatcher.grants.clear()
        return claims
