"""How often a queue grants slots at most: in no window of time more than its rate says, whatever happens."""

from __future__ import annotations

import bisect
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
import redis

from shared.rate import Rate
from shared.store.queries import Queries
from shared.store.queue_steps import QueueEntry, QueueSteps
from shared.store.redis.link import RedisLink
from shared.store.series import EndpointSeries
from shared.tasks.outcomes import Enqueued, Full, Granted, SlotGrant
from shared.tasks.task import Task
from shared.tasks.told_slots import ToldSlots
from tests.shared.store.conftest import Clock, opener
from tests.shared.store.fleet import PATH, new_task
from tests.shared.store.policies import store_policy
from tests.shared.store.test_queues import delete, keys, tasks
from tests.shared.store.world import START_MS, Server, nodes

POLICY = store_policy(slot_claim_s=30, slot_check_s=20, busy_retry_s=5, backoff_base_s=2)
EVENLY, BURST = Rate(6, 12), Rate(6, 12, is_burst=True)
BOTH = pytest.mark.parametrize("rate", [EVENLY, BURST], ids=["evenly", "burst"])
HOUR_MS = 3_600_000


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(opener(redis_url))
    yield link
    await link.aclose()


@dataclass
class Rated:
    """A queue whose rate may change, and who asks it when it says so. Its backend ends tasks at once.

    Attributes:
        late_ms: how much later than told who asks does so.
        granted_ms: when slots were granted.
        asked: how often it was asked.
    """

    link: RedisLink
    clock: Clock
    rate: Rate | None
    late_ms: Callable[[], int] = lambda: 0
    max_backlog: int | None = None
    granted_ms: list[int] = field(default_factory=list[int])
    asked: int = 0

    def __post_init__(self) -> None:
        self.configure(self.rate)
        self._asks_ms: int | None = None
        self._tasks = 0

    def configure(self, rate: Rate | None) -> None:
        """Go on as a process that has other settings."""
        self.rate, policy = rate, replace(POLICY, max_backlog=self.max_backlog)
        self.queues = QueueSteps(self.link, policy, now_ms=self.clock, rate_of=lambda path: rate)

    async def take(self, count: int) -> None:
        """Let *count* more tasks come, each as a new one."""
        for _ in range(count):
            self._tasks += 1
            task = new_task(f"t{self._tasks}", self.clock)
            enqueued = await self.queues.enqueue_new(QueueEntry.of(task))
            assert isinstance(enqueued, Enqueued)
            await self.follow(enqueued.granted)

    async def follow(self, granted: Granted) -> None:
        """End what was granted, which frees its slot, and so on."""
        left = [granted]
        while left:
            each = left.pop()
            if each.ask_again_s is not None:
                # As a dispatcher does: the earliest one counts.
                asks_ms = self.clock.ms + round(each.ask_again_s * 1000) + self.late_ms()
                self._asks_ms = asks_ms if self._asks_ms is None else min(self._asks_ms, asks_ms)
            for grant in each.grants:
                self.granted_ms.append(self.clock.ms)
                left.append(await self.queues.accepted(_task_of(grant, self.clock)))
                left.append(await self.queues.release(PATH, grant, "", 10))

    async def run(self, until_ms: int) -> None:
        """Ask whenever it is time, until then."""
        while self._asks_ms is not None and self._asks_ms <= until_ms:
            self.clock.ms, self._asks_ms = max(self.clock.ms, self._asks_ms), None
            self.asked += 1
            await self.follow(await self.queues.grant_free_slots(PATH))
        self.clock.ms = max(self.clock.ms, until_ms)


def _task_of(grant: SlotGrant, clock: Clock) -> Task:
    return replace(new_task(grant.task_id, clock), attempt=grant.attempt)


def most_within(times_ms: Sequence[int], window_ms: int) -> int:
    """The most grants in any window of this length."""
    return max(bisect.bisect_left(times_ms, at + window_ms) - first for first, at in enumerate(times_ms))


@pytest.fixture
def rated(link: RedisLink, clock: Clock) -> Callable[..., Rated]:
    return lambda rate, **more: Rated(link, clock, rate, **more)


@BOTH
async def test_no_window_has_more_grants_than_the_rate_says_and_a_busy_queue_has_as_many(
    rate: Rate, rated: Callable[..., Rated]
) -> None:
    queue = rated(rate)
    await queue.take(60)
    await queue.run(START_MS + 96_000)
    assert most_within(queue.granted_ms, 12_000) == 6
    assert len(queue.granted_ms) >= 48


async def test_grants_are_even(rated: Callable[..., Rated]) -> None:
    queue = rated(EVENLY)
    await queue.take(20)
    await queue.run(START_MS + 30_000)
    gaps = [after - before for before, after in zip(queue.granted_ms, queue.granted_ms[1:], strict=False)]
    assert min(gaps) > 1_900 and max(gaps) < 2_100


async def test_evenly_an_idle_time_is_not_made_up_for(rated: Callable[..., Rated], clock: Clock) -> None:
    queue = rated(Rate(50, 1))
    await queue.queues.tell(PATH, ToldSlots(50, ""))
    await queue.take(1)
    clock.advance(3_600)
    await queue.take(9)
    assert len(queue.granted_ms) == 2


async def test_grants_in_a_burst_come_at_once(rated: Callable[..., Rated]) -> None:
    queue = rated(BURST)
    await queue.take(20)
    assert queue.granted_ms == [START_MS] * 6
    await queue.run(START_MS + 12_000)
    assert queue.granted_ms == [START_MS] * 6 + [START_MS + 12_000] * 6


@pytest.mark.parametrize("rate", [Rate(50, 1), Rate(50, 1, is_burst=True)], ids=["evenly", "burst"])
async def test_who_asks_a_few_ms_late_loses_next_to_nothing(rate: Rate, rated: Callable[..., Rated]) -> None:
    draw = random.Random(19)
    queue = rated(rate, late_ms=lambda: draw.randint(0, 8))
    await queue.take(450)
    await queue.run(START_MS + 8_000)
    assert most_within(queue.granted_ms, 1_000) == 50
    assert len(queue.granted_ms) >= 0.98 * 400


@pytest.mark.parametrize("is_burst", [False, True])
async def test_a_rate_of_thousands_a_second_is_exact_and_asked_for_in_groups(
    is_burst: bool, rated: Callable[..., Rated]
) -> None:
    queue = rated(Rate(4_000, 1, is_burst), late_ms=lambda: 1)
    await queue.queues.tell(PATH, ToldSlots(5_000, ""))
    await queue.take(1_000)
    await queue.run(START_MS + 240)
    count = len(queue.granted_ms)
    assert count == 1_000 if is_burst else 900 < count <= 4_000 * 0.24 + 40
    assert most_within(queue.granted_ms, 10) <= (1_000 if is_burst else 4_000 * 0.02 + 1)
    assert queue.asked <= 240 / 5 * 2 + 2


@BOTH
async def test_a_rate_far_below_one_a_round_of_the_reconciler_is_kept(
    rate: Rate, rated: Callable[..., Rated], clock: Clock
) -> None:
    queue = rated(Rate(1, 86_400, rate.is_burst))
    await queue.take(2)
    assert queue.granted_ms == [START_MS]
    clock.ms = START_MS + 86_399_000
    assert (await queue.queues.maintain(PATH)).granted.grants == []
    clock.ms = START_MS + 86_400_000 + 50
    assert len((await queue.queues.maintain(PATH)).granted.grants) == 1


async def test_two_are_told_when_to_ask_and_others_look_a_while_later(
    rated: Callable[..., Rated], clock: Clock
) -> None:
    queue = rated(EVENLY)
    await queue.take(1)
    told: list[float | None] = []
    for number in range(5):
        enqueued = await queue.queues.enqueue_new(QueueEntry.of(new_task(f"w{number}", clock)))
        assert isinstance(enqueued, Enqueued)
        told.append(enqueued.granted.ask_again_s)
    first, second, *others = told
    assert first is not None and first == second
    assert others == [first + 1] * 3
    clock.ms += round(first * 1000)
    granted = await queue.queues.grant_free_slots(PATH)
    assert (len(granted.grants), granted.ask_again_s) == (1, pytest.approx(first, abs=0.1))


async def test_what_lies_beyond_a_timer_is_told_and_counts_for_nobody(
    rated: Callable[..., Rated], clock: Clock
) -> None:
    queue = rated(Rate(1, 60))
    await queue.take(3)
    for _ in range(3):
        granted = await queue.queues.grant_free_slots(PATH)
        assert granted.ask_again_s == 60
    clock.advance(56)
    granted = await queue.queues.grant_free_slots(PATH)
    assert granted.ask_again_s is not None and granted.ask_again_s <= 4 + 1


@BOTH
async def test_a_grant_that_came_to_nothing_counts(rate: Rate, rated: Callable[..., Rated], clock: Clock) -> None:
    queue = rated(Rate(1, 60, rate.is_burst))
    (task,) = tasks(1, clock)
    assert isinstance(enqueued := await queue.queues.enqueue_new(QueueEntry.of(task)), Enqueued)
    assert len(enqueued.granted.grants) == 1
    await queue.queues.return_entry(task, replace(task, attempt=2))
    clock.advance(59)
    assert (await queue.queues.grant_free_slots(PATH)).grants == []
    clock.advance(2)
    assert len((await queue.queues.grant_free_slots(PATH)).grants) == 1


@BOTH
async def test_nothing_else_holds_a_slot_back(rate: Rate, rated: Callable[..., Rated], clock: Clock) -> None:
    """A queue that was idle for long grants at once, and a paused one goes on at once."""
    queue = rated(rate)
    await queue.take(1)
    clock.advance(3_600)
    await queue.take(1)
    assert len(queue.granted_ms) == 2
    await queue.queues.configure(PATH, {"paused": True})
    await queue.take(1)
    clock.advance(60)
    await queue.follow(await queue.queues.configure(PATH, {"paused": False}))
    assert len(queue.granted_ms) == 3


@BOTH
async def test_an_operators_rate_goes_before_the_configured_one(
    rate: Rate, rated: Callable[..., Rated], clock: Clock
) -> None:
    queue = rated(rate)
    await queue.queues.configure(PATH, {"rate": Rate(2, 60), "burst": True}, by="jo")
    status = await queue.queues.status(PATH)
    assert (status.rate, status.settings_by) == (Rate(2, 60, is_burst=True), "jo")
    await queue.take(9)
    assert len(queue.granted_ms) == 2
    await queue.queues.configure(PATH, {"rate": None, "burst": None})
    assert (await queue.queues.status(PATH)).rate == rate


async def test_evenly_is_a_setting_too(rated: Callable[..., Rated]) -> None:
    queue = rated(BURST)
    await queue.queues.configure(PATH, {"burst": False})
    assert (await queue.queues.status(PATH)).rate == EVENLY
    await queue.take(9)
    assert len(queue.granted_ms) == 1


async def test_a_rate_that_is_configured_no_more_is_forgotten(
    rated: Callable[..., Rated], clock: Clock, redis_server: Server
) -> None:
    queue = rated(EVENLY)
    await queue.take(9)
    queue.configure(None)
    await queue.follow(await queue.queues.grant_free_slots(PATH))
    assert len(queue.granted_ms) == 9
    await queue.take(1)
    await queue.queues.maintain(PATH)
    (state,) = keys(redis_server, f"q:{PATH}").values()
    assert "R" not in state and "L" in state, "another process may not know of it yet"
    clock.advance(86_401)
    await queue.queues.maintain(PATH)
    (state,) = keys(redis_server, f"q:{PATH}").values()
    assert "L" not in state


async def test_a_step_that_does_not_tell_of_it_goes_by_the_rate_that_was_given_last(
    rated: Callable[..., Rated], redis_server: Server, clock: Clock
) -> None:
    queue = rated(EVENLY)
    await queue.take(4)
    await EndpointSeries(queue.link, clock).note_oldest({PATH: 1_000_000})
    (state,) = keys(redis_server, f"q:{PATH}").values()
    assert state["R"] == [6, 12_000, 0]


async def test_without_a_rate_the_state_has_nothing_of_it(rated: Callable[..., Rated], redis_server: Server) -> None:
    queue = rated(None)
    await queue.take(9)
    assert len(queue.granted_ms) == 9
    found = keys(redis_server, PATH)
    assert not {"R", "L"} & found[f"q:{PATH}"].keys()
    assert f"qr:{PATH}" not in found


@pytest.mark.parametrize("after", [Rate(12, 12), Rate(3, 12), Rate(6, 6), Rate(1, 1)], ids=str)
async def test_a_change_counts_from_then_on(after: Rate, rated: Callable[..., Rated], clock: Clock) -> None:
    queue = rated(EVENLY)
    await queue.take(60)
    await queue.run(START_MS + 30_000)
    queue.configure(after)
    before = len(queue.granted_ms)
    changed_ms = clock.ms
    await queue.follow(await queue.queues.grant_free_slots(PATH))
    await queue.run(changed_ms + 3 * after.window_s * 1000)
    later = queue.granted_ms[before:]
    assert most_within(later, after.window_s * 1000) == after.tasks
    assert len(later) >= 3 * after.tasks - 1, "the change is not waited for"


async def test_a_change_between_evenly_and_at_once_lets_no_window_have_more(
    rated: Callable[..., Rated], clock: Clock
) -> None:
    queue = rated(EVENLY)
    await queue.take(60)
    for rate in (EVENLY, BURST, EVENLY, BURST, BURST, EVENLY):
        queue.configure(rate)
        await queue.follow(await queue.queues.grant_free_slots(PATH))
        await queue.run(clock.ms + 7_000)
    assert most_within(queue.granted_ms, 12_000) == 6
    assert len(queue.granted_ms) >= 6 * 3


Loss = Callable[[Server], None]


def _losing(*kinds: str) -> Loss:
    return lambda server: delete(server, *kinds)


LOSSES = {
    "the state": _losing("q"),
    "the times": _losing("qr"),
    "the state and the times": _losing("q", "qr"),
    "the state and who holds slots": _losing("q", "qh"),
}


@BOTH
@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
async def test_lost_keys_let_no_window_have_more(
    rate: Rate, lose: Loss, rated: Callable[..., Rated], redis_server: Server, clock: Clock
) -> None:
    queue = rated(rate)
    await queue.take(30)
    await queue.run(START_MS + 13_000)
    lose(redis_server)
    await queue.follow(await queue.queues.grant_free_slots(PATH))
    await queue.run(START_MS + 60_000)
    assert most_within(queue.granted_ms, 12_000) == 6
    assert len(queue.granted_ms) >= 6 * 4 - 1, "it goes on after a window"


@BOTH
@pytest.mark.parametrize("waiting", [30, 12], ids=["some wait", "none waits"])
async def test_who_comes_first_after_a_loss_lets_no_window_have_more(
    rate: Rate, waiting: int, rated: Callable[..., Rated], redis_server: Server, clock: Clock
) -> None:
    """It is not taken for the first task of a new queue, whatever is lost of this one."""
    queue = rated(rate)
    await queue.take(waiting)
    await queue.run(START_MS + 23_000)
    before = len(queue.granted_ms)
    delete(redis_server, "q", "qr", "qh", "qo", "qw")
    await queue.take(30)
    await queue.run(clock.ms + 60_000)
    assert most_within(queue.granted_ms, 12_000) == 6
    assert len(queue.granted_ms) - before >= 6 * 4 - 1, "it goes on after a window"


@BOTH
async def test_times_that_somebody_else_wrote_let_no_window_have_more(
    rate: Rate, rated: Callable[..., Rated], redis_server: Server
) -> None:
    queue = rated(rate)
    await queue.take(30)
    for node in nodes(redis_server):
        with redis.Redis(port=node.port) as client:
            for key in [*client.scan_iter("*qr:*")]:
                client.delete(key)
                client.set(key, "somebody else's")
    await queue.follow(await queue.queues.grant_free_slots(PATH))
    await queue.run(START_MS + 40_000)
    assert most_within(queue.granted_ms, 12_000) == 6


@BOTH
@pytest.mark.parametrize("loses", [False, True], ids=["kept", "lost"])
async def test_a_clock_that_is_set_back_lets_no_window_have_more(
    rate: Rate, loses: bool, rated: Callable[..., Rated], clock: Clock, redis_server: Server
) -> None:
    queue = rated(rate)
    await queue.take(30)
    await queue.run(START_MS + 11_000)
    first = [*queue.granted_ms]
    clock.ms -= HOUR_MS
    queue.granted_ms.clear()
    if loses:
        delete(redis_server, "q")
    await queue.follow(await queue.queues.grant_free_slots(PATH))
    await queue.run(clock.ms + 30_000)
    # No time was known to pass while the clock was set.
    assert most_within([at - HOUR_MS for at in first] + queue.granted_ms, 12_000) == 6
    assert len(queue.granted_ms) >= 12


@BOTH
async def test_a_waiting_task_is_told_when_the_rate_allows_it(
    rate: Rate, rated: Callable[..., Rated], clock: Clock
) -> None:
    queue = rated(rate)
    await queue.take(6)
    await queue.run(START_MS + 12_100)
    assert len(queue.granted_ms) == 6
    waiting = tasks(20, clock, name="w")
    await queue.follow(await queue.queues.enqueue([QueueEntry.of(task) for task in waiting]))
    count = len(queue.granted_ms)
    expected: list[float] = []
    for task in waiting[count - 6 :]:
        position = (await queue.queues.status(PATH, task)).position
        assert position is not None and position.wait_s is not None
        expected.append(clock.ms + position.wait_s * 1000)
    await queue.run(clock.ms + 60_000)
    assert len(queue.granted_ms) == 26
    assert expected == [pytest.approx(at, abs=2) for at in queue.granted_ms[count:]]


@BOTH
async def test_a_full_queue_tells_when_the_rate_makes_room(
    rate: Rate, rated: Callable[..., Rated], clock: Clock
) -> None:
    queue = rated(rate, max_backlog=3)
    await queue.take(1)
    while (await queue.queues.status(PATH)).waiting < 3:
        await queue.take(1)
    full = await queue.queues.enqueue_new(QueueEntry.of(new_task("more", clock)))
    assert isinstance(full, Full) and full.room_in_s is not None
    await queue.run(clock.ms + round(full.room_in_s * 1000) - 5)
    assert isinstance(await queue.queues.enqueue_new(QueueEntry.of(new_task("more", clock))), Full)
    await queue.run(clock.ms + 10)
    assert isinstance(await queue.queues.enqueue_new(QueueEntry.of(new_task("more", clock))), Enqueued)


async def test_metrics_tell_the_rate_that_applies(rated: Callable[..., Rated], clock: Clock) -> None:
    queue = rated(Rate(90, 60))
    series = EndpointSeries(queue.link, clock)
    await queue.take(1)
    assert (await series.totals([PATH]))[PATH].rate == 1.5
    await queue.queues.configure(PATH, {"rate": Rate(5, 1)})
    assert (await series.totals([PATH]))[PATH].rate == 5
    queue.configure(None)
    await queue.queues.configure(PATH, {"rate": None})
    assert (await series.totals([PATH]))[PATH].rate is None


async def test_the_operators_rate_outlasts_the_queues_keys(
    rated: Callable[..., Rated], redis_server: Server, clock: Clock
) -> None:
    queue = rated(None)
    await queue.queues.configure(PATH, {"rate": Rate(2, 60), "burst": True})
    assert await Queries(queue.link, clock).paths_with_settings() == {PATH}
    delete(redis_server, "q", "qs", "qr", "qo", "qh")
    assert (await queue.queues.status(PATH)).rate == Rate(2, 60, is_burst=True)
    await queue.take(5)
    assert len(queue.granted_ms) == 2


@pytest.mark.parametrize("text", ["100/60s", "1/1s", "10000/86400s"])
def test_a_rate_is_written_as_it_is_read(text: str) -> None:
    assert str(Rate.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "100",
        "0/60s",
        "100/0s",
        "10001/1s",
        "1/86401s",
        "1/60",
        "1/1.5s",
        "-1/60s",
        "01/60s",
        "1/60s ",
        "\u0661/60s",
    ],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be like 100/60s"):
        Rate.parse(text)
