"""A process of the app as the reconciler knows it, on a real Redis, by the tests' clock. It publishes nothing and
calls no backend: what would be published or dispatched is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shared.dispatcher import Dispatcher
from shared.events import Topic
from shared.services import Services
from shared.settings import Settings
from shared.task import Task
from shared.task_store import (
    Claimed,
    Grant,
    Granted,
    QueuePolicy,
    RedisLink,
    Refused,
    StorePolicy,
    TaskQueues,
    TaskStore,
)
from tests.shared.task_store.conftest import opener

REPUBLISH_S = 30
MAX_ATTEMPTS = 3
POLICY = QueuePolicy(claim_s=REPUBLISH_S, look_s=REPUBLISH_S)


Claim = Claimed | Refused | None


class Published(Topic):
    """Takes all events, and keeps of which attempts they speak."""

    def __init__(self) -> None:
        super().__init__("https://topic.example.org/api/events", None)
        self.attempts: list[Grant] = []

    @property
    def task_ids(self) -> list[str]:
        return [attempt.task_id for attempt in self.attempts]

    async def publish(self, tasks: Sequence[Task], *, insist: bool = False) -> None:
        self.attempts += [Grant(task.id, task.attempt) for task in tasks]


class KeepingDispatcher(Dispatcher):
    """Keeps the slots that it is to hand on, with the paths of their queues, and what came of a claim."""

    grants: list[tuple[str, Grant, Claim]]

    def hand_on(self, path: str, granted: Granted, *, but: Grant | None = None) -> bool:
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
        policy: QueuePolicy = POLICY,
        limit: Callable[[str], int | None] = lambda path: None,
        store_type: type[TaskStore] = TaskStore,
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
        queues = TaskQueues(link, policy, limit, clock)
        store = store_type(link, StorePolicy(republish_s=REPUBLISH_S, max_attempts=MAX_ATTEMPTS), clock, queues)
        whole = Services.of(settings)
        dispatcher = KeepingDispatcher(settings, whole.backends, store, queues, whole.bodies, whole.limits, None)
        dispatcher.grants = []
        published = Published()
        services = replace(whole, store=store, queues=queues, dispatcher=dispatcher, events=published)
        return cls(services, published, dispatcher, link)

    @property
    def store(self) -> TaskStore:
        return self.services.store

    @property
    def queues(self) -> TaskQueues:
        return self.services.queues

    def taken_grants(self) -> list[Grant]:
        """What was granted since this was last asked."""
        return [grant for grant, _ in self.taken_claims()]

    def taken_claims(self) -> list[tuple[Grant, Claim]]:
        claims = [(grant, claimed) for _, grant, claimed in self.dispatcher.grants]
        self.dispatcher.grants.clear()
        return claims
