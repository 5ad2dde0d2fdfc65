"""Tasks that go through several endpoints: the steps of a pipeline, one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from shared.store.reports import SentOn
from shared.tasks.outcomes import Applied, Outcome, Refusal, Refused
from shared.tasks.task import Content, Place, Reason, State, Task
from tests.shared.store import steps
from tests.shared.store.conftest import Clock, Store, StoreFactory
from tests.shared.store.steps import HELLO, PIPELINE, RESULT, applied, claim, known, sweep_all
from tests.shared.store.world import Server, text, world

BLOB = Content("image/tiff", 100_000, "t-t1/result")
NAMED = replace(PIPELINE, pipeline="/v1/whole", owner="ann", priority=7)


async def complete(store: Store, attempt: int | None = None, status: str | None = "done") -> Outcome:
    return await store.update("t1", state=State.COMPLETED, status=status, attempt=attempt)


async def inline_body(store: Store) -> bytes | None:
    """The inline body of the current attempt, as its dispatcher gets it."""
    claimed = await store.claim("t1", None)
    assert not isinstance(claimed, Refused)
    return claimed.inline_body


async def test_a_step_that_completes_leads_to_the_next_one_with_the_result_as_its_body(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.in_pipeline(store, clock)
    await store.put_checkpoint("t1", steps.CHECKPOINT, b"weights", attempt=1)
    outcome = applied(await store.put_result("t1", RESULT, b"png", attempt=1, completed="completed - 3 boats"))
    assert (outcome.task.state, outcome.task.place, outcome.service_ms) == (State.CREATED, Place(2, 3), 1000)
    assert outcome.origin
    assert (outcome.origin.path, outcome.origin.attempt) == ("/v1/a", 1)
    assert world(redis_server) == text("""
        t:t1 created /v1/b 'created' a2 f0 n1 v5 c0 m2 q2 l90 dispatch body=image/png:3 step:2/3:1 sent-on:a1:9040
          query x=1
          +0 created a1 client 'created' at /v1/a
          +1 dispatched a1 dispatcher ''
          +1 running a1 client 'running'
          +2 created a2 client 'completed - 3 boats' next-step at /v1/b
        b:t1 png
        n:t1 due30 /v1/a?:l60 /v1/b?x=1:l90 /v1/c?:l60
        z:/v1/b:again t1@0
        z:/v1/b:since t1@2
        due t1@32
        paths /v1/b
    """)


async def test_the_last_step_ends_the_task_and_its_result_stays(store: Store, clock: Clock) -> None:
    await steps.in_pipeline(store, clock)
    for attempt in (1, 2):
        await store.put_result("t1", RESULT, b"png", attempt=attempt)
        assert applied(await complete(store, attempt)).task.place == Place(attempt + 1, 3)
        assert await store.inline_result("t1") is None
        assert await inline_body(store) == b"png"
    await store.put_result("t1", RESULT, b"map", attempt=3)
    task = applied(await complete(store, 3)).task
    assert (task.state, task.status, task.place, task.result) == (State.COMPLETED, "done", Place(3, 3), RESULT)
    assert await store.inline_result("t1") == b"map"


async def test_a_step_without_a_result_passes_its_body_on(store: Store, clock: Clock) -> None:
    await steps.in_pipeline(store, clock)
    await complete(store)
    assert await inline_body(store) == b"hello"


@pytest.mark.parametrize("body", [PIPELINE.body, Content("image/tiff", 70_000, "t-t1/body")])
@pytest.mark.parametrize("stored", [None, RESULT, BLOB])
@pytest.mark.parametrize("given", [RESULT, BLOB])
async def test_a_result_becomes_the_body_by_reference_and_what_it_replaces_is_named_no_more(
    store: Store, clock: Clock, redis_server: Server, body: Content, stored: Content | None, given: Content
) -> None:
    await store.create(replace(PIPELINE, body=body))
    await claim(store)
    if stored:
        await store.put_result("t1", stored, b"old", attempt=1)
    now = given._replace(blob="t-t1/given") if given.blob else given
    outcome = applied(await store.put_result("t1", now, b"png", attempt=1, completed="done"))
    assert (outcome.task.body, outcome.task.result) == (now, None)
    if not store.is_repeating:  # a repetition does not know them
        named = [content.blob for content in (body, stored) if content and content.blob]
        assert sorted(outcome.unnamed_blobs) == sorted(named)
    world(redis_server)  # which has no more contents than the record


@pytest.mark.parametrize("stored", [RESULT, BLOB])
async def test_a_result_that_was_stored_before_becomes_the_body(
    store: Store, clock: Clock, redis_server: Server, stored: Content
) -> None:
    await steps.in_pipeline(store, clock)
    await store.put_result("t1", stored, b"png", attempt=1)
    ignored = {"body": Content("text/plain", 2), "inline_body": b"no"}
    outcome = applied(await store.update("t1", state=State.COMPLETED, status="done", **ignored))
    assert (outcome.task.body, outcome.task.result, [*outcome.unnamed_blobs]) == (stored, None, [])
    world(redis_server)


async def test_a_pipeline_goes_on_when_the_backends_answer_is_the_result(store: Store, clock: Clock) -> None:
    await store.create(PIPELINE)
    task = await claim(store)
    outcome = applied(await store.complete(task, RESULT, b"png", status="done"))
    assert (outcome.task.path, outcome.task.query, outcome.task.lease_s) == ("/v1/b", "x=1", 90)
    assert [event.reason for event in outcome.task.history] == [Reason.SUBMIT, Reason.CLAIM, Reason.NEXT_STEP]
    assert await inline_body(store) == b"png"


async def test_an_end_that_was_kept_aside_is_not_the_next_steps(store: Store, redis_server: Server) -> None:
    await store.create(PIPELINE)
    task = await claim(store)
    await store.update("t1", state=State.RUNNING, status="completed", told=State.COMPLETED)
    await store.complete(task, RESULT, b"png", status="done")
    assert "ends:" not in world(redis_server)


Repeat = Callable[[Store], Awaitable[Outcome]]
REPEATS: dict[str, Repeat] = {
    "a report": lambda store: complete(store, 1),
    "a result": lambda store: store.put_result("t1", RESULT, b"png", attempt=1, completed="done"),
    "a large result": lambda store: store.put_result("t1", BLOB, b"", attempt=1, completed="done"),
    "a next step": lambda store: store.next_step(
        "t1", attempt=1, sent_on=SentOn("current", "abc"), path="/v1/x", status="created"
    ),
}
OTHERS: dict[str, Repeat] = {
    "a report": lambda store: store.update("t1", state=State.FAILED, status="done", attempt=1),
    "a result": lambda store: store.put_result("t1", RESULT, b"gif", attempt=1, completed="done"),
    "a large result": lambda store: store.put_result(
        "t1", BLOB._replace(size_bytes=99_999), b"", attempt=1, completed="done"
    ),
    "a next step": lambda store: store.next_step(
        "t1", attempt=1, sent_on=SentOn("current", "abd"), path="/v1/x", status="created"
    ),
}


@pytest.mark.parametrize("name", REPEATS)
async def test_a_service_that_lost_the_answer_repeats_its_step_in_vain_whatever_became_of_the_task(
    store: Store, clock: Clock, redis_server: Server, name: str
) -> None:
    await steps.in_pipeline(store, clock)
    applied(await REPEATS[name](store))

    async def is_taken_once() -> None:
        before, task = world(redis_server), await known(store)
        assert await REPEATS[name](store) == Applied(task)
        refused = await OTHERS[name](store)
        assert isinstance(refused, Refused)
        assert refused.reason is Refusal.STALE
        assert world(redis_server) == before

    await is_taken_once()
    await claim(store)
    await is_taken_once()
    await store.update("t1", state=State.FAILED, status="failed", attempt=2)
    await is_taken_once()


async def test_of_the_last_sixteen_attempts_it_is_known_how_they_sent_the_task_on(store: Store) -> None:
    await store.create(HELLO)
    for attempt in range(1, 19):
        await claim(store)
        sent_on = SentOn("current", f"to {attempt}")
        await store.next_step("t1", attempt=attempt, sent_on=sent_on, path="/v1/a", status="created")
    assert [attempt for attempt, _ in (await known(store)).sent_on] == [*range(3, 19)]


@pytest.mark.parametrize("state", State)
async def test_a_service_sends_on_only_what_it_has(store: Store, clock: Clock, state: State) -> None:
    await store.create(HELLO)
    if state is not State.CREATED:
        await claim(store)
    if state not in (State.CREATED, State.DISPATCHED):
        await store.update("t1", state=state, status="now", attempt=1)
    outcome = await store.next_step("t1", attempt=1, sent_on=SentOn("current", "x"), path="/v1/b", status="created")
    if state in (State.DISPATCHED, State.RUNNING):
        assert applied(outcome).task.path == "/v1/b"
    else:
        assert isinstance(outcome, Refused)
        assert outcome.reason is (Refusal.FINISHED if state.is_terminal else Refusal.STATE)


async def test_the_result_is_sent_on_if_there_is_one(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.running(store, clock)
    result = SentOn("result", "x")
    before = world(redis_server)
    outcome = await store.next_step("t1", attempt=1, sent_on=result, path="/v1/b", status="created")
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.RESULTLESS
    assert world(redis_server) == before
    await store.put_result("t1", RESULT, b"png", attempt=1)
    task = applied(await store.next_step("t1", attempt=1, sent_on=result, path="/v1/b", status="created")).task
    assert (task.body, task.result) == (RESULT, None)
    assert await inline_body(store) == b"png"


async def test_a_detour_does_not_change_the_place_in_the_pipeline(store: Store, clock: Clock) -> None:
    await steps.in_pipeline(store, clock)
    sent_on = SentOn("current", "x")
    task = applied(await store.next_step("t1", attempt=1, sent_on=sent_on, path="/v1/x", status="created")).task
    assert (task.path, task.place) == ("/v1/x", Place(1, 3))
    await claim(store)
    task = applied(await complete(store, 2)).task
    assert (task.path, task.place) == ("/v1/b", Place(2, 3))


async def test_a_replay_begins_the_failed_step_again_with_its_own_body(store: Store, clock: Clock) -> None:
    await steps.in_pipeline(store, clock)
    await store.put_result("t1", RESULT, b"png", attempt=1, completed="done")
    await claim(store)
    await store.put_result("t1", RESULT, b"half", attempt=2)
    await store.update("t1", state=State.FAILED, status="failed", attempt=2)
    task = applied(await store.replay("t1")).task
    assert (task.path, task.query, task.place, task.result) == ("/v1/b", "x=1", Place(2, 3), None)
    assert await inline_body(store) == b"png"


async def test_a_silent_step_alone_is_run_again(store: Store, clock: Clock) -> None:
    await steps.in_pipeline(store, clock)
    await store.put_result("t1", RESULT, b"png", attempt=1, completed="done")
    await store.accepted(await claim(store))
    clock.advance(90)
    await sweep_all(store)
    task = await known(store)
    assert (task.attempt, task.path, task.place) == (3, "/v1/b", Place(2, 3))
    assert task.history[-1].reason is Reason.SILENCE
    assert await inline_body(store) == b"png"


@pytest.mark.parametrize("end", [State.FAILED, State.CANCELLED])
async def test_another_end_ends_the_task_in_each_step(store: Store, clock: Clock, end: State) -> None:
    await steps.in_pipeline(store, clock)
    await complete(store, 1)
    assert applied(await store.update("t1", state=end, status="over")).task.state is end


async def test_the_end_that_a_text_tells_leads_on_when_it_takes_effect(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.in_pipeline(store, clock)
    told = applied(await store.update("t1", state=State.RUNNING, status="completed: 3", told=State.COMPLETED))
    assert (told.task.state, told.slot) == (State.RUNNING, "freed")
    clock.advance(30)
    found = await sweep_all(store)
    assert [(item.what, item.id) for item in found] == ([] if store.is_repeating else [("next step", "t1")])
    outcome = applied(await store.end_step("t1"))
    assert (outcome.task.path, outcome.task.place, outcome.task.history[-1].status) == (
        "/v1/b",
        Place(2, 3),
        "completed: 3",
    )
    assert "handed-on" in world(redis_server)
    # The service of the first step ends a second time, as legacy services do.
    late = applied(await complete(store))
    assert (late.task.path, late.task.state, late.task.place) == ("/v1/b", State.CREATED, Place(2, 3))
    outcome_again = await store.end_step("t1")
    assert isinstance(outcome_again, Refused)


@pytest.mark.parametrize("told", [None, State.FAILED])
async def test_an_end_that_was_taken_back_leads_nowhere(store: Store, clock: Clock, told: State | None) -> None:
    await steps.in_pipeline(store, clock)
    await store.update("t1", state=State.RUNNING, status="completed", told=State.COMPLETED)
    await store.update("t1", state=State.RUNNING, status="and on", told=told)
    outcome = await store.end_step("t1")
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.STATE


async def test_a_reconciler_that_dies_between_two_steps_is_followed_by_another(
    open_store: StoreFactory, clock: Clock
) -> None:
    store = open_store()
    await steps.in_pipeline(store, clock)
    await store.update("t1", state=State.RUNNING, status="completed", told=State.COMPLETED)
    clock.advance(30)
    for _ in range(2):
        assert [item.what for item in await sweep_all(store)] == ["next step"]
        clock.advance(30)


async def test_a_named_pipeline_counts_and_lists_its_tasks_beside_their_endpoints(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    async def counted(state: State) -> list[int]:
        return [getattr((await store.queries.depths(path))[path], state) for path in ("/v1/whole", "/v1/a", "/v1/b")]

    await store.create(NAMED)
    assert await counted(State.CREATED) == [1, 1, 0]
    await claim(store)
    await store.update("t1", state=State.RUNNING, status="running", attempt=1)
    assert await counted(State.RUNNING) == [1, 1, 0]
    clock.advance(5)
    task = applied(await complete(store, 1)).task
    assert (task.pipeline, task.owner, task.priority) == ("/v1/whole", "ann", 7)
    assert await counted(State.CREATED) == [1, 0, 1]
    assert (await store.queries.depths()).keys() == {"/v1/b"}
    await store.cancel("t1")
    assert await counted(State.CANCELLED) == [1, 0, 1]
    clock.advance(1000)
    await sweep_all(store)
    assert world(redis_server) == ""


async def test_the_history_knows_the_path_of_each_event_and_keeps_more_of_a_pipeline(
    store: Store, clock: Clock
) -> None:
    await store.create(PIPELINE)

    async def run() -> Task:
        task = await claim(store)
        for _ in range(15):
            await store.requeue(task, status="busy")
            task = await claim(store)
        return task

    await store.complete(await run(), RESULT, b"png", status="done")
    await store.complete(await run(), RESULT, b"png", status="done")
    events = [*(await known(store)).history]
    assert len(events) == 44
    assert [events[0].path, events[0].reason] == ["/v1/a", Reason.SUBMIT]
    assert [event.reason for event in events].count(Reason.NEXT_STEP) == 2
    paths = [event.path for event in events]
    assert paths == sorted(paths)
    assert [*dict.fromkeys(paths)] == ["/v1/a", "/v1/b", "/v1/c"]
    assert [event.path for event in events if event.attempt <= 16] == ["/v1/a"] * paths.count("/v1/a")


async def test_a_trimmed_history_still_knows_where_its_events_were(store: Store) -> None:
    await store.create(HELLO)
    await store.next_step("t1", status="created", path="/v1/b")
    for _ in range(20):
        await store.requeue(await claim(store), status="busy")
    events = [*(await known(store)).history]
    assert len(events) == 32
    assert [event.path for event in events] == ["/v1/a"] + ["/v1/b"] * 31
