"""Each step of a task's life, with all keys before and after it."""

from __future__ import annotations

import pytest

from shared.tasks.end_reason import EndReason
from shared.tasks.outcomes import Applied, Claimed, Created, Existing, Origin, Refusal, Refused
from shared.tasks.task import Content, NewTask, State
from tests.shared.store import steps
from tests.shared.store.conftest import Clock, Store
from tests.shared.store.steps import HELLO, RESULT, lasting, sweep_all
from tests.shared.store.world import Server, text, world

CREATED = text("""
    t:t1 created /v1/a 'created' a1 f0 n1 v1 c0 m0 q0 l60 dispatch body=text/plain:5
      +0 created a1 client 'created'
    b:t1 hello
    z:/v1/a:created t1@0
    due t1@30
    paths /v1/a
""")
DISPATCHED = text("""
    t:t1 dispatched /v1/a 'created' a1 f0 n1 v2 c0 m1 q0 l60 dispatch body=text/plain:5
      +0 created a1 client 'created'
      +1 dispatched a1 dispatcher ''
    b:t1 hello
    z:/v1/a:dispatched t1@0
    due t1@41
    paths /v1/a
""")
RUNNING = text("""
    t:t1 running /v1/a 'running model' a1 f0 n1 v3 c0 m2 q0 l60 dispatch body=text/plain:5
      +0 created a1 client 'created'
      +1 dispatched a1 dispatcher ''
      +2 running a1 client 'running model'
    b:t1 hello
    z:/v1/a:running t1@0
    due t1@62
    paths /v1/a
""")
WITH_RESULT = text("""
    t:t1 running /v1/a 'running model' a1 f0 n1 v4 c0 m3 q0 l60 dispatch body=text/plain:5 result=image/png:3
      +0 created a1 client 'created'
      +1 dispatched a1 dispatcher ''
      +2 running a1 client 'running model'
    b:t1 hello
    r:t1 png
    z:/v1/a:running t1@0
    due t1@63
    paths /v1/a
""")
COMPLETED = text("""
    t:t1 completed /v1/a 'completed' a1 f0 n1 v5 c0 m4 q0 l60 dispatch body=text/plain:5 result=image/png:3
      +0 created a1 client 'created'
      +1 dispatched a1 dispatcher ''
      +2 running a1 client 'running model'
      +4 completed a1 client 'completed'
    b:t1 hello
    r:t1 png
    z:/v1/a:completed t1@0
    due t1@1004
    paths /v1/a
""")


async def test_a_created_task_has_record_body_index_and_deadline(store: Store, redis_server: Server) -> None:
    assert world(redis_server) == ""
    outcome = await store.create(HELLO)
    assert world(redis_server) == CREATED
    task = await store.get("t1")
    assert task
    assert outcome == Created(task)


async def test_a_created_task_keeps_every_given_field(store: Store, redis_server: Server) -> None:
    assert world(redis_server) == ""
    outcome = await store.create(
        NewTask(
            "t2",
            "/v1/b",
            0.5,
            status="queued",
            query="size=3",
            body=Content("image/tiff", 70_000, "t2/body"),
            inline_body=b"ignored",
            traceparent="00-1-2-01",
            owner="alice",
            fingerprint="f00d",
        )
    )
    assert world(redis_server) == text("""
        t:t2 created /v1/b 'queued' a1 f0 n1 v1 c0 m0 q0 l0.5 dispatch body=image/tiff:70000:t2/body blobs
          query size=3
          owner alice
          traceparent 00-1-2-01
          fingerprint f00d
          +0 created a1 client 'queued'
        z:/v1/b:created t2@0
        due t2@30
        paths /v1/b
    """)
    task = outcome.task
    assert (task.id, task.path, task.status, task.query) == ("t2", "/v1/b", "queued", "size=3")
    assert (task.owner, task.traceparent, task.fingerprint) == ("alice", "00-1-2-01", "f00d")
    assert task.body == Content("image/tiff", 70_000, "t2/body")


@pytest.mark.parametrize("state", list(State))
async def test_a_task_without_dispatch_begins_in_any_state_and_is_kept_for_the_retention(
    store: Store, redis_server: Server, state: State
) -> None:
    assert world(redis_server) == ""
    await store.create(NewTask("t1", "/v1/a", 60, state=state, dispatch_requested=False))
    assert world(redis_server) == text(f"""
        t:t1 {state} /v1/a 'created' a1 f0 n0 v1 c0 m0 q0 l60 no-dispatch
          +0 {state} a1 client 'created'
        z:/v1/a:{state} t1@0
        due t1@1000
        paths /v1/a
    """)


async def test_an_empty_body_is_a_body(store: Store, redis_server: Server) -> None:
    await store.create(NewTask("t1", "/v1/a", 60, body=Content("text/plain", 0)))
    assert "b:t1 \n" in world(redis_server)
    claimed = await store.claim("t1", 1)
    assert isinstance(claimed, Claimed)
    assert claimed.inline_body == b""


async def test_a_second_create_of_an_id_finds_the_first_and_changes_nothing(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.created(store, clock)
    assert world(redis_server) == CREATED
    outcome = await store.create(NewTask("t1", "/v1/other", 5, body=Content("text/html", 3), inline_body=b"bye"))
    assert isinstance(outcome, Existing)
    assert outcome.task == await store.get("t1")
    assert world(redis_server) == CREATED


async def test_a_claim_returns_the_body_and_leaves_time_to_record_the_outcome(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.created(store, clock)
    assert world(redis_server) == CREATED
    outcome = await store.claim("t1", 1)
    assert world(redis_server) == DISPATCHED
    task = await store.get("t1")
    assert task
    assert outcome == Claimed(task, b"hello")


async def test_a_claim_of_a_task_with_a_blob_returns_no_inline_body(store: Store) -> None:
    blob = Content("image/tiff", 70_000, "t1/body")
    await store.create(NewTask("t1", "/v1/a", 60, body=blob))
    outcome = await store.claim("t1", 1)
    assert isinstance(outcome, Claimed)
    assert (outcome.task.body, outcome.inline_body) == (blob, None)


async def test_a_claim_of_a_task_without_a_body_is_refused(store: Store, clock: Clock, redis_server: Server) -> None:
    await store.create(NewTask("t1", "/v1/a", 60, dispatch_requested=False))
    before = world(redis_server)
    outcome = await store.claim("t1", None)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.BODILESS
    assert world(redis_server) == before


async def test_an_accepted_task_has_its_lease_from_now(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.dispatched(store, clock)
    assert world(redis_server) == DISPATCHED
    task = await store.get("t1")
    assert task
    outcome = await store.accepted(task)
    assert isinstance(outcome, Applied)
    assert not outcome.is_transition
    assert world(redis_server) == text("""
        t:t1 dispatched /v1/a 'created' a1 f0 n1 v3 c0 m2 q0 l60 dispatch body=text/plain:5 accepted
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
        b:t1 hello
        z:/v1/a:dispatched t1@0
        due t1@62
        paths /v1/a
    """)


@pytest.mark.parametrize("failed", [False, True])
async def test_a_requeued_task_keeps_its_position_for_its_next_attempt(
    store: Store, clock: Clock, redis_server: Server, failed: bool
) -> None:
    await steps.dispatched(store, clock)
    assert world(redis_server) == DISPATCHED
    task = await store.get("t1")
    assert task
    outcome = await store.requeue(task, status="Retrying", apart_s=7.5, failed=failed)
    assert isinstance(outcome, Applied)
    assert outcome.origin == Origin("/v1/a", 1)
    assert world(redis_server) == text(f"""
        t:t1 created /v1/a 'Retrying' a2 f{failed:d} n0 v3 c0 m2 q0 l60 dispatch body=text/plain:5 z0
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 created a2 dispatcher 'Retrying'
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@9.5
        paths /v1/a
    """)


async def test_a_refused_task_waits_in_its_queue_for_its_next_attempt(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.dispatched(store, clock)
    task = await store.get("t1")
    assert task
    outcome = await store.requeue(task, status="Awaiting service availability")
    assert isinstance(outcome, Applied)
    assert outcome.origin == Origin("/v1/a", 1)
    assert world(redis_server) == text("""
        t:t1 created /v1/a 'Awaiting service availability' a2 f0 n0 v3 c0 m2 q0 l60 dispatch body=text/plain:5
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 created a2 dispatcher 'Awaiting service availability'
        b:t1 hello
        z:/v1/a:created t1@0
        due t1@32
        paths /v1/a
    """)


async def test_a_dispatch_that_fails_for_good_fails_the_task(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.dispatched(store, clock)
    assert world(redis_server) == DISPATCHED
    task = await store.get("t1")
    assert task
    outcome = await store.fail_dispatch(task, status="Failed - refused.", reason=EndReason.REJECTED)
    assert isinstance(outcome, Applied)
    assert outcome.is_transition
    assert world(redis_server) == text("""
        t:t1 failed /v1/a 'Failed - refused.' a1 f1 n1 v3 c0 m2 q0 l60 dispatch body=text/plain:5
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 failed a1 dispatcher 'Failed - refused.' rejected
        b:t1 hello
        z:/v1/a:failed t1@0
        due t1@1002
        paths /v1/a
    """)


async def test_the_first_report_of_the_backend_makes_a_task_running(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.dispatched(store, clock)
    assert world(redis_server) == DISPATCHED
    outcome = await store.update("t1", state=State.RUNNING, status="running model")
    assert isinstance(outcome, Applied)
    assert outcome.is_transition
    assert world(redis_server) == RUNNING


async def test_a_further_report_is_a_heartbeat_and_no_transition(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.running(store, clock)
    assert world(redis_server) == RUNNING
    outcome = await store.update("t1", state=State.RUNNING, status="50 %", attempt=1)
    assert isinstance(outcome, Applied)
    assert not outcome.is_transition
    assert world(redis_server) == text("""
        t:t1 running /v1/a '50 %' a1 f0 n1 v4 c0 m3 q0 l60 dispatch body=text/plain:5
          +0 created a1 client 'created'
          +1 dispatched a1 dispatcher ''
          +2 running a1 client 'running model'
        b:t1 hello
        z:/v1/a:running t1@0
        due t1@63
        paths /v1/a
    """)


async def test_an_update_without_a_state_or_to_created_keeps_the_state(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.running(store, clock)
    for state in (None, State.CREATED):
        outcome = await store.update("t1", state=state, status="running model")
        assert isinstance(outcome, Applied)
        assert not outcome.is_transition
    assert world(redis_server) == RUNNING.replace(" v3 c0 m2 ", " v5 c0 m3 ").replace("due t1@62", "due t1@63")


async def test_an_update_of_a_waiting_task_keeps_its_deadline(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.created(store, clock)
    assert world(redis_server) == CREATED
    await store.update("t1", state=None, status="created")
    assert world(redis_server) == CREATED.replace(" v1 c0 m0 ", " v2 c0 m1 ")


async def test_an_update_can_change_body_query_and_endpoint_and_moves_the_task_in_the_indexes(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.running(store, clock)
    assert world(redis_server) == RUNNING
    outcome = await store.update(
        "t1",
        state=None,
        status=None,
        path="/v1/b",
        query="x=1",
        body=Content("text/plain", 3),
        inline_body=b"bye",
    )
    assert isinstance(outcome, Applied)
    assert outcome.origin == Origin("/v1/a", 1)
    assert world(redis_server) == text("""
        t:t1 running /v1/b 'running model' a1 f0 n1 v4 c0 m3 q0 l60 dispatch body=text/plain:3
          query x=1
          +0 created a1 client 'created' at /v1/a
          +1 dispatched a1 dispatcher ''
          +2 running a1 client 'running model'
          +3 running a1 client '' at /v1/b
        b:t1 bye
        z:/v1/b:running t1@0
        due t1@63
        paths /v1/b
    """)


async def test_a_stored_result_counts_as_an_update(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.running(store, clock)
    assert world(redis_server) == RUNNING
    assert await store.inline_result("t1") is None
    outcome = await store.put_result("t1", RESULT, b"png")
    assert isinstance(outcome, Applied)
    assert not outcome.is_transition
    assert world(redis_server) == WITH_RESULT
    assert await store.inline_result("t1") == b"png"


async def test_a_result_in_a_blob_replaces_an_inline_result(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.with_result(store, clock)
    assert world(redis_server) == WITH_RESULT
    await store.put_result("t1", Content("image/tiff", 70_000, "t1/result"), b"ignored")
    assert world(redis_server) == WITH_RESULT.replace("r:t1 png\n", "").replace(
        "result=image/png:3", "result=image/tiff:70000:t1/result blobs"
    ).replace(" v4 c0 m3 ", " v5 c0 m4 ").replace("due t1@63", "due t1@64")


async def test_a_completed_task_is_kept_for_the_retention_time(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.with_result(store, clock)
    assert world(redis_server) == WITH_RESULT
    outcome = await store.update("t1", state=State.COMPLETED, status="completed")
    assert isinstance(outcome, Applied)
    assert outcome.is_transition
    assert world(redis_server) == COMPLETED


async def test_a_waiting_task_that_is_cancelled_leaves_the_index_of_waiting_tasks(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.created(store, clock)
    assert world(redis_server) == CREATED
    await store.update("t1", state=State.CANCELLED, status="cancelled")
    assert world(redis_server) == text("""
        t:t1 cancelled /v1/a 'cancelled' a1 f0 n1 v2 c0 m1 q0 l60 dispatch body=text/plain:5
          +0 created a1 client 'created'
          +1 cancelled a1 client 'cancelled'
        b:t1 hello
        z:/v1/a:cancelled t1@0
        due t1@1001
        paths /v1/a
    """)


async def test_a_next_step_moves_the_task_with_its_body_to_the_end_of_the_next_queue(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.with_result(store, clock)
    assert world(redis_server) == WITH_RESULT
    outcome = await store.next_step("t1", status="created", path="/v1/b", query="x=1", bounds=lasting(90), attempt=1)
    assert isinstance(outcome, Applied)
    assert outcome.is_transition
    assert world(redis_server) == text("""
        t:t1 created /v1/b 'created' a2 f0 n1 v5 c0 m4 q4 l90 dispatch body=text/plain:5 result=image/png:3 earlier
          query x=1
          +0 created a1 client 'created' at /v1/a
          +1 dispatched a1 dispatcher ''
          +2 running a1 client 'running model'
          +4 created a2 client 'created' next-step at /v1/b
        b:t1 hello
        r:t1 png
        z:/v1/b:again t1@0
        z:/v1/b:since t1@4
        due t1@34
        paths /v1/b
    """)


async def test_a_retry_keeps_the_result_of_an_earlier_step_and_removes_its_own(store: Store, clock: Clock) -> None:
    await steps.with_result(store, clock)
    await store.next_step("t1", status="created", path="/v1/b")
    await store.requeue(await steps.claim(store), status="Retrying", apart_s=1, failed=True)
    assert await store.inline_result("t1") == b"png"
    await steps.claim(store)
    await store.put_result("t1", Content("text/plain", 3), b"own")
    clock.advance(60)
    await sweep_all(store)
    task = await store.get("t1")
    assert task
    assert (task.state, task.result) == (State.CREATED, None)
    assert await store.inline_result("t1") is None


async def test_a_claim_requests_dispatch_of_a_task_that_had_none(store: Store, clock: Clock) -> None:
    await store.create(
        NewTask("t1", "/v1/a", 60, dispatch_requested=False, body=Content("text/plain", 5), inline_body=b"hello")
    )
    task = await steps.claim(store)
    assert task.dispatch_requested
    await store.requeue(task, status="Awaiting service availability", apart_s=5, failed=False)
    clock.advance(5)
    await sweep_all(store)
    assert [item.what for item in await store.check_slots("/v1/a", [("t1", 2)])] == ["publish"]
    published = await store.get("t1")
    assert published
    assert (published.state, published.publishes) == (State.CREATED, 1)


async def test_a_next_step_with_a_body_replaces_the_stored_body_and_resets_the_failures(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.dispatched(store, clock)
    task = await store.get("t1")
    assert task
    await store.requeue(task, status="Retrying", apart_s=1, failed=True)
    clock.advance(1)
    await store.next_step("t1", status=None, path="/v1/b", body=Content("text/plain", 3), inline_body=b"bye")
    assert world(redis_server) == text("""
        t:t1 created /v1/b 'Retrying' a3 f0 n1 v4 c0 m3 q3 l60 dispatch body=text/plain:3 handed-on
          +0 created a1 client 'created' at /v1/a
          +1 dispatched a1 dispatcher ''
          +2 created a2 dispatcher 'Retrying'
          +3 created a3 client '' next-step at /v1/b
        b:t1 bye
        z:/v1/b:again t1@0
        z:/v1/b:since t1@3
        due t1@33
        paths /v1/b
    """)


async def test_a_next_step_within_the_queue_goes_to_its_end(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.created(store, clock)
    assert world(redis_server) == CREATED
    await store.next_step("t1", status="again")
    assert world(redis_server) == text("""
        t:t1 created /v1/a 'again' a2 f0 n1 v2 c0 m1 q1 l60 dispatch body=text/plain:5 handed-on
          +0 created a1 client 'created'
          +1 created a2 client 'again' next-step
        b:t1 hello
        z:/v1/a:again t1@0
        z:/v1/a:since t1@1
        due t1@31
        paths /v1/a
    """)


async def test_a_next_step_with_a_blob_leaves_no_inline_body_behind(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await steps.created(store, clock)
    await store.next_step("t1", status="created", body=Content("image/tiff", 70_000, "t1/body"))
    assert world(redis_server) == text("""
        t:t1 created /v1/a 'created' a2 f0 n1 v2 c0 m1 q1 l60 dispatch body=image/tiff:70000:t1/body blobs handed-on
          +0 created a1 client 'created'
          +1 created a2 client 'created' next-step
        z:/v1/a:again t1@0
        z:/v1/a:since t1@1
        due t1@31
        paths /v1/a
    """)


async def test_a_next_step_without_any_body_is_refused(store: Store, redis_server: Server) -> None:
    await store.create(NewTask("t1", "/v1/a", 60, dispatch_requested=False))
    before = world(redis_server)
    outcome = await store.next_step("t1", status="created", path="/v1/b")
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.BODILESS
    assert world(redis_server) == before


async def test_a_next_step_requests_dispatch_of_a_task_that_had_none(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await store.create(NewTask("t1", "/v1/a", 60, dispatch_requested=False))
    clock.advance(1)
    await store.next_step(
        "t1", status="created", bounds=lasting(60), body=Content("text/plain", 3), inline_body=b"bye"
    )
    assert world(redis_server) == text("""
        t:t1 created /v1/a 'created' a2 f0 n1 v2 c0 m1 q1 l60 dispatch body=text/plain:3 handed-on
          +0 created a1 client 'created'
          +1 created a2 client 'created' next-step
        b:t1 bye
        z:/v1/a:again t1@0
        z:/v1/a:since t1@1
        due t1@31
        paths /v1/a
    """)


async def test_any_report_of_a_task_without_dispatch_renews_its_retention(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await store.create(NewTask("t1", "/v1/a", 60, dispatch_requested=False))
    clock.advance(900)
    await store.update("t1", state=None, status="still here")
    assert "due t1@1900" in world(redis_server)
    clock.advance(900)
    await store.update("t1", state=State.RUNNING, status="running")
    assert "due t1@2800" in world(redis_server)


async def test_a_task_without_dispatch_gets_its_endpoints_lease_once_it_is_dispatched(
    store: Store, clock: Clock, redis_server: Server
) -> None:
    await store.create(
        NewTask("t1", "/v1/a", 60, dispatch_requested=False, body=Content("text/plain", 3), inline_body=b"bye")
    )
    await store.next_step("t1", status="created")
    await store.accepted(await steps.claim(store))
    assert "due t1@60" in world(redis_server)


async def test_a_repeated_end_succeeds_and_changes_nothing(store: Store, clock: Clock, redis_server: Server) -> None:
    await steps.completed(store, clock)
    assert world(redis_server) == COMPLETED
    for status in ("completed", None):
        outcome = await store.update("t1", state=State.COMPLETED, status=status)
        assert isinstance(outcome, Applied)
        assert not outcome.is_transition
        assert world(redis_server) == COMPLETED


async def test_the_history_keeps_the_first_and_the_last_31_events(store: Store, clock: Clock) -> None:
    await store.create(HELLO)
    for _ in range(40):
        clock.advance(1)
        await store.next_step("t1", status="again")
    task = await store.get("t1")
    assert task
    attempts = [event.attempt for event in task.history]
    assert attempts == [1, *range(41 - 30, 42)]
    assert [event.at_ms - task.created_ms for event in task.history] == [1000 * (a - 1) for a in attempts]


async def test_the_history_truncates_a_long_status_and_the_record_keeps_all_of_it(store: Store, clock: Clock) -> None:
    await steps.dispatched(store, clock)
    long = "ä" * 5000
    outcome = await store.update("t1", state=State.RUNNING, status=long)
    assert isinstance(outcome, Applied)
    assert outcome.task.status == long
    assert outcome.task.history[-1].status == "ä" * 200


async def test_get_returns_none_for_an_unknown_task(store: Store) -> None:
    assert await store.get("t1") is None
    assert await store.inline_result("t1") is None
