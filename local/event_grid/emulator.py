"""The emulator itself: accepts events, and drives each of them to its end in every subscription."""

import asyncio
import itertools
import json
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from local.event_grid.clock import Clock
from local.event_grid.dead_letters import DeadLetters
from local.event_grid.delivery import (
    DEAD_LETTER_DELAY_S,
    DEAD_LETTER_RETRY_S,
    DEAD_LETTER_UNAVAILABLE_S,
    PROBATION,
    TIME_TO_LIVE_EXCEEDED,
    TIMED_OUT,
    Answer,
    EndpointHealth,
    GiveUp,
    RetryIn,
    after_failure,
    has_expired,
)
from local.event_grid.faults import Faults
from local.event_grid.journal import Delivery, Journal
from local.event_grid.schema import MAX_BATCH_BYTES, Event, is_cloud_event, topic_id
from local.event_grid.subscription import Subscription, SubscriptionSettings
from local.event_grid.timetable import Timetable
from local.event_grid.webhook import Webhook

MAX_REQUESTS_PER_SUBSCRIPTION = 100
MAX_BACKLOG_BYTES = 512 * 1024 * 1024
MAX_DEAD_LETTERS_PER_BLOB = 100
HANDSHAKE_RETRY_S = 1

_log = logging.getLogger(__name__)


class BacklogFullError(Exception):
    """Raised when so many events are on their way that memory has no room for more."""


class UnknownContainerError(Exception):
    """Raised when a subscription wants dead letters but the emulator has no storage account."""


@dataclass
class Stats:
    """Counters since the start. `published` counts events, the others count deliveries to one subscription."""

    published: int = 0
    delivered: int = 0
    retried: int = 0
    dropped: int = 0
    dead_lettered: int = 0
    lost: int = 0
    """Deliveries that the fault switch lost."""


@dataclass
class _Lane:
    """The deliveries of one subscription. Lanes share nothing, so an endpoint that hangs delays only itself."""

    subscription: Subscription
    health: EndpointHealth = field(default_factory=EndpointHealth)
    pending: int = 0
    pending_bytes: int = 0
    ready: deque[Delivery] = field(default_factory=deque)
    dead: deque[Delivery] = field(default_factory=deque)
    is_start_scheduled: bool = False
    requests: set[asyncio.Task[None]] = field(default_factory=set)
    writer: asyncio.Task[None] | None = None
    handshake: asyncio.Task[None] | None = None

    @property
    def settings(self) -> SubscriptionSettings:
        """The settings for deliveries. A lane takes an event only if its subscription has active settings."""
        assert self.subscription.active is not None
        return self.subscription.active

    @property
    def is_busy(self) -> bool:
        return bool(self.ready or self.dead or self.requests or self.writer)

    def tasks(self) -> list[asyncio.Task[None]]:
        return [task for task in (*self.requests, self.writer, self.handshake) if task is not None]


class Emulator:
    """One topic with its subscriptions. As an async context manager, it delivers events between entry and exit.

    Parameters:
        topic: the name of the topic.
        url: the address of this emulator, for the validation URL of handshakes.
        journal, dead_letters: closed on exit.
    """

    def __init__(
        self,
        topic: str,
        *,
        url: str,
        clock: Clock,
        journal: Journal,
        dead_letters: DeadLetters | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.topic = topic
        self.topic_id = topic_id(topic)
        self.clock = clock
        self.faults = faults or Faults()
        self.stats = Stats()
        self._url = url
        self._journal = journal
        self._dead_letters = dead_letters
        self._webhook = Webhook(self.topic_id, clock)
        self._timetable = Timetable(clock, self._dispatch)
        self._lanes: dict[str, _Lane] = {}
        self._numbers = itertools.count(1)
        self._progress = asyncio.Event()
        self._farewells: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def __aenter__(self) -> Self:
        for subscription in self._journal.subscriptions():
            lane = self._lanes[subscription.name] = _Lane(subscription)
            self._start_handshake(lane)
        deliveries = self._journal.deliveries()
        self._numbers = itertools.count(deliveries[-1].number + 1 if deliveries else 1)
        self._admit(deliveries)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_closing = True
        await _cancel([*self._farewells, *(task for lane in self._lanes.values() for task in lane.tasks())])
        self._timetable.stop()
        await self._webhook.close()
        if self._dead_letters is not None:
            await self._dead_letters.close()
        await self._journal.close()

    async def publish(self, events: Sequence[Event]) -> None:
        """Accepts `events`. On return they are in the journal, and the first attempts are under way.

        Raises:
            BacklogFullError: nothing was accepted.
        """
        now_s = self.clock.now()
        lanes = [lane for lane in self._lanes.values() if lane.subscription.active]
        deliveries: list[Delivery] = []
        for event in events:
            content = json.dumps(event, separators=(",", ":")).encode()
            for lane in lanes:
                if not lane.settings.matches(event):
                    continue
                if self.faults.strikes(self.faults.lose_delivery):
                    self.stats.lost += 1
                    continue
                deliveries.append(
                    Delivery(
                        number=next(self._numbers),
                        subscription=lane.subscription.name,
                        event=content,
                        is_cloud_event=is_cloud_event(event),
                        published_at_s=now_s,
                        due_at_s=now_s + self.faults.first_delay_s(),
                    )
                )
        backlog_bytes = sum(lane.pending_bytes for lane in lanes)
        if backlog_bytes + sum(len(delivery.event) for delivery in deliveries) > MAX_BACKLOG_BYTES:
            raise BacklogFullError
        await self._journal.add(deliveries)
        self.stats.published += len(events)
        self._admit(deliveries)

    async def put_subscription(self, name: str, settings: SubscriptionSettings) -> tuple[Subscription, bool]:
        """Creates or changes the subscription `name`; returns it and whether it is new.

        Raises:
            UnknownContainerError: there is no place for its dead letters.
        """
        if settings.dead_letter_container and self._dead_letters is None:
            raise UnknownContainerError
        is_new = name not in self._lanes
        lane = self._lanes.setdefault(name, _Lane(Subscription(name)))
        lane.subscription.propose(settings)
        await self._journal.save(lane.subscription)
        self._start_handshake(lane)
        return lane.subscription, is_new

    def subscription(self, name: str) -> Subscription | None:
        lane = self._lanes.get(name)
        return lane and lane.subscription

    async def validate(self, name: str, code: str) -> bool:
        """Completes the handshake by hand, as the validation URL does; returns False for a wrong code."""
        lane = self._lanes.get(name)
        if lane is None or code != lane.subscription.validation_code:
            return False
        lane.subscription.activate()
        await self._journal.save(lane.subscription)
        self._start_handshake(lane)
        return True

    async def delete_subscription(self, name: str) -> bool:
        """Ends the subscription, drops its deliveries and informs the endpoint; returns False if there is none."""
        lane = self._lanes.pop(name, None)
        if lane is None:
            return False
        lane.ready.clear()
        lane.dead.clear()
        await _cancel(lane.tasks())
        self._timetable.discard(name)
        self.stats.dropped += lane.pending
        self._progress.set()
        await self._journal.delete(name)
        if lane.subscription.active is not None:
            farewell = asyncio.create_task(self._webhook.announce_deletion(name, lane.settings))
            self._farewells.add(farewell)
            farewell.add_done_callback(self._farewells.discard)
        return True

    def public_stats(self) -> dict[str, int]:
        return asdict(self.stats) | {"pending": sum(lane.pending for lane in self._lanes.values())}

    async def drain(self, timeout_s: float) -> bool:
        """Waits until nothing is due or under way; returns False if that takes longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._timetable.release()
                    if not any(lane.is_busy for lane in self._lanes.values()):
                        return True
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False

    def _admit(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if lane := self._lanes.get(delivery.subscription):
                lane.pending += 1
                lane.pending_bytes += len(delivery.event)
                self._dispatch(delivery)

    def _dispatch(self, delivery: Delivery) -> None:
        """Puts `delivery` where it belongs now: into the timetable, the ready deliveries, or the dead ones."""
        lane = self._lanes.get(delivery.subscription)
        if lane is None:
            return
        if not delivery.dead_letter_reason and self.faults.delayed_delivery:
            delivery.due_at_s = max(delivery.due_at_s, lane.health.held_until_s)
        if delivery.due_at_s > self.clock.now():
            self._timetable.add(delivery)
            return
        (lane.dead if delivery.dead_letter_reason else lane.ready).append(delivery)
        if not lane.is_start_scheduled:
            # Later in this round of the event loop, so that deliveries that are due together can go together.
            lane.is_start_scheduled = True
            asyncio.get_running_loop().call_soon(self._start_ready, lane)

    def _start_ready(self, lane: _Lane) -> None:
        """Starts as many of the ready and dead deliveries as may be under way at the same time."""
        lane.is_start_scheduled = False
        if self._is_closing:
            return
        while lane.ready and len(lane.requests) < MAX_REQUESTS_PER_SUBSCRIPTION:
            if batch := self._next_batch(lane):
                request = self._start(lane, self._deliver(lane, batch))
                lane.requests.add(request)
        if lane.dead and lane.writer is None:
            lane.writer = self._start(lane, self._write_dead_letters(lane))
        self._progress.set()

    def _start(self, lane: _Lane, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        def done(task: asyncio.Task[None]) -> None:
            lane.requests.discard(task)
            if lane.writer is task:
                lane.writer = None
            if task.cancelled():
                return
            if error := task.exception():
                _log.error("Subscription %s: an unexpected error", lane.subscription.name, exc_info=error)
            self._start_ready(lane)

        task = asyncio.create_task(work)
        task.add_done_callback(done)
        return task

    def _next_batch(self, lane: _Lane) -> list[Delivery]:
        """Takes ready deliveries that can share a request, and gives up those that must not be attempted."""
        batch: list[Delivery] = []
        size_bytes = 0
        while lane.ready and len(batch) < lane.settings.max_events_per_batch:
            first, following = batch[0] if batch else lane.ready[0], lane.ready[0]
            size_bytes += len(following.event)
            alike = (first.attempts, first.is_cloud_event) == (following.attempts, following.is_cloud_event)
            if batch and (not alike or size_bytes > MAX_BATCH_BYTES):
                break
            lane.ready.popleft()
            if reason := self._reason_not_to_attempt(lane, following):
                self._give_up(lane, following, reason)
            else:
                batch.append(following)
        return batch

    def _reason_not_to_attempt(self, lane: _Lane, delivery: Delivery) -> str | None:
        if has_expired(
            published_at_s=delivery.published_at_s,
            time_to_live_minutes=lane.settings.event_time_to_live_in_minutes,
            now_s=self.clock.now(),
        ):
            return TIME_TO_LIVE_EXCEEDED
        if delivery.attempts == 0 and self.faults.strikes(self.faults.probation):
            delivery.last_outcome = "Probation"
            return PROBATION
        return None

    async def _deliver(self, lane: _Lane, batch: list[Delivery]) -> None:
        attempt_at_s = self.clock.now()
        answer = await self._send(lane, batch)
        if answer.is_success and self.faults.strikes(self.faults.lose_response):
            answer = TIMED_OUT
        if answer.is_success:
            lane.health.succeeded()
            self.stats.delivered += len(batch)
            for delivery in batch:
                self._finish(lane, delivery)
            return
        lane.health.failed(self.clock.now())
        for delivery in batch:
            delivery.attempts += 1
            delivery.last_attempt_at_s = attempt_at_s
            delivery.last_outcome = answer.outcome
            self._follow_up(lane, delivery, answer)
        if self.faults.delayed_delivery and lane.health.held_until_s > self.clock.now():
            held, lane.ready = lane.ready, deque()
            for delivery in held:
                self._dispatch(delivery)

    async def _send(self, lane: _Lane, batch: list[Delivery]) -> Answer:
        name, settings = lane.subscription.name, lane.settings
        if not self.faults.strikes(self.faults.duplicate):
            return await self._webhook.deliver(name, settings, batch)
        answer, _ = await asyncio.gather(
            self._webhook.deliver(name, settings, batch), self._webhook.deliver(name, settings, batch)
        )
        return answer

    def _follow_up(self, lane: _Lane, delivery: Delivery, answer: Answer) -> None:
        decision = after_failure(
            answer,
            attempts=delivery.attempts,
            max_attempts=lane.settings.max_delivery_attempts,
            jitter=self.faults.retry_jitter(),
        )
        match decision:
            case RetryIn(delay_s):
                self.stats.retried += 1
                delivery.due_at_s = self.clock.now() + delay_s
                self._journal.update(delivery)
                self._dispatch(delivery)
            case GiveUp(reason):
                self._give_up(lane, delivery, reason)

    def _give_up(self, lane: _Lane, delivery: Delivery, reason: str) -> None:
        if lane.settings.dead_letter_container is None:
            self.stats.dropped += 1
            self._finish(lane, delivery)
            return
        delivery.dead_letter_reason = reason
        delivery.gave_up_at_s = self.clock.now()
        delivery.due_at_s = delivery.gave_up_at_s + DEAD_LETTER_DELAY_S
        self._journal.update(delivery)
        self._dispatch(delivery)

    async def _write_dead_letters(self, lane: _Lane) -> None:
        while lane.dead:
            letters = [lane.dead.popleft() for _ in range(min(len(lane.dead), MAX_DEAD_LETTERS_PER_BLOB))]
            now_s = self.clock.now()
            is_written = self._dead_letters is not None and await self._dead_letters.write(
                lane.subscription.name, lane.settings, letters, now_s
            )
            for letter in letters:
                assert letter.gave_up_at_s is not None
                if is_written:
                    self.stats.dead_lettered += 1
                    self._finish(lane, letter)
                elif now_s >= letter.gave_up_at_s + DEAD_LETTER_DELAY_S + DEAD_LETTER_UNAVAILABLE_S:
                    self.stats.dropped += 1
                    self._finish(lane, letter)
                else:
                    letter.due_at_s = now_s + DEAD_LETTER_RETRY_S
                    self._dispatch(letter)

    def _finish(self, lane: _Lane, delivery: Delivery) -> None:
        lane.pending -= 1
        lane.pending_bytes -= len(delivery.event)
        self._journal.finish(delivery)

    def _start_handshake(self, lane: _Lane) -> None:
        if lane.handshake is not None:
            lane.handshake.cancel()
        lane.handshake = self._start(lane, self._shake_hands(lane)) if lane.subscription.candidate else None

    async def _shake_hands(self, lane: _Lane) -> None:
        subscription = lane.subscription
        name, code = subscription.name, subscription.validation_code
        url = f"{self._url}/control/topics/{self.topic}/subscriptions/{name}/validate?code={code}"
        while candidate := subscription.candidate:
            failure = await self._webhook.handshake(name, candidate, code=code, validation_url=url)
            if failure is None:
                subscription.activate()
                await self._journal.save(subscription)
                _log.info("Subscription %s is active", name)
                return
            subscription.handshake_failure = failure
            _log.info("Subscription %s: the handshake failed and will be repeated. %s", name, failure)
            await self.clock.sleep_until(self.clock.now() + HANDSHAKE_RETRY_S)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
