"""Break each guard in a copy of the tree, and say which test notices: ``python -m tools.mutation_check [NAME…]``.

A guard that can be broken without a test failing is not tested. Exit code 1 if there is one. A test that fails
anyway would notice every guard, so nothing is broken before all tests pass.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue as Trees

ROOT = Path(__file__).resolve().parent.parent
HOMES = ("sdk/ai4e/", "sdk/", "")
"""Folders from which tests are run, since each has settings of its own."""
LUA = "shared/store/lua"
TASK = f"{LUA}/task"
TASK_INCLUDES = f"{LUA}/includes/task"
BATCH = f"{LUA}/batch"
SETTLE = f"{LUA}/includes/batch/settle.lua"
BATCHES = "shared/dispatch/batches.py"
PIPELINING = "shared/store/redis/pipelining.py"
LOAN = "shared/store/redis/loan.py"
CALLBACK = f"{LUA}/callback"
CALLBACK_STORE_TESTS = ("tests/shared/store/test_callbacks.py",)
CALLBACK_TESTS = ("tests/cache_manager/test_callbacks.py",)
CALLBACK_WIRE_TESTS = ("tests/contract/test_v1_callbacks.py",)
LEGACY_TESTS = ("tests/shared/store/test_legacy_reports.py", "tests/cache_manager/test_legacy_reports.py")
STORE_TESTS = (
    *(
        f"tests/shared/store/test_{name}.py"
        for name in ("combined", "store", "steps", "lifecycle", "sweep", "replays")
    ),
    "tests/shared/store",
)
"""Those that notice most come first."""
OUTAGE_TESTS = ("tests/shared/store/test_outages.py", "tests/shared/store/test_queues.py")
CAPACITY_TESTS = ("tests/shared/store/test_capacity.py",)
RATE_TESTS = ("tests/shared/store/test_rates.py",)
QUEUE_TESTS = ("tests/shared/store/test_queues.py", "tests/cache_manager/test_reconciler.py")
DURABILITY = "shared/store/redis/durability.py"
DURABILITY_TESTS = "tests/shared/store/redis/test_durability.py"
UNACKNOWLEDGED_TESTS = "tests/cache_manager/test_unacknowledged.py"
PIPELINING_TESTS = ("tests/shared/store/redis/test_pipelining.py", "tests/shared/store/redis/test_bugs_surface.py")
LOAN_TESTS = ("tests/shared/store/redis/test_loan.py",)
AUDIT_TESTS = ("tests/contract/test_v1_audit.py",)
COMBINED_TESTS = ("tests/shared/store/test_combined.py",)
CALL_TESTS = ("tests/shared/dispatch/test_backend_client.py",)
CHANGE_TESTS = ("tests/shared/store/test_changes.py",)
MANY = "cache_manager/many_service.py"
MANY_TESTS = ("tests/cache_manager/test_many_submits.py",)
MANY_WAITS_TESTS = ("tests/cache_manager/test_many_waits.py",)
JSON_LINES_TESTS = ("tests/shared/http/test_json_lines.py",)
RELEASE_TESTS = ("tests/shared/store/test_releases.py",)
UPLOAD_STORE_TESTS = ("tests/shared/store/test_uploads.py",)
UPLOAD_TESTS = ("tests/contract/test_v1_uploads_apart.py",)
UPLOAD_WIRE_TESTS = ("tests/contract/test_v1_uploads.py",)
SCHEDULE = f"{LUA}/schedule"
SCHEDULE_STORE_TESTS = ("tests/shared/store/test_schedules.py",)
SCHEDULE_TESTS = ("tests/cache_manager/test_schedules.py",)
SCHEDULE_HELD_UP_TESTS = ("tests/cache_manager/test_schedules_held_up.py",)
CRON_TESTS = ("tests/shared/tasks/test_cron.py",)
SIGNING_TESTS = ("tests/shared/test_signed_urls.py",)
BATCH_TESTS = (
    "tests/shared/store/test_batches.py",
    "tests/cache_manager/test_batches.py",
    "tests/cache_manager/test_child_creations.py",
)
CHILD_CREATION_TESTS = ("tests/cache_manager/test_child_creations.py",)
PIPELINE_TESTS = ("tests/shared/store/test_pipelines.py",)
CHECKPOINT_TESTS = ("tests/shared/store/test_checkpoints.py",)
ANSWER_TESTS = ("tests/shared/dispatch/test_answers_with_results.py",)
EXPECT_TESTS = ("tests/shared/dispatch/test_expect_continue.py",)
EARLY_TESTS = ("tests/shared/dispatch/test_early_answers.py",)
SERIES_TESTS = ("tests/shared/store/test_series.py", "tests/shared/store/test_series_hostile.py")
SERIES_ROOM_TESTS = ("tests/shared/store/test_series_room.py",)
METRICS_TESTS = ("tests/cache_manager/test_metrics.py",)
USED_TESTS = ("tests/shared/dispatch/test_used_connections.py",)
BODY_TESTS = ("tests/shared/dispatch/test_stored_bodies.py",)
ROUND_TESTS = ("tests/cache_manager/test_reconciler_rounds.py",)
EVENT_TESTS = ("tests/cache_manager/test_unclaimed_events.py",)
LEASE_TESTS = ("tests/local/test_functions_host_leases.py",)
LATER_TESTS = ("tests/shared/store/test_later_fields.py",)
SETTINGS_TESTS = ("tests/shared/test_settings.py",)
ROTATION_TESTS = ("tests/contract/test_gateway_key_rotation.py",)
CONSOLE_TESTS = ("tests/operator_console/test_page.py",)
OPERATORS = "shared/http/operators.py"
MOUNTS = "operator_console/mounts.py"
OPERATOR_TESTS = ("tests/shared/http/test_operators.py",)
MOUNT_TESTS = ("tests/operator_console/test_mounts.py",)
SIGNAL_TESTS = ("tests/contract/test_telemetry_signals.py",)
REPORTER_TESTS = ("tests/shared/store/test_reporters.py",)
KEYED_ID_TESTS = ("tests/shared/store/test_keyed_ids.py",)
ENDPOINT_TESTS = ("tests/shared/store/test_endpoint_names.py",)
SETTINGS_RECORD_TESTS = ("tests/shared/store/test_settings_record.py",)
QUEUE_VIEW_TESTS = ("tests/contract/test_v1_queue_views.py",)
BOUNDED_JSON = "shared/http/bounded_json.py"
JSON_TESTS = "tests/shared/http/test_bounded_json.py"
DELIVERY_TESTS = "tests/backend_webhook/test_deliveries.py"
ADDRESS_TESTS = ("tests/shared/dispatch/test_registry.py",)
OWNER_BOUND_TESTS = ("tests/shared/store/test_owner_bounds.py",)
BOUND_TESTS = ("tests/shared/store/test_expiry.py", "tests/shared/store/test_overrun.py")
OWNER_TESTS = ("tests/contract/test_v1_owners.py", "tests/shared/store/test_lifecycle.py")


@dataclass(frozen=True)
class Mutation:
    """One guard, and how it is broken: *old*, which stands once in *file*, becomes *new*."""

    guard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = STORE_TESTS


STARTS_TESTS = ("tests/shared/store/test_starts.py",)
MUTATIONS = [
    Mutation(
        "delay: nothing claims a task before its start",
        f"{TASK}/apply.lua",
        "if rec.T and arg.claim and rec.z == 0 and rec.a == 1 then",
        "if false then",
        STARTS_TESTS,
    ),
    Mutation(
        "delay: a deadline that is too early starts nothing",
        f"{TASK}/sweep.lua",
        "elseif is_delayed(rec) and (rec.q or rec.c) > now then",
        "elseif false then",
        STARTS_TESTS,
    ),
    Mutation(
        "delay: a task stands in no queue before its start",
        "shared/store/lua/includes/queue/enqueue_entries.lua",
        "  if arg.later then\n",
        "  if false then\n",
        STARTS_TESTS,
    ),
    Mutation(
        "delay: its place in the queue is that of its start",
        f"{TASK_INCLUDES}/create_task.lua",
        "rec.T, rec.z, rec.q, arg.due_in = delay, 0, now + delay, delay",
        "rec.T, rec.z, arg.due_in = delay, 0, delay",
        STARTS_TESTS,
    ),
    Mutation(
        "delay: a queue entry of a task that has yet to start is idle",
        f"{TASK}/idle_entries.lua",
        " or is_delayed(rec) then",
        " then",
        STARTS_TESTS,
    ),
    Mutation(
        "delay: while Redis is away it is asked again",
        "shared/store/following.py",
        "self.wake(number, _AGAIN_S)",
        "pass",
        STARTS_TESTS,
    ),
    Mutation(
        "delay: a round follows the starts",
        "shared/store/store.py",
        "self._upkeep.learned = self.starts.learn",
        "pass",
        STARTS_TESTS,
    ),
    Mutation(
        "delay: what an earlier version has started is mended",
        f"{TASK}/start.lua",
        "elseif rec then",
        "elseif false then",
        STARTS_TESTS,
    ),
    Mutation(
        "fence: an older attempt is refused",
        f"{TASK}/apply.lua",
        "if arg.attempt and arg.attempt ~= rec.a then",
        "if false then",
    ),
    Mutation(
        "slots: an event claims no attempt that holds none",
        f"{TASK}/apply.lua",
        "if arg.slotless and (",
        "if false and (",
        ("tests/shared/store/test_store.py",),
    ),
    Mutation(
        "slots: an event ends no wait apart from the queue",
        f"{TASK}/apply.lua",
        "rec.z == 0 and 'state' or 'slotless'",
        "'slotless'",
        ("tests/shared/store/test_store.py",),
    ),
    Mutation(
        "mending: a clock that was set back is noticed",
        f"{TASK}/watch_clock.lua",
        "since < -FORGIVEN_MS then return 1 end",
        "false then return 1 end",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "mending: lost deadlines are noticed",
        f"{TASK}/watch_clock.lua",
        "if ARGV[2] ~= '1' and not since then return 2 end",
        "if not since then return 0 end",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "mending: only what was set before the clock went back",
        f"{TASK}/mend.lua",
        "if not at or at > now and rec.m > now then",
        "if not at or at > now then",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "mending: ends that lie ahead are reported",
        f"{TASK}/mend.lua",
        "redis.call('ZADD', key, time_text(now), report)",
        "redis.call('ZADD', key, 'XX', 'NX', time_text(now), report)",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "mending: foreign keys go first",
        "shared/store/mending.py",
        "return await self._mend(foreign=True) + await self._mend(foreign=False)",
        "return await self._mend(foreign=False)",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "mending: a step that met a foreign key leads to it",
        "shared/store/mending.py",
        "if not self._link.has_met_foreign_keys or",
        "if True or",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "mending: a queue's state that cannot be is removed",
        f"{TASK}/mend.lua",
        "if state[field] ~= nil and type(state[field]) ~= expected then return remove(key) end",
        "",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "mending: counters that cannot be are removed",
        f"{TASK}/mend.lua",
        "if not field and not is_counter(rows[row + 1]) then",
        "if false then",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "mending: one queue's fault holds up no other",
        "shared/store/informing.py",
        "except Exception:",
        "except ZeroDivisionError:",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "mending: the checks of slots go back with the clock",
        "shared/store/lua/includes/queue/state.lua",
        "redis.call('ZINCRBY', held_key, -back, entry)",
        "redis.call('ZINCRBY', held_key, 0, entry)",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "mending: a run that waits is tried in time",
        f"{TASK}/mend.lua",
        "(not at or is_ahead) then",
        "not at then",
        ("tests/cache_manager/test_schedules_held_up.py",),
    ),
    Mutation(
        "mending: a waiting task is in its index",
        f"{TASK}/sweep.lua",
        "then add_to_index(id, rec) end",
        "then end",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "pipeline: without its steps a task fails",
        f"{TASK}/apply.lua",
        "if not steps then\n    arg.to,",
        "if false then\n    arg.to,",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "batch: without its list it ends",
        f"{BATCH}/rest.lua",
        "redis.call('EXISTS', task_key('c:' .. arg.id)) == 0",
        "false",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "reconciler: what is left of a lost record goes",
        "shared/store/lua/task/lost.lua",
        "if #lost == 0 then break end",
        "do break end",
        ("tests/cache_manager/test_lost_records.py",),
    ),
    Mutation(
        "reconciler: the check of slots removes what is left of a lost record",
        "shared/store/lua/task/check_slots.lua",
        "if not rec then forget_lost",
        "if false then forget_lost",
        ("tests/cache_manager/test_lost_records.py",),
    ),
    Mutation(
        "garbage: a record that is none stops no sweep",
        "shared/store/lua/includes/task/readable_record.lua",
        "local is_read, rec, raw = pcall(load_record, id)",
        "local is_read, rec, raw = true, load_record(id)",
        ("tests/cache_manager/test_foreign_values.py",),
    ),
    Mutation(
        "garbage: an outage that is none stops no sweep",
        "shared/store/lua/backend/outages.lua",
        "if not is_outage or is_over and",
        "if is_over and",
        ("tests/cache_manager/test_foreign_values.py",),
    ),
    Mutation(
        "garbage: a queue's key of another type is lost",
        "shared/store/lua/includes/queue/state.lua",
        "local count = redis.pcall('ZCARD', key)",
        "local count = redis.call('ZCARD', key)",
        ("tests/cache_manager/test_foreign_values.py",),
    ),
    Mutation(
        "garbage: a held entry whose name is none goes",
        "shared/store/lua/queue/maintain.lua",
        "if string.find(entry, '^[!-~]+%.%d+$') then",
        "if true then",
        ("tests/cache_manager/test_foreign_values.py",),
    ),
    Mutation(
        "garbage: a waiting entry whose name is none goes",
        "shared/store/lua/queue/waiting.lua",
        "if string.find(entry, '^[!-~]+%.%d+$') then",
        "if true then",
        ("tests/cache_manager/test_foreign_values.py",),
    ),
    Mutation(
        "create: a task that is created again is only where it is now",
        "shared/store/lua/includes/task/create_task.lua",
        "if set_due(arg.id, due) == 0 then",
        "if set_due(arg.id, due) == 2 then",
        ("tests/cache_manager/test_lost_records.py",),
    ),
    Mutation(
        "queue: an entry that waits for nothing goes",
        "shared/store/queues.py",
        "if maintained.waiting:",
        "if False:",
        ("tests/cache_manager/test_lost_records.py",),
    ),
    Mutation(
        "batch: no wait for a Then task that is lost",
        "shared/dispatch/batches.py",
        "await self._store.get(state.then_id) is None:",
        "False:",
        ("tests/cache_manager/test_lost_records.py",),
    ),
    Mutation(
        "list: tasks of paths where all have ended show",
        "shared/store/lua/task/list.lua",
        "redis.call('SUNION', task_key('paths'), task_key('ended_paths'), delayed_paths)",
        "redis.call('SMEMBERS', task_key('paths'))",
        ("tests/cache_manager/test_lost_records.py",),
    ),
    Mutation(
        "owner's bound: what waits",
        f"{LUA}/includes/queue/enqueue_entries.lua",
        "is_full or is_owner_full)",
        "is_full)",
        OWNER_BOUND_TESTS,
    ),
    *(
        Mutation(
            f"delay: {guard}",
            "shared/store/upkeep_steps.py",
            old,
            new,
            ("tests/shared/store/test_delayed_bounds.py",),
        )
        for guard, old, new in (
            (
                "a round looks at a few of them in one partition",
                "packed = dict.fromkeys(HASH_TAGS, pack(argument))",
                'packed = dict.fromkeys(HASH_TAGS, pack({**argument, "few": _DELAYED_ENTRIES}))',
            ),
            (
                "rounds of apps that wake for one each look in all partitions",
                "seed() % len(HASH_TAGS)",
                "0",
            ),
        )
    ),
    *(
        Mutation(f"delay: {guard}", f"{LUA}/{file}.lua", old, new, ("tests/shared/store/test_delayed_bounds.py",))
        for guard, file, old, new in (
            (
                "one that an earlier version has ended does not count",
                "task/lost",
                "(is_terminal(rec.s) or rec.a > 1)",
                "false",
            ),
            (
                "the queue hears of one that an earlier version has ended",
                "task/lost",
                "ended[#ended + 1] = {",
                "local _ = {",
            ),
            (
                "what is to start counts with what waits",
                "includes/queue/delay_entry",
                "local is_full = delayed and queue.w + delayed >= arg.backlog",
                "local is_full = delayed and queue.w >= arg.backlog",
            ),
            (
                "what an owner has to start counts with what waits",
                "includes/queue/delay_entry",
                "if delayed and waiting + delayed >= arg.own then",
                "if delayed and waiting >= arg.own then",
            ),
            (
                "one that has started makes room",
                "includes/queue/enqueue_entries",
                "if arg.starts then forget_delayed(row[1], row[2]) end",
                "",
            ),
            (
                "one that ends before its start makes room",
                "includes/queue/release_entry",
                "if arg.later then forget_delayed(arg.entry, arg.owner) end",
                "",
            ),
        )
    ),
    Mutation(
        "fairness: a lone owner gets no turn back",
        f"{LUA}/includes/queue/wait.lua",
        "if added == 1 and is_charged and redis.call('ZCARD', owners_key) > 1 then",
        "if added == 1 and is_charged then",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "fairness: what was granted to a lone owner gives it no turn back",
        f"{LUA}/includes/queue/grant_slots.lua",
        "return entry, owner, rank, not is_alone",
        "return entry, owner, rank, true",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "fairness: what was granted while others waited gives its turn back",
        f"{LUA}/includes/queue/hold_slot.lua",
        "is_charged and score .. CHARGED or score",
        "score",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "owner's bound: others go first",
        f"{LUA}/includes/queue/owner_bound.lua",
        "if held_by(rows[at]) < most then",
        "if true then",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "owner's bound: a hard one leaves slots idle",
        f"{LUA}/includes/queue/owner_bound.lua",
        "if queue.W < 0 and first[1] then return end",
        "",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "owner's bound: it says nothing of a loss",
        f"{LUA}/includes/queue/grant_slots.lua",
        "if not owner then recount(queue) end",
        "recount(queue)",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "owner's bound: a slot that is freed counts no more",
        f"{LUA}/includes/queue/remove_entry.lua",
        "if owner_bound then owner_bound.forget(owner, entry) end",
        "",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "owner's bound: whoever frees a slot may not know whose it is",
        f"{LUA}/includes/queue/owner_bound.lua",
        "if string.match(each, ' (.*)$') == entry then",
        "if false then",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "owner's bound: nothing is caught up on",
        f"{LUA}/includes/queue/owner_bound.lua",
        "if chosen[1] and tonumber(chosen[2]) < queue.v then",
        "if false then",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "owner's bound: a probe keeps to a hard one",
        f"{LUA}/includes/queue/grant_slots.lua",
        "if owner_bound and queue.W < 0 and owner_bound.is_reached(owner) then return end",
        "",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "owner's bound: holders that are not known are found",
        f"{LUA}/includes/queue/owner_bound.lua",
        "if not owned[entry] then found[#found + 1] = entry end",
        "",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "owner's bound: holders of free slots are forgotten",
        f"{LUA}/includes/queue/owner_bound.lua",
        "or not redis.call('ZSCORE', held_key, entry) then",
        "then",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "owner's bound: nothing is left of one that is over",
        f"{LUA}/includes/queue/state.lua",
        "if not queue.W then redis.call('DEL', holders_key()) end",
        "",
        OWNER_BOUND_TESTS,
    ),
    Mutation(
        "owner's bound: the reconciler finds whose slots are held",
        "shared/store/queues.py",
        "if maintained.without_owner:",
        "if False:",
        ("tests/cache_manager/test_owner_bounds.py",),
    ),
    Mutation(
        "queue: a clock that is set back makes no pause longer",
        "shared/store/lua/includes/queue/state.lua",
        "if back > 0 then",
        "if false then",
        ("tests/shared/store/test_queues.py",),
    ),
    Mutation(
        "queue: a state that is garbage is lost",
        "shared/store/lua/includes/queue/state.lua",
        "if not is_read or type(queue.w) ~= 'number'",
        "if not raw or type(queue.w) ~= 'number'",
        ("tests/shared/store/test_queues.py",),
    ),
    Mutation(
        "fence: a retry draws a new attempt",
        f"{TASK_INCLUDES}/new_attempt.lua",
        "rec.a, rec.n, rec.z = rec.a + 1, 0, nil",
        "rec.a, rec.n, rec.z = rec.a, 0, nil",
    ),
    Mutation(
        "waits: a change is published",
        f"{TASK_INCLUDES}/record.lua",
        "if is_shown then",
        "if false then",
        CHANGE_TESTS,
    ),
    Mutation(
        "waits: a heartbeat is no change",
        f"{TASK}/apply.lua",
        "save_record(id, rec, is_shown)",
        "save_record(id, rec, true)",
        CHANGE_TESTS,
    ),
    Mutation(
        "waits: a refused message refuses no step",
        f"{TASK_INCLUDES}/record.lua",
        "redis.pcall(redis.REDIS_VERSION_NUM",
        "redis.call(redis.REDIS_VERSION_NUM",
        CHANGE_TESTS,
    ),
    Mutation(
        "waits: a message tells of a change that was undone",
        "shared/store/changes.py",
        "(is_announced or now_seen.shown != seen.shown)",
        "now_seen.shown != seen.shown",
        CHANGE_TESTS,
    ),
    Mutation(
        "waits: a wait for many tells nothing of others' tasks",
        "cache_manager/many_waits.py",
        "asyncio.gather(*map(self.service.find, some)), strict=True):\n                etag",
        "asyncio.gather(*map(self.service.services.store.get, some)), strict=True):\n                etag",
        MANY_WAITS_TESTS,
    ),
    Mutation(
        "waits: an answer for many has so many characters",
        "cache_manager/many_waits.py",
        "if not self._status_chars or self._status_chars + chars <= MOST_STATUS_CHARS:",
        "if True:",
        MANY_WAITS_TESTS,
    ),
    Mutation(
        "many: two lines of one id are for two pieces",
        MANY,
        "if taken.new.id in ids:",
        "if False:",
        MANY_TESTS,
    ),
    Mutation(
        "many: a derived key has the number of its line",
        MANY,
        'key = f"{self._key}\\n{taken.number}"',
        "key = self._key",
        MANY_TESTS,
    ),
    Mutation(
        "many: no body is kept until the last line has come",
        MANY,
        "line.new = None  # whose",
        "pass  # whose",
        MANY_TESTS,
    ),
    Mutation(
        "many: a store that is silent is not asked for each line",
        MANY,
        "if creation.failure is not None:",
        "if False:",
        MANY_TESTS,
    ),
    Mutation(
        "many: a request has an end",
        MANY,
        "if self._now_s() >= until_s:",
        "if False:",
        MANY_TESTS,
    ),
    Mutation(
        "many: a piece has so many bytes",
        MANY,
        "len(read) == PIECE_TASKS or size_bytes + line.size_bytes > PIECE_BYTES",
        "len(read) == PIECE_TASKS",
        MANY_TESTS,
    ),
    Mutation(
        "many: no more than a piece is begun at a time",
        MANY,
        "self._begins = asyncio.Semaphore(PIECE_TASKS)",
        "self._begins = asyncio.Semaphore(1_000)",
        MANY_TESTS,
    ),
    Mutation(
        "many: others have their turns while answers are read",
        MANY,
        "if count % _TURN_TASKS == 0:\n                await asyncio.sleep(0)\n            for",
        "if count == 0:\n                await asyncio.sleep(0)\n            for",
        MANY_TESTS,
    ),
    Mutation(
        "many: an error of one step is that of one task",
        "shared/store/joint_creation.py",
        "if reply is None or isinstance(reply, Exception)]",
        "if reply is None]",
        ("tests/shared/store/test_create_each.py",),
    ),
    Mutation(
        "many: there are so many lines",
        "shared/http/json_lines.py",
        "if len(found) == most:",
        "if False:",
        JSON_LINES_TESTS,
    ),
    Mutation(
        "many: values of long lines are counted together, those of broken ones too",
        "shared/http/json_lines.py",
        "self._values_left = max(0, self._values_left - reader.values)",
        "pass",
        JSON_LINES_TESTS,
    ),
    Mutation(
        "many: an object ends with its line",
        "shared/http/bounded_json.py",
        "if self._at <= end:",
        "if True:",
        JSON_LINES_TESTS,
    ),
    Mutation(
        "multipart: another boundary that begins in the same way is none",
        "shared/http/multipart.py",
        'rb"--[ \\t]{0,256}+(?P<end>\\r?\\n|\\Z)|[ \\t]{0,256}+(?P<next>\\r\\n)"',
        'rb"--[ \\t]{0,256}+(?P<end>\\r?\\n|\\Z)|[^\\r]{0,256}+(?P<next>\\r\\n)"',
        ("tests/shared/http/test_multipart.py",),
    ),
    Mutation(
        "waits: the client with the most makes room",
        "shared/resilience/waits.py",
        "(len(self._by_client[wait.client]), -wait.number)",
        "-wait.number",
        ("tests/shared/resilience/test_waits.py",),
    ),
    Mutation(
        "waits: a timeout within one is an error",
        "shared/resilience/waits.py",
        "if not timeout.expired():",
        "if False:",
        ("tests/shared/resilience/test_waits.py",),
    ),
    Mutation(
        "waits: a server that is gone is looked for, whatever the error",
        "shared/store/redis/subscriptions.py",
        "except Exception as error:  # whatever it is, the channels must",
        "except OSError as error:  # whatever it is, the channels must",
        CHANGE_TESTS,
    ),
    Mutation(
        "body: one that a report has replaced is not gone",
        "shared/dispatch/dispatcher.py",
        "if now is not None and now.body != task.body:",
        "if False:",
        BODY_TESTS,
    ),
    Mutation(
        "blobs: one that the record names is kept",
        "shared/store/replies.py",
        "if blob is not None and blob.decode() not in names",
        "if blob is not None",
        ("tests/shared/store/test_unnamed_blobs.py",),
    ),
    Mutation(
        "interim answers: only a few",
        "shared/dispatch/bounded_answers.py",
        "if self._interim_answers > _MAX_INTERIM_ANSWERS:",
        "if False:",
        EXPECT_TESTS,
    ),
    *(
        Mutation(
            name,
            "shared/dispatch/bounded_answers.py",
            guard,
            broken,
            (f"tests/shared/dispatch/test_turns_of_answers.py::{test}",),
        )
        for name, guard, broken, test in (
            (
                "answers: many pieces wait for their turns",
                "if self._rest or self._pieces > _PIECES_AT_ONCE:",
                "if self._rest:",
                "test_an_answer_of_many_pieces_waits_for_its_turn",
            ),
            (
                "answers: a piece that takes long is read in several turns",
                "self._reading_paused or self._loop.time() - began_s > _TURN_S",
                "self._reading_paused",
                "test_a_piece_that_takes_long_is_read_in_several_turns",
            ),
            (
                "answers: what a turn leaves is part of the answer",
                "self._parse(rest)  # its end may be the end of the answer",
                "pass",
                "test_the_rest_of_an_answer_that_ends_with_its_connection_is_part_of_it",
            ),
        )
    ),
    *(
        Mutation(
            name,
            "shared/dispatch/bounded_answers.py",
            guard,
            broken,
            (f"tests/shared/dispatch/test_endless_answers.py::{test}",),
        )
        for name, guard, broken, test in (
            (
                "answers: a head or chunks without an end",
                "if self._read_bytes > most:",
                "if False:",
                "test_what_does_not_end_is_cut",
            ),
            (
                "answers: many small chunks are none without an end",
                " + self._answer.total_bytes // 4",
                " // 2",
                "test_a_result_may_come_in_many_small_chunks",
            ),
        )
    ),
    *(
        Mutation(
            name,
            "shared/resilience/limits.py",
            guard,
            broken,
            (f"tests/shared/resilience/test_limits.py::{test}",),
        )
        for name, guard, broken, test in (
            (
                "shares: paths behind one backend have theirs",
                "return any(",
                "return False and any(",
                "test_paths_of_one_holder_have_shares_too",
            ),
            (
                "shares: paths that are made up take none from other branches",
                "self._share >> depth",
                "self._share",
                "test_paths_that_are_made_up_take_no_share_from_another_branch",
            ),
            (
                "shares: bodies of dispatches leave requests theirs",
                'self.body_bytes.hold("dispatches", path, size_bytes)',
                'self.body_bytes.hold("requests", "", size_bytes)',
                "test_bodies_of_dispatches_leave_requests_their_share_and_the_other_way_round",
            ),
        )
    ),
    Mutation(
        "dispatches: a slow backend leaves others their share",
        "shared/resilience/limits.py",
        "if beyond and not self._has_share(branches, amount):",
        "if beyond:",
        ("tests/shared/dispatch/test_fair_dispatches.py", "tests/shared/resilience/test_limits.py"),
    ),
    Mutation(
        "expectation: a server that does not know it",
        "shared/dispatch/backend_client.py",
        "if waits and response.status == 417:",
        "if False:",
        EXPECT_TESTS,
    ),
    *(
        Mutation(f"release: {name}", f"{TASK}/release.lua", guard, broken, RELEASE_TESTS)
        for name, guard, broken in (
            ("a repeated one changes nothing", "rec.R[1] == arg.attempt then return", "false then return"),
            ("one without an end counts", "in_a_row >= UNCOUNTED or nil", "nil"),
            ("the last failure ends the task", "elseif rec.f + 1 < arg.most then", "else"),
            (
                "a failed one waits as long as its backend says",
                "arg.backoff.least = true, nil, arg.after",
                "arg.backoff.least = true, nil, 0",
            ),
            ("only what is dispatched", "if is_mine and not rec.w then", "if false then"),
            ("another owner's task is unknown", "not arg.owner or arg.owner == rec.o", "true"),
        )
    ),
    Mutation(
        "release: the queue forgets the slot",
        f"{LUA}/queue/released.lua",
        "  queue.l = math.max(0, queue.l - 1)\n",
        "",
        ("tests/contract/test_v1_services.py::test_a_queue_forgets_the_slot_of_a_released_task",),
    ),
    *(
        Mutation(f"checkpoint: {name}", f"{TASK_INCLUDES}/{file}.lua", guard, "if false then", CHECKPOINT_TESTS)
        for name, file, guard in (
            ("goes with the task", "begin_retention", "if rec.C then"),
            ("goes with the step", "begin_next_step", "if rec.C then"),
            ("leaves nothing inline", "checkpoint", "elseif rec.C and not rec.C[3] then"),
        )
    ),
    *(
        Mutation(f"pipeline: {name}", file, guard, broken, PIPELINE_TESTS)
        for name, file, guard, broken in (
            ("the last step ends the task", f"{TASK}/apply.lua", "rec.N[1] < rec.N[2] then", "true then"),
            ("a stored result becomes the body", f"{TASK}/apply.lua", "arg.takes_result, arg.body = true, nil", ""),
            (
                "a result leaves its name",
                f"{TASK_INCLUDES}/begin_next_step.lua",
                "rec.b, rec.r = rec.r, nil",
                "rec.b = rec.r",
            ),
            (
                "an end kept aside goes",
                f"{TASK}/apply.lua",
                "rec.D and ended - rec.c - rec.D or nil }, nil",
                "rec.D and ended - rec.c - rec.D or nil }, rec.E",
            ),
            ("no end that was taken back leads on", f"{TASK}/apply.lua", "rec.E and rec.E[1] == arg.to", "rec.E"),
            (
                "no result, none to send on",
                f"{TASK}/apply.lua",
                "if arg.takes_result and not rec.r then",
                "if false then",
            ),
            (
                "the sweep ends no step as a task",
                f"{TASK}/sweep.lua",
                "if rec.N and rec.E[1]",
                "if false and rec.E[1]",
            ),
            (
                "a repetition is known by what it sends on",
                "shared/store/task_steps.py",
                "Applied(task) if sent_on in task.sent_on else refused",
                "Applied(task)",
            ),
            (
                "only what a service has is sent on",
                "shared/store/task_steps.py",
                'step["allowed_from"] = (State.DISPATCHED, State.RUNNING)\n            step["token"]',
                'step["token"]',
            ),
            (
                "its name has its own counts",
                f"{TASK_INCLUDES}/index.lua",
                "if rec.Y and path ~= rec.Y then add_to_index(id, rec, rec.Y) end",
                "",
            ),
            ("it goes with the task", f"{TASK_INCLUDES}/purge_task.lua", "if rec.N then", "if false then"),
            (
                "a trimmed history keeps the paths",
                f"{TASK_INCLUDES}/append_event.lua",
                "if gone[7] and not events[2][7] then",
                "if false then",
            ),
        )
    ),
    Mutation(
        "progress: is the attempt's",
        f"{TASK_INCLUDES}/new_attempt.lua",
        "rec.A, rec.E, rec.P = nil, nil, nil",
        "rec.A, rec.E = nil, nil",
        CHECKPOINT_TESTS,
    ),
    Mutation(
        "result: another one does not pass for the one that completed the task",
        f"{TASK}/apply.lua",
        "redis.call('GET', task_key('r:' .. id)) == ARGV[2]",
        "true",
        CHECKPOINT_TESTS,
    ),
    *(
        Mutation(f"answer with a result: {name}", "shared/dispatch/backend_client.py", guard, broken, ANSWER_TESTS)
        for name, guard, broken in (
            ("no more than fits", "if size_bytes > room.most_bytes:", "if False:"),
            ("takes its room", "while size_bytes > taken:", "while False:"),
            ("only of an acceptance", "if response.is_acceptance and (backend", "if (backend"),
            ("what it calls busy", " or status in backend.busy", ""),
            ("a type that no header may have", "kind if is_content_type(kind)", "kind if kind"),
        )
    ),
    Mutation("replay of a step", f"{TASK}/apply.lua", "if rec.k == arg.op then", "if false then"),
    Mutation(
        "replay of a create",
        f"{TASK_INCLUDES}/create_task.lua",
        "if known and known.k == arg.op then",
        "if false then",
    ),
    Mutation(
        "list: a page names no task of another owner",
        f"{TASK}/list.lua",
        "is_found and last[2] or ''",
        "last[2]",
        ("tests/shared/store/test_lifecycle.py",),
    ),
    Mutation(
        "list: a page ends when it is large",
        "shared/store/queries.py",
        "or size_bytes >= PAGE_BYTES",
        "",
        ("tests/shared/store/test_lifecycle.py",),
    ),
    *(
        Mutation(
            f"reporters: {what}", f"{LUA}/requests/report.lua", old, new, ("tests/shared/store/test_reporters.py",)
        )
        for what, old, new in (
            ("a bound of instances", "> MOST_INSTANCES and", "> 1e9 and"),
            ("a bound of counters", "< MOST_COUNTERS then", "< 1e9 then"),
            ("a call counts all or none", "  if too_many then return too_many end\n", ""),
            ("what was reserved in vain makes room", "arg.stage == 'reserve' and #counter.ops == 0", "false"),
        )
    ),
    Mutation(
        "reporters: a counter that is only reserved was never reported",
        f"{LUA}/includes/requests/counted.lua",
        " or #kept[2] == 0 then return end",
        " then return end",
        REPORTER_TESTS,
    ),
    Mutation(
        "reporters: few shares lie where a former version finds them",
        f"{LUA}/includes/requests/counter.lua",
        "local FEW = 32",
        "local FEW = -1",
        REPORTER_TESTS,
    ),
    *(
        Mutation(f"metrics: {what}", f"shared/{file}.py", old, new, ("tests/telemetry/test_series.py",))
        for what, file, old, new in (
            ("a bound of series", "gauges", "return len(self._set_s) < SERIES_LIMIT", "return True"),
            ("a silent series makes room", "gauges", ">= SILENT_S", ">= 1e9"),
            ("a bound of series in a process's life", "gauges", "len(self._ever) >= SERIES_IN_LIFE", "False"),
            ("no old numbers", "gauges", "if set_s >= since_s", ""),
            ("a bound of a counter's series", "telemetry", "or len(_errors) < ERRORS_LIMIT", "or True"),
        )
    ),
    Mutation("replay of a report", f"{LUA}/requests/report.lua", "counter.is_known or op == arg.op", "false"),
    Mutation(
        "terminal: a finished task stays as it is",
        f"{TASK}/apply.lua",
        "if is_terminal(rec.s) and",
        "if false and",
    ),
    Mutation(
        "terminal: only a failed task is replayed",
        f"{TASK}/apply.lua",
        "not (arg.revive and rec.s == 'failed')",
        "not arg.revive",
    ),
    Mutation(
        "claim: from waiting only",
        f"{TASK}/apply.lua",
        "if not allowed then return { 'state', raw } end",
        "",
    ),
    Mutation(
        "lease: a report renews it",
        f"{TASK}/apply.lua",
        "local lease_end = now + rec.l",
        "local lease_end = now + 1e12",
    ),
    Mutation("lease: silence is found", f"{TASK}/sweep.lua", "  else\n    end_attempt(id, rec)\n", "  else\n"),
    Mutation(
        "lease: the attempt limit",
        f"{TASK}/sweep.lua",
        "elseif not is_excused and rec.f >= arg.max_attempts then",
        "elseif false then",
    ),
    *(
        Mutation(f"expiry: {guard}", file, old, new, BOUND_TESTS)
        for guard, file, old, new in (
            (
                "a task that waits for too long ends",
                f"{TASK}/sweep.lua",
                "elseif rec.V and rec.s == 'created' and rec.c + rec.V <= now then",
                "elseif false then",
            ),
            (
                "an expired task is not claimed",
                f"{TASK}/apply.lua",
                "if rec.V and arg.claim and rec.c + rec.V <= now_ms(arg.now) then",
                "if false then",
            ),
            (
                "a task that waits again ends in time",
                f"{TASK}/apply.lua",
                "if rec.V and to == 'created' then due = math.min(due, rec.c + rec.V) end",
                "",
            ),
            (
                "the check of a waiting task does not put its end off",
                f"{TASK}/sweep.lua",
                "set_due(id, rec.V and math.min(due, rec.c + rec.V) or due)",
                "set_due(id, due)",
            ),
            (
                "a task that a backend had goes on",
                f"{TASK}/apply.lua",
                "arg.failed or arg.released or arg.next_step then rec.V = nil end",
                "arg.failed or arg.released or arg.next_step then rec.V = rec.V end",
            ),
            (
                "a task that was turned away ends all the same",
                f"{TASK}/apply.lua",
                "local is_waiting = (arg.to or state) == 'created'",
                "local is_waiting = false",
            ),
            (
                "a lost attempt was dispatched",
                f"{TASK}/sweep.lua",
                "  if rec.V then rec.V = nil end\n",
                "",
            ),
            (
                "what the submit says holds",
                "shared/store/record_codec.py",
                "if new.timing.expiry is not None:",
                "if new.timing.expiry is not None and new.expires_s is None:",
            ),
            (
                "what its steps say of the backend",
                f"{LUA}/combined/apply_and_release.lua",
                " and step.reason ~= 'expired' then",
                " then",
            ),
            (
                "what the sweep says of the backend",
                "shared/store/queue_effects.py",
                "return None if has_expired(task) else Ended",
                "return Ended",
            ),
            (
                "each step waits as its own backend says",
                f"{TASK_INCLUDES}/begin_next_step.lua",
                "if arg.expires then rec.V = now - rec.c + arg.expires end",
                "",
            ),
        )
    ),
    Mutation(
        "expiry: the slot of an expired task goes on",
        "shared/dispatch/dispatcher.py",
        "if refused.reason is Refusal.EXPIRED and refused.task is not None:",
        "if False:",
        ("tests/cache_manager/test_expired_claims.py",),
    ),
    *(
        Mutation(f"overrun: {guard}", file, old, new, BOUND_TESTS)
        for guard, file, old, new in (
            (
                "nothing that is heard extends a run",
                f"{TASK}/apply.lua",
                "if rec.I and rec.D and is_leased(to) then due = math.min(due, rec.c + rec.D + rec.I[1]) end",
                "",
            ),
            (
                "an attempt that runs for too long is found",
                f"{TASK}/sweep.lua",
                "rec.I and rec.D and rec.c + rec.D + rec.I[1] <= now and rec.I[1] / 1000",
                "false",
            ),
            (
                "no outage excuses it",
                f"{TASK}/sweep.lua",
                "local is_excused = not ran_s and (",
                "local is_excused = (",
            ),
            (
                "it is no silence",
                f"{TASK}/sweep.lua",
                "if not (is_excused or ran_s) then double_lease(rec) end",
                "if not is_excused then double_lease(rec) end",
            ),
            (
                "the smaller time holds",
                "shared/tasks/task.py",
                "else min(asked_ms, of_backend)",
                "else max(asked_ms, of_backend)",
            ),
            (
                "each step runs as its own backend says",
                f"{TASK_INCLUDES}/begin_next_step.lua",
                "if arg.lease and (rec.I or arg.run) then",
                "if false then",
            ),
            (
                "what the submit says holds in each step",
                f"{TASK_INCLUDES}/begin_next_step.lua",
                "arg.run and asked and math.min(arg.run, asked) or arg.run or asked",
                "arg.run",
            ),
            (
                "a run that no dispatcher began has an end",
                f"{TASK}/apply.lua",
                "if rec.I and rec.w and state == 'created' and to == 'running' then rec.D = now - rec.c end",
                "",
            ),
        )
    ),
    *(
        Mutation(f"legacy: {guard}", file, old, new, LEGACY_TESTS)
        for guard, file, old, new in (
            (
                "progress is no end",
                "shared/tasks/status_texts.py",
                r"(?:\s*\Z|\s?[-:.;])",
                "",
            ),
            (
                "a text with an attempt tells no end",
                "cache_manager/schemas.py",
                "self.attempt is not None or self.status is None",
                "self.status is None",
            ),
            (
                "an end that the text tells waits for the next report",
                f"{TASK}/apply.lua",
                "  if ends or rec.E then rec.E = ends and { ends, brief } or nil end",
                "  if ends or rec.E then rec.E = rec.E or ends and { ends, brief } or nil end",
            ),
            (
                "a waiting step keeps its state, whatever the previous one reports",
                f"{TASK}/apply.lua",
                "(state == 'created' or ends or is_terminal(arg.to))",
                "(ends or is_terminal(arg.to))",
            ),
            (
                "an end is kept aside while the step was not heard of",
                f"{TASK}/apply.lua",
                "(state == 'created' or ends or is_terminal(arg.to))",
                "state == 'created'",
            ),
            (
                "a step is heard of",
                f"{TASK}/apply.lua",
                "elseif arg.attempt or is_leased(state) then",
                "elseif false then",
            ),
            (
                "a step that no backend accepted has not ended",
                f"{TASK}/sweep.lua",
                "(rec.s ~= 'dispatched' or rec.A)",
                "true",
            ),
            (
                "a dispatch that may be lost keeps its window",
                f"{TASK}/apply.lua",
                "if to ~= 'dispatched' or rec.A then due = now + DEFERRED_END_MS end",
                "due = now + DEFERRED_END_MS",
            ),
            (
                "a retry forgets an end that was kept aside",
                f"{TASK_INCLUDES}/new_attempt.lua",
                "rec.A, rec.E, rec.P = nil, nil, nil",
                "rec.A, rec.P = nil, nil",
            ),
            (
                "a step that was handed on with an attempt is believed at once",
                f"{TASK_INCLUDES}/begin_next_step.lua",
                "not (arg.revive or arg.attempt) or nil",
                "not arg.revive or nil",
            ),
            (
                "after a silent lease the previous step has ended",
                f"{TASK}/sweep.lua",
                "if rec.A then rec.H = nil end",
                "",
            ),
            (
                "an end that the text tells frees its slot",
                f"{TASK}/apply.lua",
                "if rec.E and rec.w and to == 'running' then",
                "if false then",
            ),
            (
                "an end that is taken back holds its slot again",
                f"{TASK}/apply.lua",
                "elseif freed and to == state then",
                "elseif false then",
            ),
            (
                "a silent attempt's successor has twice the lease",
                f"{TASK_INCLUDES}/double_lease.lua",
                "math.min((rec.L or 0) + 1, MOST_DOUBLINGS)",
                "0",
            ),
            (
                "eight times the lease at most",
                f"{TASK_INCLUDES}/double_lease.lua",
                "math.min((rec.L or 0) + 1, MOST_DOUBLINGS)",
                "(rec.L or 0) + 1",
            ),
            (
                "only an accepted attempt was silent",
                f"{TASK_INCLUDES}/double_lease.lua",
                "if not (rec.A or rec.s == 'running') then return end",
                "",
            ),
            (
                "no report shortens a longer lease",
                f"{TASK}/apply.lua",
                "if granted > lease_end then lease_end = granted else rec.L = nil end",
                "rec.L = nil",
            ),
            (
                "a report that outlasts a longer lease ends it",
                f"{TASK}/apply.lua",
                "if granted > lease_end then lease_end = granted else rec.L = nil end",
                "lease_end = math.max(lease_end, granted)",
            ),
            (
                "a service that fences its reports keeps the plain lease",
                f"{TASK_INCLUDES}/double_lease.lua",
                "if redis.call('ZSCORE', task_key('fenced'), rec.p) then",
                "if false then",
            ),
            (
                "a second end replaces the text",
                f"{TASK}/apply.lua",
                "if not arg.unfenced then",
                "if true then",
            ),
            (
                "a second end with an attempt changes nothing",
                f"{TASK}/apply.lua",
                "if not arg.unfenced then",
                "if false then",
            ),
        )
    ),
    Mutation(
        "due: each step sets the next deadline",
        f"{TASK}/apply.lua",
        "due = now + arg.due_in",
        "",
    ),
    Mutation("due: a created task has one", f"{TASK_INCLUDES}/create_task.lua", "set_due(arg.id, due)", "0"),
    Mutation(
        "due: a sweep hands a task out once",
        f"{TASK}/sweep.lua",
        "local due = now + backoff(arg.publish_base, arg.wait_cap, rec.z)",
        "local due = now",
    ),
    Mutation(
        "backoff: by the failures so far",
        f"{TASK}/apply.lua",
        "backoff(arg.backoff.base, arg.backoff.cap, rec.f)",
        "backoff(arg.backoff.base, arg.backoff.cap, 1)",
    ),
    Mutation(
        "counts: a task leaves its former index",
        f"{TASK_INCLUDES}/index.lua",
        "if redis.call('ZREM', task_key('z:' .. path .. ':' .. rec.s), id) == 0 and",
        "if",
    ),
    Mutation(
        "retention: nothing of a task is left",
        f"{TASK_INCLUDES}/purge_task.lua",
        "if rec.r and not rec.r[3] then table.insert(keys, task_key('r:' .. id)) end\n",
        "",
    ),
    Mutation(
        "owner: of a change",
        f"{TASK}/apply.lua",
        " or arg.owner and arg.owner ~= rec.o",
        "",
        OWNER_TESTS,
    ),
    Mutation(
        "owner: of a look",
        "cache_manager/task_service.py",
        "(self.owner is not None and task.owner != self.owner)",
        "False",
        OWNER_TESTS,
    ),
    Mutation(
        "owner: of a list",
        f"{TASK}/list.lua",
        "if arg.owner and rec.o ~= arg.owner then",
        "if false then",
        ("tests/shared/store/test_lifecycle.py",),
    ),
    Mutation(
        "owner: of the number of others' tasks",
        "cache_manager/listing.py",
        "hides_others=owner is not None,",
        "hides_others=False,",
        ("tests/contract/test_v1_audit.py",),
    ),
    Mutation(
        "audit: on record before it is done",
        "cache_manager/audit.py",
        "self._entry_id = await self._audit.begin(self._action)",
        'self._entry_id = "0-1"',
        AUDIT_TESTS,
    ),
    Mutation(
        "audit: what is refused has changed nothing",
        "cache_manager/audit.py",
        "0 if isinstance(error, Problem) else None",
        "self.count",
        AUDIT_TESTS,
    ),
    Mutation(
        "audit: an owner is no operator",
        "cache_manager/audit.py",
        "if is_callers or owner_of(req, services.settings) is not None:",
        "if is_callers:",
        AUDIT_TESTS,
    ),
    Mutation(
        "audit: no owner reads it",
        "cache_manager/audit_api.py",
        "for_owners=False",
        "for_owners=True",
        AUDIT_TESTS,
    ),
    Mutation(
        "audit: a write that is repeated",
        f"{LUA}/audit/begin.lua",
        "if row[2][1] == 'k' and row[2][2] == op then return row[1] end",
        "",
        ("tests/shared/store/test_audit.py",),
    ),
    Mutation(
        "audit: the newest are kept",
        f"{LUA}/audit/begin.lua",
        "redis.call('XTRIM', entries, 'MAXLEN', arg.most - 1)",
        "redis.call('XTRIM', entries, 'MAXLEN', 1000)",
        ("tests/shared/store/test_audit.py",),
    ),
    Mutation(
        "audit: its first write needs no room",
        f"{LUA}/audit/begin.lua",
        "redis.call('XTRIM', entries, 'MAXLEN', arg.most - 1)",
        "redis.call('SET', entries .. 'x', '') redis.call('XTRIM', entries, 'MAXLEN', arg.most - 1)",
        ("tests/shared/store/test_audit.py",),
    ),
    Mutation(
        "bulk: once by one operation",
        f"{TASK}/apply.lua",
        "if mark == arg.once then return { 'done', raw } end",
        "",
        ("tests/shared/store/test_who_did_it.py",),
    ),
    Mutation(
        "bulk: the role",
        "cache_manager/bulk_api.py",
        "role=Role.OPERATE",
        "role=Role.READ",
        AUDIT_TESTS,
    ),
    Mutation(
        "bulk: no owner",
        "cache_manager/bulk_api.py",
        "for_owners=False",
        "for_owners=True",
        AUDIT_TESTS,
    ),
    Mutation(
        "history: an operator's name is for operators",
        "cache_manager/task_api.py",
        "names=service.by is not None",
        "names=True",
        AUDIT_TESTS,
    ),
    Mutation(
        "owner: the filter of a list",
        "cache_manager/listing.py",
        "if owner is not None and asked not in (None, owner):",
        "if False:",
        AUDIT_TESTS,
    ),
    Mutation(
        "owner: the gateway's key",
        "shared/http/owners.py",
        "not sum(hmac.compare_digest(given, key) for key in keys)",
        "False",
        OWNER_TESTS,
    ),
    Mutation(
        "console: a name that is no file of the page",
        "operator_console/page.py",
        "file = files().get(name)",
        "file = PageFile(name, gzip.compress((DIST / name).read_bytes())) if (DIST / name).is_file() else None",
        CONSOLE_TESTS,
    ),
    Mutation(
        "console: the policy is sent",
        "operator_console/page.py",
        '    "Content-Security-Policy": POLICY,\n',
        "",
        CONSOLE_TESTS,
    ),
    Mutation(
        "console: no other site frames it",
        "operator_console/page.py",
        '    "X-Frame-Options": "DENY",\n',
        "",
        CONSOLE_TESTS,
    ),
    Mutation(
        "console: the index is asked for again",
        "operator_console/page.py",
        '"no-cache" if self.name == INDEX else _FOR_EVER',
        "_FOR_EVER",
        CONSOLE_TESTS,
    ),
    Mutation(
        "operator: the gateway's word alone",
        OPERATORS,
        '    check_is_gateway(req, settings, "operator")\n',
        "",
        OPERATOR_TESTS,
    ),
    Mutation(
        "operator: roles without a name",
        OPERATORS,
        "name is None and roles is None",
        "name is None",
        OPERATOR_TESTS,
    ),
    Mutation(
        "operator: does what its role may",
        "shared/http/functions.py",
        "        check_role(operator, self.role)\n",
        "",
        MOUNT_TESTS,
    ),
    Mutation(
        "operator: nothing that is for model services",
        OPERATORS,
        "role is not None and role in",
        "role is None or role in",
        OPERATOR_TESTS,
    ),
    Mutation(
        "operator: no role beyond the mount's",
        OPERATORS,
        "told if known is None else told & known.roles",
        "told",
        OPERATOR_TESTS,
    ),
    Mutation(
        "operator: the platform's word only while it signs people in",
        MOUNTS,
        "if not self.services.settings.website_auth_enabled:",
        "if False:",
        MOUNT_TESTS,
    ),
    Mutation(
        "operator: no request that another site has a browser send",
        OPERATORS,
        ' or header(req, "sec-fetch-site") != "same-origin"',
        "",
        OPERATOR_TESTS,
    ),
    Mutation(
        "operator: no request without the page's header",
        OPERATORS,
        'header(req, "x-console") is None or ',
        "",
        OPERATOR_TESTS,
    ),
    Mutation(
        "operator: roles of the application alone",
        OPERATORS,
        ' if claim["typ"] in kinds',
        "",
        OPERATOR_TESTS,
    ),
    Mutation(
        "operator: a name that shows as it is",
        OPERATORS,
        " if character.isprintable()",
        "",
        OPERATOR_TESTS,
    ),
    Mutation(
        "mount: the role of its own key",
        MOUNTS,
        "holder_of(self.role)",
        "holder_of(Role.OPERATE)",
        MOUNT_TESTS,
    ),
    Mutation(
        "mount: what v1 has, and nothing else",
        MOUNTS,
        ".fullmatch(path)",
        ".match(path)",
        MOUNT_TESTS,
    ),
    Mutation(
        "mount: what is stored is found where it is",
        MOUNTS,
        "if response.status_code == 202:",
        "if response.status_code:",
        MOUNT_TESTS,
    ),
    Mutation(
        "owner: named on any route",
        "shared/http/functions.py",
        "owner_of(req, settings) is not None and not self.for_owners",
        "False",
        ("tests/contract/test_owners_by_route.py",),
    ),
    Mutation(
        "owner: no queue of all",
        "shared/http/functions.py",
        " is not None and not self.for_owners:",
        " is None and not self.for_owners and False:",
        ("tests/contract/test_owners_by_route.py",),
    ),
    Mutation(
        "owner: creates nothing by an id of its choice",
        "cache_manager/task_service.py",
        "self.owner is not None or not isinstance(changed, Refused)",
        "not isinstance(changed, Refused)",
        ("tests/contract/test_owners_by_route.py",),
    ),
    Mutation(
        "keyed id: nobody can compute it",
        "shared/store/keyed_ids.py",
        "derived[:16]",
        "hashlib.sha256(name.encode()).digest()[:16]",
        KEYED_ID_TESTS,
    ),
    Mutation(
        "keyed id: what an earlier version created is found",
        "shared/store/keyed_ids.py",
        "secret.age_ms >= self._former_ms",
        "True",
        KEYED_ID_TESTS,
    ),
    Mutation(
        "keyed id: what an earlier version created is looked for no longer than it can be there",
        "shared/store/keyed_ids.py",
        "secret.age_ms >= self._former_ms",
        "False",
        KEYED_ID_TESTS,
    ),
    Mutation(
        "keyed id: not one that another owner has taken",
        "shared/store/keyed_ids.py",
        "known.owner == owner and known.fingerprint",
        "known.fingerprint",
        KEYED_ID_TESTS,
    ),
    Mutation(
        "keyed id: not one that was taken without a key",
        "shared/store/keyed_ids.py",
        "known.owner == owner and known.fingerprint",
        "known.owner == owner",
        KEYED_ID_TESTS,
    ),
    Mutation(
        "keyed id: an earlier version finds what is created during an upgrade",
        "shared/store/keyed_ids.py",
        "former_id if secret.is_upgrade else new_id",
        "new_id",
        KEYED_ID_TESTS,
    ),
    Mutation(
        "keyed id: the upgrade ends",
        f"{LUA}/keyed/secret.lua",
        "now < tonumber(beside) and 1 or 0",
        "tonumber(beside) > 0 and 1 or 0",
        KEYED_ID_TESTS,
    ),
    Mutation(
        "keyed id: the secret is drawn once",
        f"{LUA}/keyed/secret.lua",
        "if not secret then",
        "if true then",
        KEYED_ID_TESTS,
    ),
    Mutation(
        "keyed id: garbage in place of the secret",
        f"{LUA}/keyed/secret.lua",
        "redis.pcall('GET', key)",
        "redis.call('GET', key)",
        KEYED_ID_TESTS,
    ),
    Mutation(
        "keyed id: the secret is known while its node is silent",
        "shared/store/keyed_ids.py",
        "            if known is None:\n                raise\n            return known\n",
        "            raise\n",
        KEYED_ID_TESTS,
    ),
    Mutation(
        "owner: the gateway's key by which it was known before",
        "shared/connection_settings.py",
        "for key in (self.gateway_key, self.gateway_key_previous) if key",
        "for key in (self.gateway_key,) if key",
        ROTATION_TESTS,
    ),
    Mutation(
        "versions: a record keeps a field that nobody knows",
        f"{TASK_INCLUDES}/record.lua",
        "  local raw = cmsgpack.pack(rec)\n",
        "  rec.later = nil\n  local raw = cmsgpack.pack(rec)\n",
        LATER_TESTS,
    ),
    Mutation(
        "settings: lost ones are restored from their record",
        f"{LUA}/includes/queue/state.lua",
        "if not settings and (queue.K or not raw) then",
        "if false then",
        SETTINGS_RECORD_TESTS,
    ),
    Mutation(
        "settings: those that are lost alone are noticed",
        f"{LUA}/includes/queue/state.lua",
        "if not settings and (queue.K or not raw) then",
        "if not settings and not raw then",
        SETTINGS_RECORD_TESTS,
    ),
    Mutation(
        "settings: each change goes to their record",
        f"{LUA}/includes/queue/keep_settings.lua",
        "  record_settings(packed)\n",
        "",
        SETTINGS_RECORD_TESTS,
    ),
    Mutation(
        "settings: a record that is lost is written again",
        f"{LUA}/queue/maintain.lua",
        "mend_settings(queue)\n",
        "",
        SETTINGS_RECORD_TESTS,
    ),
    Mutation(
        "settings: what an older version resets is no loss",
        f"{LUA}/includes/queue/keep_settings.lua",
        "    settings.kept = true\n",
        "",
        SETTINGS_RECORD_TESTS,
    ),
    Mutation(
        "settings: a look restores nothing",
        f"{LUA}/includes/queue/state.lua",
        "    if restored then known.restored,",
        "    if restored then redis.call('SET', settings_key, restored) end\n    if restored then known.restored,",
        SETTINGS_RECORD_TESTS,
    ),
    Mutation(
        "mending: settings that cannot be are removed",
        f"{TASK}/mend.lua",
        "if not are_settings(redis.call('GET', key)) then remove(key) end",
        "",
        ("tests/cache_manager/test_mending.py",),
    ),
    Mutation(
        "endpoints: of a setting",
        "cache_manager/queue_api.py",
        "    await services.endpoint_bound.admit(endpoint)\n",
        "",
        QUEUE_VIEW_TESTS,
    ),
    Mutation(
        "endpoints: one with settings makes no room",
        "shared/store/endpoint_names.py",
        " | await self._queries.paths_with_settings()",
        "",
        ENDPOINT_TESTS,
    ),
    Mutation(
        "queues: who changed the settings is for operators",
        "cache_manager/queue_api.py",
        "names_operator = operator_now() is not None",
        "names_operator = True",
        QUEUE_VIEW_TESTS,
    ),
    Mutation(
        "conditional: what has changed is sent",
        "shared/http/conditional.py",
        "if known is not None and matches(known, etag):",
        "if known is not None:",
        QUEUE_VIEW_TESTS,
    ),
    Mutation(
        "requests: what a silent instance said does not count",
        f"{LUA}/includes/requests/counted.lua",
        "if instance ~= '' and share[2] > now then",
        "if instance ~= '' then",
        ("tests/shared/store/test_request_pages.py",),
    ),
    Mutation(
        "bodies: uploads share the pieces that are sent at a time",
        "shared/bodies.py",
        "_PIECES_AT_ONCE // self._uploads",
        "_PIECES_AT_ONCE",
        ("tests/shared/test_bodies.py",),
    ),
    Mutation(
        "versions: a queue keeps a field that nobody knows",
        f"{LUA}/includes/queue/state.lua",
        "      redis.call('SET', key, cmsgpack.pack(queue), 'PX'",
        "      queue.later = nil\n      redis.call('SET', key, cmsgpack.pack(queue), 'PX'",
        LATER_TESTS,
    ),
    Mutation(
        "versions: an upload keeps a field that nobody knows",
        f"{LUA}/includes/upload/upload.lua",
        "  local raw = cmsgpack.pack(upload)\n",
        "  upload.later = nil\n  local raw = cmsgpack.pack(upload)\n",
        LATER_TESTS,
    ),
    Mutation(
        "redis: a cluster that poses as a single server",
        "shared/store/redis/client.py",
        "raise WrongClusteringPolicy from None",
        "return",
        ("tests/shared/store/redis/test_client.py",),
    ),
    Mutation(
        "redis: only a refusal of two slots is one of the clustering policy",
        "shared/store/redis/client.py",
        "except ClusterCrossSlotError:\n        log.error(",
        "except RedisError:\n        log.error(",
        ("tests/shared/store/redis/test_client.py",),
    ),
    Mutation(
        "settings: a previous key has a successor",
        "shared/connection_settings.py",
        "if self.gateway_key_previous and not self.gateway_key:",
        "if False:",
        SETTINGS_TESTS,
    ),
    Mutation(
        "settings: a previous key is long enough",
        "shared/connection_settings.py",
        '@field_validator("gateway_key", "gateway_key_previous")',
        '@field_validator("gateway_key")',
        SETTINGS_TESTS,
    ),
    Mutation(
        "settings: a reference that was not resolved, in a setting of the app",
        "shared/settings.py",
        "if isinstance(value, str) and KEY_VAULT_REFERENCE in plain(value):",
        "if False:",
        SETTINGS_TESTS,
    ),
    Mutation(
        "settings: a reference that was not resolved, within a setting of the app",
        "shared/settings.py",
        "KEY_VAULT_REFERENCE in plain(value)",
        "plain(value).startswith(KEY_VAULT_REFERENCE)",
        SETTINGS_TESTS,
    ),
    Mutation(
        "settings: a reference that was not resolved, in a setting of the platform",
        "shared/settings.py",
        "            if not problems:\n",
        "            if True:\n",
        SETTINGS_TESTS,
    ),
    Mutation(
        "settings: what the platform says of its references is no reference",
        "shared/settings.py",
        "and plain(value).startswith(KEY_VAULT_REFERENCE)",
        "and KEY_VAULT_REFERENCE in plain(value)",
        SETTINGS_TESTS,
    ),
    Mutation(
        "registry: of an Endpoint's origin",
        "shared/dispatch/registry.py",
        "_origin(base) == origin and ",
        "",
        ("tests/shared/dispatch/test_registry.py",),
    ),
    Mutation(
        "registry: of a path, at creation and at dispatch",
        "shared/dispatch/registry.py",
        "            if backend.serves(path):",
        "            if True:",
        ("tests/shared/dispatch/test_registry.py",),
    ),
    Mutation(
        "registry: of what may not be in a path, escaped or not",
        "shared/dispatch/registry.py",
        "_FORBIDDEN_IN_SEGMENT.search(text) or ",
        "",
        ("tests/shared/dispatch/test_registry.py",),
    ),
    Mutation(
        "registry: of a listed endpoint",
        "shared/dispatch/registry.py",
        "endpoint is None or not endpoint.is_registered",
        "endpoint is None",
        ("tests/shared/dispatch/test_registry.py",),
    ),
    Mutation(
        "endpoints: one that has tasks makes no room",
        "shared/store/endpoint_names.py",
        "await self._queries.paths() | ",
        "",
        ENDPOINT_TESTS,
    ),
    Mutation(
        "endpoints: one to which a task goes later makes no room",
        f"{LUA}/backend/admit.lua",
        "now_ms(arg.now) + arg.ahead",
        "now_ms(arg.now)",
        ENDPOINT_TESTS,
    ),
    Mutation(
        "endpoints: an ask for now forgets none for later",
        f"{LUA}/backend/admit.lua",
        "not known or tonumber(known) < asked",
        "true",
        ENDPOINT_TESTS,
    ),
    Mutation(
        "endpoints: the steps behind the first one are later ones",
        "shared/dispatch/endpoint_bound.py",
        "        await self.admit_later(*later)\n",
        "",
        ENDPOINT_TESTS,
    ),
    Mutation(
        "endpoints: of a submit",
        "cache_manager/task_api.py",
        "    await services.endpoint_bound.admit(*endpoints.route.endpoints)\n",
        "",
        ("tests/contract/test_v1_queues.py::test_a_backend_has_a_bound_of_endpoints",),
    ),
    Mutation(
        "endpoints: of a next step",
        "cache_manager/task_api.py",
        "    await services.endpoint_bound.admit(endpoint)\n",
        "",
        ("tests/contract/test_v1_queues.py::test_a_backend_has_a_bound_of_endpoints",),
    ),
    Mutation(
        "endpoints: of what follows a batch",
        "cache_manager/batch_api.py",
        "    await services.endpoint_bound.admit_later(*route.endpoints)\n",
        "",
        ("tests/contract/test_v1_queues.py::test_a_backend_has_a_bound_of_endpoints",),
    ),
    Mutation(
        "callback: an end is to be told",
        f"{TASK_INCLUDES}/begin_retention.lua",
        "  if rec.J then note_end(id, rec, now) end\n",
        "",
        CALLBACK_STORE_TESTS,
    ),
    Mutation(
        "callback: one process tells at a time",
        f"{CALLBACK}/claim.lua",
        "if call.c and call.c[1] > now and call.c[1] <= now + arg.window then",
        "if false then",
        CALLBACK_STORE_TESTS,
    ),
    Mutation(
        "callback: a failure after another's claim changes nothing",
        f"{CALLBACK}/record.lua",
        "if not is_claimed and not (is_first and arg.what == 'delivered') then return -1 end\n",
        "",
        CALLBACK_STORE_TESTS,
    ),
    Mutation(
        "callback: a repeated record counts once",
        f"{CALLBACK}/record.lua",
        "if call.o and call.o[1] == arg.op then return ms_until(call.o[2]) end\n",
        "",
        CALLBACK_STORE_TESTS,
    ),
    Mutation(
        "callback: a task is kept until its end is told",
        f"{TASK}/sweep.lua",
        "if told and now < told[5] + CALL_KEPT_MS and now >= rec.m + arg.retention then",
        "if false then",
        CALLBACK_STORE_TESTS,
    ),
    Mutation(
        "callback: nobody is tried for more than a day",
        f"{LUA}/includes/callback/drop_old.lua",
        "while message and now >= (message[5] or message[2]) + CALL_KEPT_MS do",
        "while false do",
        CALLBACK_STORE_TESTS,
    ),
    Mutation(
        "callback: an end of a former version is found",
        f"{CALLBACK}/look.lua",
        "if is_terminal(rec.s) and call.e ~= rec.a then",
        "if false then",
        CALLBACK_STORE_TESTS,
    ),
    Mutation(
        "callback: an owner resends its own",
        f"{CALLBACK}/resend.lua",
        "if rec and arg.owner and arg.owner ~= rec.o then return -1 end",
        "",
        CALLBACK_STORE_TESTS,
    ),
    Mutation(
        "callback: what fails is only probed",
        "shared/dispatch/deliveries.py",
        "return self._is_failing and self._now_ms() < self._closed_until_ms",
        "return False",
        CALLBACK_TESTS,
    ),
    Mutation(
        "callback: a destination has few calls at a time",
        "shared/dispatch/deliveries.py",
        "return 1 if self._failures else self._room.most",
        "return 1000",
        CALLBACK_TESTS,
    ),
    Mutation(
        "callback: who fails has calls apart from the others'",
        "shared/dispatch/deliveries.py",
        "self._room.probes if self._is_failing else self._room.calls",
        "self._room.probes",
        CALLBACK_TESTS,
    ),
    Mutation(
        "callback: a destination that fails is woken for",
        "shared/dispatch/deliveries.py",
        "answer.retry_after_s or 0))\n            self._wake_to_probe()\n",
        "answer.retry_after_s or 0))\n",
        CALLBACK_TESTS,
    ),
    Mutation(
        "callback: a try is woken for",
        "shared/store/callbacks.py",
        "        if in_ms > 0:\n",
        "        if in_ms > 10**9:\n",
        CALLBACK_TESTS,
    ),
    Mutation(
        "callback: progress is woken for",
        "shared/store/callbacks.py",
        "        if in_ms >= 0:\n",
        "        if in_ms > 10**9:\n",
        CALLBACK_STORE_TESTS,
    ),
    Mutation(
        "callback: what is due hides nothing that is due soon",
        f"{CALLBACK}/look.lua",
        "    first = redis.call('ZRANGEBYSCORE', calls, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)\n",
        "",
        CALLBACK_STORE_TESTS,
    ),
    Mutation(
        "callback: a message is bounded",
        "cache_manager/callback_schemas.py",
        "    if len(body) <= MOST_BYTES:\n",
        "    if True:\n",
        CALLBACK_TESTS,
    ),
    Mutation(
        "callback: a secret is one",
        "shared/callback_settings.py",
        "if not secret.startswith(_BEGINNING) or len(key) not in _SECRET_BYTES:",
        "if False:",
        ("tests/contract/test_callback_settings.py",),
    ),
    Mutation(
        "callback: an owner's destination is its own",
        "shared/dispatch/destinations.py",
        "return self.owner is None or self.owner == owner",
        "return True",
        CALLBACK_WIRE_TESTS,
    ),
    Mutation(
        "callback: each key signs",
        "shared/dispatch/callback_client.py",
        "for key in destination.keys)",
        "for key in destination.keys[:1])",
        CALLBACK_WIRE_TESTS,
    ),
    Mutation(
        "callback: no redirect is followed",
        "shared/dispatch/callback_client.py",
        "allow_redirects=False)\n        except",
        "allow_redirects=True)\n        except",
        CALLBACK_WIRE_TESTS,
    ),
    Mutation(
        "endpoints: of a legacy create",
        "cache_manager/task_service.py",
        "                await self.services.endpoint_bound.admit(endpoint)\n",
        "",
        ("tests/contract/test_v1_queues.py::test_a_backend_has_a_bound_of_endpoints",),
    ),
    Mutation(
        "paths: those without open tasks are not counted for what waits",
        "task_logger/timers.py",
        "        if not self._open_only:",
        "        if True:",
        (
            "tests/contract/test_metric_timers.py::test_paths_whose_tasks_have_ended_are_not_counted_for_those_that_wait",
        ),
    ),
    Mutation(
        "pipeline: its name is no endpoint",
        "shared/dispatch/registry.py",
        "if path in self._pipelines:",
        "if False:",
        ("tests/shared/dispatch/test_registry.py",),
    ),
    Mutation(
        "pipeline: it is part of what an idempotency key stands for",
        "cache_manager/asked.py",
        "PIPELINE_HEADER: way.asked",
        'PIPELINE_HEADER: ""',
        ("tests/contract/test_v1_pipelines.py::test_the_pipeline_is_part_of_what_an_idempotency_key_stands_for",),
    ),
    Mutation(
        "status: another text drops a long one",
        f"{TASK_INCLUDES}/set_status.lua",
        "  if long or rec.X then rec.X = long end",
        "  if long then rec.X = long end",
        ("tests/shared/store/test_long_status.py",),
    ),
    Mutation(
        "status: the same end is known by the whole text",
        f"{TASK_INCLUDES}/set_status.lua",
        " and (rec.X and rec.X[3]) == (long and long[3])",
        "",
        ("tests/shared/store/test_long_status.py",),
    ),
    Mutation(
        "telemetry: libraries are quiet",
        "shared/telemetry_export.py",
        "logging.root.setLevel(max(logging.root.level, library_level))",
        "pass",
        ("tests/telemetry/test_idle.py",),
    ),
    Mutation(
        "telemetry: no export makes another",
        "shared/telemetry_export.py",
        "return is_wanted and self._is_outside_an_export()",
        "return is_wanted",
        ("tests/telemetry/test_idle.py",),
    ),
    Mutation(
        "telemetry: a provider is configured once",
        "shared/telemetry_export.py",
        "if _is_configured():",
        "if False:",
        ("tests/telemetry/test_configuration.py",),
    ),
    Mutation(
        "telemetry: a request is told once",
        "shared/telemetry.py",
        "SpanKind.INTERNAL if is_from_host",
        "SpanKind.SERVER if is_from_host",
        ("tests/telemetry/test_configuration.py",),
    ),
    Mutation(
        "telemetry: no event has a text",
        "shared/telemetry.py",
        '"task.state": task.state.value,',
        '"task.state": task.state.value, "task.status": task.status,',
        SIGNAL_TESTS,
    ),
    Mutation(
        "telemetry: only the wanted events are sent",
        "shared/telemetry.py",
        '(_events == "ends" and not task.state.is_terminal)',
        "False",
        SIGNAL_TESTS,
    ),
    Mutation(
        "telemetry: a timer reads no more queues than it may tell of",
        "task_logger/timers.py",
        "[: gauges.SERIES_LIMIT + 1]",
        "",
        SIGNAL_TESTS,
    ),
    Mutation(
        "telemetry: a bound of the paths that are counted apart",
        "shared/step_counts.py",
        "if len(_paths) < PATHS_LIMIT:",
        "if True:",
        ("tests/contract/test_telemetry_steps.py",),
    ),
    Mutation(
        "telemetry: what is no task's id is not taken for one",
        "shared/http/functions.py",
        "if is_task_id(task_id) else nullcontext()",
        "if task_id else nullcontext()",
        SIGNAL_TESTS,
    ),
    Mutation(
        "telemetry: no span has a caller's query",
        "shared/conventions.py",
        'url.partition("?")[0]',
        "url",
        ("tests/telemetry/test_conventions.py",),
    ),
    Mutation(
        "telemetry: an impossible host fails no request",
        "shared/conventions.py",
        "with suppress(ValueError):",
        "with suppress():",
        ("tests/telemetry/test_conventions.py",),
    ),
    Mutation(
        "telemetry: a line that names another task keeps its id",
        "shared/telemetry_export.py",
        'record.__dict__.setdefault("task.id", task_id)',
        'record.__dict__["task.id"] = task_id',
        ("tests/telemetry/test_task_ids.py",),
    ),
    Mutation(
        "telemetry: a wait has no retries in it",
        "shared/tasks/ending.py",
        "event.status.startswith(status_texts.AWAITING)",
        "True",
        ("tests/shared/store/test_end_reasons.py",),
    ),
    Mutation(
        "telemetry: a wait that is not kept is unknown",
        "shared/tasks/ending.py",
        "or events[1].attempt != arrival.attempt",
        "",
        ("tests/shared/store/test_end_reasons.py",),
    ),
    Mutation(
        "registry: of the address when it is called",
        "shared/dispatch/guarded_resolver.py",
        'if not self._registry.forbids(result["host"].partition("%")[0])',
        "",
        ("tests/shared/dispatch/test_backend_client.py",),
    ),
    *(
        Mutation(f"call: {guard}", f"shared/dispatch/{file}.py", old, new, tests)
        for guard, file, old, new, tests in (
            (
                "a failed write does not hide the answer",
                "connections",
                "            return super().send(data, flags)\n        except ConnectionError:",
                "            return super().send(data, flags)\n        except ZeroDivisionError:",
                EARLY_TESTS,
            ),
            (
                "a refused body is not sent on",
                "backend_client",
                "            response.abort()\n        elif",
                "            pass\n        elif",
                USED_TESTS,
            ),
            (
                "a body without an answer is not sent on",
                "connections",
                "        except BaseException:\n            self.abort()\n",
                "        except BaseException:\n",
                USED_TESTS,
            ),
            (
                "a body is sent to the end after an early acceptance",
                "connections",
                "        if self._writer is None:\n            super()",
                "        if True:\n            super()",
                USED_TESTS,
            ),
            (
                "only a used connection can be stale",
                "connections",
                "if self.is_on_used_connection and not _has_begun(error)",
                "if not _has_begun(error)",
                USED_TESTS,
            ),
            ("a begun answer is not asked for again", "connections", " and not _has_begun(error):", ":", USED_TESTS),
            (
                "a stale connection costs no attempt",
                "backend_client",
                "        except StaleConnection as stale:",
                "        except ZeroDivisionError as stale:",
                USED_TESTS,
            ),
            ("a redirect stays on its host", "backend_client", "if not is_same_host or ", "if ", CALL_TESTS),
            (
                "an inline body has its length",
                "backend_calls",
                "if len(claimed.inline_body) != content.size_bytes:",
                "if False:",
                BODY_TESTS,
            ),
        )
    ),
    Mutation(
        "body: a blob has its length",
        "shared/bodies.py",
        "    if size_bytes != content.size_bytes:\n        raise BodyMissing(content.blob)",
        "    if False:\n        raise BodyMissing(content.blob)",
        BODY_TESTS,
    ),
    Mutation(
        "body: a stream has its length",
        "shared/blobs.py",
        "            if left_bytes:\n",
        "            if False:\n",
        BODY_TESTS,
    ),
    *(
        Mutation(f"series: {guard}", f"{LUA}/{file}.lua", old, new, SERIES_TESTS)
        for guard, file, old, new in (
            ("what a minute had goes to its row", "includes/queue/state", "        fold_tallies(known)\n", ""),
            (
                "a repeated end counts once",
                "includes/queue/release_entry",
                "if arg.ended and (is_first_time or is_known or queue.X ~= arg.entry)",
                "if arg.ended",
            ),
            ("an end that comes later counts", "includes/queue/release_entry", " or queue.X ~= arg.entry)", ")"),
            (
                "a task that nobody dispatches is left out",
                "combined/apply_and_release",
                "is_terminal(rec.s) and rec.w and step",
                "is_terminal(rec.s) and step",
            ),
            (
                "the wait counts of a task whose owner was charged",
                "includes/queue/wait_counted",
                "% 1 >= 0.5",
                "% 1 ~= 0",
            ),
            (
                "a repeated acceptance counts once",
                "queue/accepted",
                "if not score or is_wait_counted(score)",
                "if not score",
            ),
            (
                "a repeated step counts no end",
                "combined/apply_and_release",
                "if is_first_time and is_terminal",
                "if is_terminal",
            ),
            (
                "an entry comes once",
                "includes/queue/enqueue_entries",
                "if wait(queue, unpack(row)) and (arg.new or arg.arrives) then",
                "wait(queue, unpack(row))\n    if arg.new or arg.arrives then",
            ),
            (
                "what lies ahead is of now",
                "includes/queue/fold_tallies",
                "while last and last[1] > at do",
                "while false do",
            ),
            (
                "a tally that nobody knows is left out",
                "includes/queue/fold_tallies",
                "elseif tally >= 1 and tally <= 5 then",
                "else",
            ),
            (
                "a key of another type goes",
                "includes/queue/series_rows",
                "if not string.find(reply.err, 'WRONGTYPE', 1, true) then",
                "if true then",
            ),
            (
                "a row that is none is left out",
                "includes/queue/series_rows",
                "or #bins % 2 == 1 or not are_numbers(bins, #bins) then",
                "then",
            ),
            ("an age is that of a task that waits", "queue/note_oldest", "if queue.w > 0 and", "if"),
            (
                "an age that was lost is not known",
                "includes/queue/state",
                "elseif known.since and (known.waiting == 0 or queue.S and known.since < queue.S) then",
                "elseif known.since then",
            ),
        )
    ),
    Mutation(
        "series: a task that was given back has waited once",
        "shared/store/queue_steps.py",
        "if not task.failures and not task.was_returned:",
        "if not task.failures:",
        SERIES_TESTS,
    ),
    Mutation(
        "series: tallies of no meaning stop no reader",
        "shared/store/series.py",
        "elif 1 <= tally <= len(counts):",
        "else:",
        SERIES_TESTS,
    ),
    *(
        Mutation(f"series: {guard}", f"{LUA}/includes/queue/fold_tallies.lua", old, new, SERIES_ROOM_TESTS)
        for guard, old, new in (
            ("a path has so much room", "while bytes > MOST_BYTES and", "while false and"),
            (
                "all paths have so much room",
                "if sum <= MOST_BYTES_IN_ALL then return end",
                "if true then return end",
            ),
            ("a path that is not used is forgotten", "    redis.call('ZREM', series, gone)\n", ""),
        )
    ),
    *(
        Mutation(f"rate: {guard}", f"{LUA}/{file}.lua", old, new, RATE_TESTS)
        for guard, file, old, new in (
            ("no window has more", "includes/queue/rate", "if first >= 0 then since =", "if false then since ="),
            (
                "evenly, a grant keeps its distance",
                "includes/queue/rate",
                "at = math.max(at, parts > 0 and ms + 1 or ms)",
                "at = math.max(at, 0)",
            ),
            (
                "an idle time is not made up for",
                "includes/queue/rate",
                "catches_up and not is_burst and queue_now - tolerance or queue_now",
                "queue_now - 10 * tolerance",
            ),
            ("who asks late loses nothing", "includes/queue/rate", "catches_up and not is_burst and", "false and"),
            (
                "times that are lost may be the last ones",
                "includes/queue/rate",
                "forget(kept.t - kept.o)",
                "kept.l = nil",
            ),
            ("a queue that lost all of it waits", "includes/queue/rate", "      forget(queue_now)\n", ""),
            (
                "a first task does not",
                "includes/queue/rate",
                "elseif is_unknown and (not is_first or has_granted()) then",
                "elseif true then",
            ),
            (
                "who comes first after a loss is no first task",
                "includes/queue/rate",
                "(not is_first or has_granted())",
                "not is_first",
            ),
            ("what is no list is lost", "includes/queue/rate", "if type(length) ~= 'number' then", "if false then"),
            (
                "a clock that is set back passes no time",
                "includes/queue/state",
                "(kept.o or 0) + back",
                "kept.o or 0",
            ),
            ("two are told when to ask", "includes/queue/rate", "kept.k <= MOST_ASKERS", "true"),
            (
                "many grants are asked for together",
                "includes/queue/rate",
                "(interval < TOGETHER_MS and math.max(ms, TOGETHER_MS) or ms)",
                "ms",
            ),
            (
                "an operator's goes first",
                "includes/queue/rate",
                "unpack(settings.rate or configured)",
                "unpack(configured)",
            ),
            ("an estimate knows it", "includes/queue/position", "rate and rate.wait_ms(ahead) or nil", "nil"),
            (
                "a full queue knows it",
                "includes/queue/room_ms",
                "ms = math.max(ms, rate_of(queue, settings).wait_ms(ahead))",
                "ms = ms + 0",
            ),
            (
                "what it had is kept for a day",
                "queue/maintain",
                " and (kept.v or 0) < queue_now - LONGEST_WINDOW_MS",
                "",
            ),
        )
    ),
    *(
        Mutation(f"metrics: {guard}", f"cache_manager/{file}.py", old, new, METRICS_TESTS)
        for guard, file, old, new in (
            ("a path is escaped", "metrics", "text.translate(_ESCAPES)", "text"),
            ("a bound of endpoints", "metrics_api", "shown = paths[:MOST_PATHS]", "shown = paths"),
        )
    ),
    *(
        Mutation(f"queue: {guard}", f"{LUA}/{file}.lua", old, new, QUEUE_TESTS)
        for guard, file, old, new in (
            ("one probe at a time", "includes/queue/grant_slots", ", queue.p and not widens and queue.u or 0)", ")"),
            (
                "a refusal lowers the estimate",
                "queue/refused",
                "queue.l = math.min(queue.l, queue.h - count_unclaimed())",
                "",
            ),
            (
                "a refusal delays the next probe",
                "includes/queue/grant_slots",
                "math.max(at, queue.b or 0, ",
                "math.max(at, ",
            ),
            (
                "a freed slot is granted meanwhile",
                "includes/queue/grant_slots",
                "local is_probe = within >= queue.l or queue.o ~= nil",
                "local is_probe = true",
            ),
            ("a pause for failures ends with a probe", "includes/queue/grant_slots", " or queue.o ~= nil", ""),
            (
                "paused, it grants nothing",
                "includes/queue/grant_slots",
                "queue.w > 0 and not settings.paused and",
                "queue.w > 0 and",
            ),
            ("a limit caps", "includes/queue/grant_slots", " and not (cap and queue.h >= cap) do", " do"),
            ("owners take turns", "includes/queue/grant_slots", "      set_owner('ZINCRBY', 1, owner)\n", ""),
            ("a refusal costs the owner nothing", "includes/queue/wait", "set_owner('ZINCRBY', -1, owner)", ""),
            (
                "an entry never waits and holds at once",
                "includes/queue/wait",
                "if not queue_arg.just_created and holds_slot(entry) then return false end",
                "",
            ),
            ("a loss is noticed", "includes/queue/state", "if not raw or queue.h ~= held or", "if not raw or"),
            (
                "a lost owner is noticed",
                "queue/maintain",
                "if queue.w ~= count_waiting() then recount(queue) end",
                "",
            ),
            (
                "after a loss it probes one by one",
                "includes/queue/state",
                "queue.l = math.min(queue.l, queue.h)",
                "",
            ),
            (
                "a lost probe makes no room for another",
                "includes/queue/state",
                "if queue.p and not redis.call('ZSCORE', held_key, queue.p) then",
                "if false then",
            ),
            (
                "slots that are held are checked",
                "queue/maintain",
                "entries_between('-inf', queue_now)",
                "entries_between('-inf', 0)",
            ),
            (
                "a later loss does not count as rebuilt",
                "queue/mark_rebuilt",
                "if queue.x == queue_arg.loss then",
                "if true then",
            ),
            (
                "a look at a queue leaves no trace",
                "includes/queue/state",
                "redis.call(queue.h > 0 and 'SADD' or 'SREM',",
                "redis.call('SADD',",
            ),
            (
                "an entry that was taken is not refused",
                "includes/queue/enqueue_entries",
                "not (holds_slot(first) or redis.call('ZSCORE', waiting_key(owner), first)) then",
                "true then",
            ),
            ("positions among owners", "includes/queue/position", "other < owner and turns + 1", "turns + 1"),
            (
                "slots within the estimate are granted during a probe",
                "includes/queue/grant_slots",
                "local within = queue.h - probes",
                "local within = queue.h",
            ),
            (
                "a refusal in place of the probe counts as its own",
                "queue/refused",
                "is_probe or (queue.a or 0) > queue_now or",
                "is_probe or",
            ),
            (
                "a guess does not shorten the pause",
                "includes/queue/raise_estimate",
                "if is_probe and not unsure or",
                "if is_probe or",
            ),
        )
    ),
    *(
        Mutation(f"capacity: {guard}", f"{LUA}/{file}.lua", old, new, CAPACITY_TESTS)
        for guard, file, old, new in (
            (
                "a search doubles",
                "includes/queue/raise_estimate",
                "math.min(2 * queue.B, math.max(1, queue.l), MOST_PROBES)",
                "queue.B",
            ),
            ("a search risks what it knows", "includes/queue/raise_estimate", "math.max(1, queue.l), ", ""),
            ("a refusal ends a search", "queue/refused", "queue.B, queue.D, queue.N = nil, nil, nil\n", ""),
            (
                "refusals of one search are one lesson",
                "queue/refused",
                "local is_late = queue.Q and queue.Q[arg.entry] and not queue.B",
                "local is_late = false",
            ),
            ("growth is searched", "includes/queue/raise_estimate", "if queue.N >= GROWN then", "if false then"),
            (
                "an instance is forgotten",
                "includes/queue/told_slots",
                " or at + queue_arg.kept <= queue_now then",
                " then",
            ),
            (
                "what is told is filled",
                "includes/queue/told_slots",
                "queue.l = math.max(queue.l, sum)",
                "queue.l = queue.l",
            ),
            ("what is gone is gone", "includes/queue/told_slots", "queue.l - (before - sum)", "queue.l"),
            (
                "beyond what was told there is a pause",
                "includes/queue/told_slots",
                "queue_now + queue_arg.pause",
                "queue_now",
            ),
            (
                "so many instances",
                "includes/queue/told_slots",
                "redis.call('HLEN', key) < MOST_INSTANCES",
                "true",
            ),
            ("maintenance forgets", "queue/maintain", "if queue.G and queue.G <= queue_now then", "if false then"),
        )
    ),
    Mutation(
        "queue: a stale entry does nothing",
        "shared/tasks/outcomes.py",
        'return f"{self.task_id}.{self.attempt}"',
        'return f"{self.task_id}.1"',
        QUEUE_TESTS,
    ),
    *(
        Mutation(f"combined: {guard}", f"{LUA}/{file}.lua", old, new, COMBINED_TESTS)
        for guard, file, old, new in (
            (
                "a replay reports what it had claimed",
                "combined/apply_and_release",
                "if not is_first_time then\n    -- The entries",
                "if false then\n    -- The entries",
            ),
            (
                "a step is not taken for its own claim",
                "combined/apply_and_release",
                "if id == step.id then return { 'state' } end",
                "",
            ),
            ("a claimed task has a window", "combined/apply_and_release", "step.op, then_.window", "step.op, 1e12"),
            (
                "another attempt's end ends no entry",
                "combined/apply_and_release",
                "elseif applied[1] == 'applied' and is_terminal(applied.rec.s) or",
                "elseif true or",
            ),
            (
                "a task that its queue refuses is gone",
                "includes/combined/create_queued",
                "withdraw_task(tag, new.id) == 0",
                "false",
            ),
            (
                "a taken id gets no entry",
                "includes/combined/create_queued",
                "if created[1] ~= 'created' then",
                "if false then",
            ),
            (
                "a repeated create reports its slot",
                "includes/combined/create_queued",
                "if created.replay and enqueued.held",
                "if false",
            ),
            (
                "first come, first served within a millisecond",
                "includes/queue/wait",
                "since = math.max(queue_now * RANKS_PER_MS, (queue.q or 0) + 1)",
                "since = queue_now * RANKS_PER_MS",
            ),
            (
                "a repeated create gives its task no second entry",
                "includes/combined/create_queued",
                "arg.just_created = not created.replay",
                "arg.just_created = true",
            ),
            (
                "a lost limit lets nothing through",
                "includes/queue/state",
                "{ l = 0, v = 0, i = 0 }",
                "{ l = 0, v = 0 }",
            ),
            (
                "an error of one step is not the others'",
                "includes/combined/each_step",
                "pcall(step, unpack(ARGV, first, first + count - 1))",
                "true, step(unpack(ARGV, first, first + count - 1))",
            ),
            (
                "a new owner changes the others' positions",
                "includes/queue/wait",
                "    known.virtual_times, known.only_owner = nil, nil\n    queue.w",
                "    queue.w",
            ),
        )
    ),
    Mutation(
        "durability: what an unacknowledged step granted is dispatched",
        "shared/store/queue_effects.py",
        "            self._after_unacknowledged(outcome)\n",
        "",
        (f"{UNACKNOWLEDGED_TESTS}::test_after_an_unacknowledged_completion_the_next_task_is_dispatched",),
    ),
    Mutation(
        "durability: what an unacknowledged setting granted is dispatched",
        "cache_manager/queue_api.py",
        "        services.dispatcher.dispatch_granted(error.granted)\n",
        "",
        (f"{UNACKNOWLEDGED_TESTS}::test_what_an_unacknowledged_setting_of_a_queue_grants_is_dispatched",),
    ),
    Mutation(
        "durability: a batch goes on after an unacknowledged step",
        "shared/store/batch_steps.py",
        "            self.after_unacknowledged(outcome)\n",
        "",
        (f"{UNACKNOWLEDGED_TESTS}::test_after_an_unacknowledged_cancel_of_a_batch_its_children_are_cancelled",),
    ),
    Mutation(
        "durability: a write that has not arrived is not acknowledged",
        PIPELINING,
        "                if not has_arrived:",
        "                if False:",
        (f"{DURABILITY_TESTS}::test_without_a_replica_nothing_is_acknowledged_and_the_task_is_kept",),
    ),
    Mutation(
        "durability: a repetition asks for the first time's write",
        DURABILITY,
        'return (b"SET", tag + b"asked", b""), tuple',
        'return (b"GET", tag + b"asked"), tuple',
        (f"{DURABILITY_TESTS}::test_a_repetition_is_acknowledged_as_little_as_the_first_time",),
    ),
    Mutation(
        "durability: a question whose write was refused says nothing",
        DURABILITY,
        " or isinstance(answers[0], Exception)",
        "",
        (f"{DURABILITY_TESTS}::test_without_its_write_the_question_says_nothing",),
    ),
    Mutation(
        "durability: a store that closes acknowledges nothing",
        PIPELINING,
        "len(replies))], arrivals)\n            raise",
        'len(replies))], [b"OK", 1])\n            raise',
        (f"{DURABILITY_TESTS}::test_a_store_that_closes_meanwhile_acknowledges_nothing",),
    ),
    Mutation(
        "durability: every node is asked",
        "shared/store/redis/client.py",
        "            await _check_nodes(cluster, durability)\n",
        "",
        (f"{DURABILITY_TESTS}::test_every_node_of_a_cluster_is_asked",),
    ),
    Mutation(
        "durability: a node that is away keeps nobody from the others",
        "shared/store/redis/client.py",
        " or not isinstance(error, (RedisError, OSError, type(None)))",
        " or error is not None",
        (f"{DURABILITY_TESTS}::test_every_node_of_a_cluster_is_asked",),
    ),
    Mutation(
        "durability: a file that is never synced is refused",
        DURABILITY,
        'if "no" in policies or b"no" in policies:',
        "if False:",
        (f"{DURABILITY_TESTS}::test_a_server_that_never_syncs_its_file_is_refused_in_words",),
    ),
    Mutation(
        "durability: a replica is not taken for unable",
        DURABILITY,
        '        if "replica" in str(error):',
        "        if False:",
        (f"{DURABILITY_TESTS}::test_a_replica_is_no_server_that_cannot_do_it",),
    ),
    Mutation(
        "durability: the log says why",
        DURABILITY,
        "        if now_s >= self._told_s + _TOLD_EVERY_S:",
        "        if False:",
        (f"{DURABILITY_TESTS}::test_a_file_that_is_turned_off_meanwhile_is_named_in_the_log",),
    ),
    Mutation(
        "durability: a task that is created apart without acknowledgement keeps its slot",
        "shared/store/creations_apart.py",
        "        if isinstance(created, NotAcknowledged):",
        "        if False:",
        (f"{DURABILITY_TESTS}::test_a_task_that_was_created_apart_from_its_queue_keeps_its_slot_too",),
    ),
    Mutation(
        "durability: what a full queue refuses is not kept",
        "shared/store/creations_apart.py",
        "                await self._withdraw_unacknowledged(new)\n",
        "",
        (f"{DURABILITY_TESTS}::test_a_full_queue_keeps_no_task_that_was_created_without_acknowledgement",),
    ),
    Mutation(
        "durability: an upload that nobody comes for again is given back",
        "shared/store/uploads.py",
        "            if error.reply and not comes_again:",
        "            if False:",
        (f"{DURABILITY_TESTS}::test_an_upload_for_which_nobody_comes_again_is_given_back",),
    ),
    Mutation(
        "durability: the secret of keys arrives first",
        "shared/store/keyed_ids.py",
        '            await self._link.script("keyed/confirm", _TAG)\n',
        "            pass\n",
        (f"{DURABILITY_TESTS}::test_the_secret_of_keys_is_acknowledged_before_an_id_hangs_on_it",),
    ),
    Mutation(
        "durability: a new script is one or the other",
        DURABILITY,
        '"task/release", "task/withdraw"',
        '"task/release"',
        (f"{DURABILITY_TESTS}::test_each_script_is_known_to_be_heard_of_as_stored_or_not",),
    ),
    Mutation(
        "pipelining: full batches are answered one by one",
        PIPELINING,
        "takes_turns = len(commands) > BATCH_COMMANDS // 2",
        "takes_turns = False",
        PIPELINING_TESTS,
    ),
    Mutation(
        "pipelining: one brings the script for all",
        PIPELINING,
        "self._pipelines.start(self._bring_script(commands), commands)",
        "[self._pipelines.start_single(command) for command in commands]",
        PIPELINING_TESTS,
    ),
    Mutation(
        "pipelining: closing answers all that wait", PIPELINING, "if task.cancelled():", "if False:", PIPELINING_TESTS
    ),
    Mutation(
        "pipelining: a bug surfaces as a bug",
        PIPELINING,
        "except (RedisError, OSError, TimeoutError) as error:",
        "except Exception as error:",
        PIPELINING_TESTS,
    ),
    Mutation(
        "pipelining: each command gets its own reply",
        PIPELINING,
        "reply if part[0].prefix.is_combined else (reply,)",
        "(reply,) * len(part)",
        COMBINED_TESTS,
    ),
    Mutation(
        "pipelining: what was lent goes back",
        PIPELINING,
        "await self._loans.pop().give_back()",
        "self._loans.pop()",
        (f"{PIPELINING_TESTS[0]}::test_all_connections_are_given_back_when_all_is_answered",),
    ),
    Mutation(
        "loan: batches one after the other share a connection",
        LOAN,
        "or not await _is_good(self._connection)",
        "or await _is_good(self._connection)",
        (f"{LOAN_TESTS[0]}::test_batches_one_after_the_other_share_a_connection",),
    ),
    Mutation(
        "loan: an answer that nobody has read is nobody else's",
        LOAN,
        "and not await connection.can_read()",
        "",
        LOAN_TESTS,
    ),
    Mutation(
        "loan: a connection that is not good is not lent again",
        LOAN,
        "await connection.disconnect(nowait=True)",
        "pass",
        LOAN_TESTS,
    ),
    Mutation(
        "loan: a server that is no longer the primary is left",
        LOAN,
        "and not connection.should_reconnect()",
        "",
        LOAN_TESTS,
    ),
    Mutation("loan: a long idle connection is tried", LOAN, "await connection.check_health()", "pass", LOAN_TESTS),
    Mutation(
        "loan: a kept connection that was long idle is not used",
        LOAN,
        "and asyncio.get_running_loop().time() < connection.next_health_check",
        "",
        LOAN_TESTS,
    ),
    Mutation(
        "index: a task that waits anew leaves with all entries",
        f"{TASK_INCLUDES}/index.lua",
        "redis.call('ZREM', task_key('z:' .. path .. ':since'), id)",
        "",
    ),
    Mutation(
        "queue: only a fresh task is withdrawn",
        f"{TASK_INCLUDES}/withdraw_task.lua",
        "if rec.s ~= 'created' or rec.v > 1 or rec.W then return 0 end",
        "",
        ("tests/shared/store/test_sweep.py",),
    ),
    Mutation(
        "queue: a check counts a publish once",
        f"{TASK}/check_slots.lua",
        "local replay = rec and rec.k == arg.op",
        "local replay = false",
        ("tests/shared/store/test_replays.py",),
    ),
    Mutation(
        "outage: it costs no attempt",
        f"{LUA}/queue/away.lua",
        "if arg.sent and arg.since and (queue.A or 0) > arg.since then",
        "if true then",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: a task that ends its backend is to blame",
        f"{LUA}/queue/away.lua",
        "if arg.sent and arg.since and (queue.A or 0) > arg.since then",
        "if false then",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: what was not sent is not to blame",
        f"{LUA}/queue/away.lua",
        "if arg.sent and arg.since",
        "if arg.since",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: each probe is another task",
        f"{LUA}/includes/queue/grant_slots.lua",
        "if queue.O and queue.P then",
        "if false then",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: one probe at a time",
        f"{LUA}/includes/queue/grant_slots.lua",
        "queue.o and 2 * queue_arg.claim or",
        "false or",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: tasks lost with the backend are excused",
        f"{TASK}/sweep.lua",
        "local is_excused = not ran_s and (arg.outages[rec.p] or 0) > rec.m and not rec.U",
        "local is_excused = false",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: they are excused if it is found later",
        f"{TASK}/apply.lua",
        "if arg.away and rec.S and not rec.U then",
        "if false then",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: they are excused once",
        f"{TASK}/sweep.lua",
        "(arg.outages[rec.p] or 0) > rec.m and not rec.U",
        "(arg.outages[rec.p] or 0) > rec.m",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: one that is too long ends a task",
        "shared/store/away_dispatches.py",
        "if limit_s is not None:",
        "if False:",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: and those that wait",
        f"{TASK}/sweep.lua",
        "if given_up and (rec.q or rec.c) + given_up[1] <= now then",
        "if false then",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: a path that was never known is a mistake",
        f"{LUA}/queue/away.lua",
        "if arg.elsewhere and not queue.C then",
        "if false then",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: a known path is no mistake",
        f"{LUA}/queue/away.lua",
        "if arg.elsewhere and not queue.C then",
        "if arg.elsewhere then",
        OUTAGE_TESTS,
    ),
    Mutation(
        "outage: a call that was repeated in vain was sent",
        "shared/dispatch/backend_client.py",
        "raise stale from None",
        "raise",
        ("tests/shared/dispatch/test_used_connections.py",),
    ),
    Mutation(
        "outage: an attempt that is reported keeps its slot",
        "shared/store/store.py",
        "                    await self._effects.hold_again(outcome.task)\n",
        "                    pass\n",
        OUTAGE_TESTS,
    ),
    Mutation(
        "rounds: one process at a time has them",
        f"{LUA}/reconciler/begin_round.lua",
        "local is_free = left_ms <= 0",
        "local is_free = true or left_ms <= 0",
        ROUND_TESTS,
    ),
    Mutation(
        "rounds: another process takes over",
        f"{LUA}/reconciler/begin_round.lua",
        "local is_free = left_ms <= 0 or left_ms > arg.ms or",
        "local is_free = not process or",
        ROUND_TESTS,
    ),
    Mutation(
        "rounds: a clock that went back stops none",
        f"{LUA}/reconciler/begin_round.lua",
        " or left_ms > arg.ms",
        "",
        ROUND_TESTS,
    ),
    Mutation(
        "rounds: they go on without the node that knows whose they are",
        "shared/store/rounds.py",
        "            return True\n",
        "            return False\n",
        ROUND_TESTS,
    ),
    Mutation(
        "rounds: one that fails is not the last",
        "cache_manager/reconciler.py",
        '            log.exception("A round of the reconciler failed, and the next one will begin")\n',
        "            raise\n",
        ROUND_TESTS,
    ),
    Mutation(
        "rounds: a Blob Storage that hangs holds up none",
        "cache_manager/reconciler.py",
        "await asyncio.wait((removal,), timeout=REMOVAL_PATIENCE_S)",
        "await removal",
        ROUND_TESTS,
    ),
    Mutation(
        "rounds: they are no part of the trace that began them",
        "shared/services.py",
        "asyncio.create_task(run(), context=Context())",
        "asyncio.create_task(run())",
        ROUND_TESTS,
    ),
    Mutation(
        "rounds: closing the services ends them",
        "shared/services.py",
        "        for task in beside:\n            task.cancel()\n",
        "        beside.clear()\n",
        ROUND_TESTS,
    ),
    Mutation(
        "events: what stays unclaimed is dispatched",
        "shared/dispatch/dispatcher.py",
        "        self._dispatch_here(tasks)\n",
        "",
        EVENT_TESTS,
    ),
    Mutation(
        "events: new work goes without them while they stay unclaimed",
        "shared/dispatch/dispatcher.py",
        "            if not is_published:\n",
        "            if False:\n",
        EVENT_TESTS,
    ),
    Mutation(
        "events: one in ten is published all the same",
        "shared/dispatch/dispatcher.py",
        "is_published = self._begun % TASKS_PER_EVENT == 0",
        "is_published = False",
        EVENT_TESTS,
    ),
    Mutation(
        "events: a claim ends the time without them",
        "shared/dispatch/dispatcher.py",
        "                await self._store.rounds.note_events(are_claimed=True)\n",
        "                pass\n",
        EVENT_TESTS,
    ),
    Mutation(
        "events: a refused one leaves no task behind",
        "shared/dispatch/dispatcher.py",
        "            self._dispatch_here([task])\n\n    async def begin_again",
        "\n    async def begin_again",
        EVENT_TESTS,
    ),
    Mutation(
        "events: a task that was granted its slot otherwise says nothing of them",
        f"{LUA}/includes/queue/grant_slots.lua",
        "hold_slot(queue, entry, entry == published, is_charged)",
        "hold_slot(queue, entry, true, is_charged)",
        EVENT_TESTS,
    ),
    Mutation(
        "events: while they stay unclaimed, none is waited for as long",
        "shared/store/queues.py",
        "events_are_claimed=self._rounds.events_are_claimed",
        "events_are_claimed=True",
        EVENT_TESTS,
    ),
    Mutation(
        "events: what was only granted raises no estimate",
        f"{LUA}/includes/queue/raise_estimate.lua",
        "    had = had - unclaimed\n",
        "",
        EVENT_TESTS,
    ),
    Mutation(
        "events: what was accepted counts",
        f"{LUA}/includes/queue/accept_entry.lua",
        "if awaits_claim(held) then",
        "if false then",
        EVENT_TESTS,
    ),
    Mutation(
        "events: a refusal leaves out what was only granted",
        f"{LUA}/queue/refused.lua",
        "queue.h - count_unclaimed()",
        "queue.h",
        EVENT_TESTS,
    ),
    Mutation(
        "batch: a child is counted once",
        f"{BATCH}/report.lua",
        "number <= sequence and not (known == OPEN and number == sequence)",
        "number < sequence",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: an earlier attempt is old news",
        f"{BATCH}/report.lua",
        "number <= sequence and not (known == OPEN and number == sequence)",
        "number == sequence and not (known == OPEN)",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: what has ended does not change any more",
        f"{BATCH}/report.lua",
        "local is_closed = is_terminal(rec.s) or batch.d",
        "local is_closed = batch.d",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: what the Then task was told does not change any more",
        f"{BATCH}/report.lua",
        "local is_closed = is_terminal(rec.s) or batch.d",
        "local is_closed = is_terminal(rec.s)",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: a child that may still come is not dropped",
        f"{BATCH}/report.lua",
        "local is_old = place <= batch.M and now >= batch.Q + upkeep(arg).grace",
        "local is_old = place <= batch.M",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: a child that was registered after the look is not dropped",
        f"{BATCH}/report.lua",
        "local is_old = place <= batch.M and",
        "local is_old =",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: an earlier registration drops nothing",
        f"{BATCH}/report.lua",
        "if not is_awaited or sequence ~= number or not",
        "if not is_awaited or not",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: a new registration counts anew",
        f"{LUA}/includes/batch/registration.lua",
        "      batch.M = math.min(batch.M, place - 1)\n",
        "",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: a sealed one takes no more children",
        f"{LUA}/includes/batch/registration.lua",
        " or batch.S and not is_awaited",
        "",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: an ended one takes no more children",
        f"{LUA}/includes/batch/registration.lua",
        "if is_terminal(rec.s) or batch.S",
        "if batch.S",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: another owner's is unknown",
        f"{LUA}/includes/batch/registration.lua",
        "if not rec or owner ~= (rec.o or '') then",
        "if not rec then",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: a repeated create registers its child once",
        f"{LUA}/combined/create_child.lua",
        " and not reply[1].replay",
        "",
        CHILD_CREATION_TESTS,
    ),
    Mutation(
        "batch: a child that its queue refuses is not registered",
        f"{LUA}/combined/create_child.lua",
        " and reply[2][1] == 'enqueued'",
        "",
        CHILD_CREATION_TESTS,
    ),
    Mutation(
        "batch: a create is repeated although the batch is sealed",
        f"{LUA}/combined/create_child.lua",
        "if refusal and redis.call('EXISTS', task_key('t:' .. arg.child)) == 0 then",
        "if refusal then",
        CHILD_CREATION_TESTS,
    ),
    Mutation(
        "batch: children that come together are all registered",
        f"{LUA}/combined/create_child.lua",
        "batches[arg.id] or load_batch(arg.id)",
        "load_batch(arg.id)",
        CHILD_CREATION_TESTS,
    ),
    Mutation(
        "endpoints: a backend has no more than it may",
        f"{LUA}/backend/admit.lua",
        " and redis.call('ZCARD', key) >= arg.most",
        " and false",
        ENDPOINT_TESTS,
    ),
    Mutation(
        "endpoints: one that is asked for makes no room",
        f"{LUA}/backend/endpoints.lua",
        "if asked and tonumber(asked) <= before then",
        "if asked then",
        ENDPOINT_TESTS,
    ),
    Mutation(
        "paths: one whose tasks have ended costs no timer anything",
        f"{LUA}/task/open_paths.lua",
        "    redis.call('SREM', paths, path)\n",
        "",
        ENDPOINT_TESTS,
    ),
    Mutation(
        "paths: a task that begins again brings its path back",
        f"{LUA}/includes/task/move_record.lua",
        " or is_terminal(old_state) and not rec.G",
        "",
        ENDPOINT_TESTS,
    ),
    Mutation(
        "paths: what an earlier version did not note is found",
        f"{LUA}/task/open_paths.lua",
        "    redis.call('SADD', paths, path)\n",
        "",
        ENDPOINT_TESTS,
    ),
    Mutation(
        "batch: another owner's is not sealed, cancelled or replayed",
        f"{LUA}/includes/batch/load_batch.lua",
        " and (not owner or owner == (rec.o or ''))",
        "",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: a removed one is unknown",
        f"{LUA}/includes/batch/load_batch.lua",
        " and not rec.Z",
        "",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: a child is not created after its registration",
        f"{TASK_INCLUDES}/create_task.lua",
        "if arg['until'] and now > arg['until'] and",
        "if false and",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: the end of a child is kept until the batch knows it",
        f"{TASK_INCLUDES}/begin_retention.lua",
        "if rec.B then",
        "if false then",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: the replay of a child is kept until the batch knows it",
        f"{TASK}/apply.lua",
        "  if rec.B then\n    local begun",
        "  if false then\n    local begun",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: what it does not know is reported again",
        f"{TASK}/sweep.lua",
        "  done[#done + 1] = { 'end', report }\n",
        "",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: an unsealed one does not end",
        SETTLE,
        "if batch.S and not batch.J and",
        "if not batch.J and",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: one that is being replayed does not end",
        SETTLE,
        "if batch.S and not batch.J and",
        "if batch.S and",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: it waits for its Then task",
        SETTLE,
        "if not batch.T or batch.h then",
        "if true then",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: it has one Then task at a time",
        SETTLE,
        "elseif not batch.d then",
        "else",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: one whose Then task fails has failed",
        SETTLE,
        " and (not batch.T or batch.h == 'completed')",
        "",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: its cancel goes on until all children have ended",
        f"{BATCH}/rest.lua",
        "if batch.J == 'cancel' and is_settled and",
        "if batch.J == 'cancel' and",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: its cancel goes on until no Then task can begin",
        f"{BATCH}/rest.lua",
        "(arg.is_cancelled or now >= rec.m + upkeep(arg).grace)",
        "true",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: a Then task that begins after the cancel is cancelled",
        BATCHES,
        "if outcome.task is not None and outcome.task.state is State.CANCELLED:",
        "if False:",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: only one that has failed is replayed",
        f"{BATCH}/replay.lua",
        "if rec.s ~= 'failed' or",
        "if",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: a child is replayed once",
        BATCHES,
        "self._store.replay(child.id, attempt=child.number, by=by)",
        "self._store.replay(child.id)",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: it is sealed when nothing happens",
        f"{BATCH}/rest.lua",
        "local is_sealed = not batch.S and now >= rec.m + upkeep(arg).idle",
        "local is_sealed = false",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: it is not sealed while something happens",
        f"{BATCH}/rest.lua",
        "local is_sealed = not batch.S and now >= rec.m + upkeep(arg).idle",
        "local is_sealed = not batch.S",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: a child is kept as long as its batch",
        f"{TASK}/sweep.lua",
        "elseif rec.B and not rec.Z then",
        "elseif false then",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: it is kept for its retention",
        f"{TASK}/sweep.lua",
        "rec.Z or rec.G.J or now >= rec.m + arg.retention",
        "true",
        BATCH_TESTS,
    ),
    Mutation(
        "batch: no model service changes it",
        f"{TASK}/apply.lua",
        "if rec.G then return { 'batch', raw } end",
        "",
        ("tests/contract/test_v1_batches.py",),
    ),
    Mutation(
        "batch: the publishing of its completion does not end its cancel",
        f"{TASK}/completions_published.lua",
        "if not (rec.G and rec.G.J) then",
        "if true then",
        BATCH_TESTS,
    ),
    Mutation(
        "removal: only what has ended",
        f"{TASK}/erase.lua",
        "if not is_terminal(rec.s) or rec.G and rec.G.J then",
        "if rec.G and rec.G.J then",
        BATCH_TESTS,
    ),
    Mutation(
        "removal: no batch whose children are being cancelled",
        f"{TASK}/erase.lua",
        "if not is_terminal(rec.s) or rec.G and rec.G.J then",
        "if not is_terminal(rec.s) then",
        BATCH_TESTS,
    ),
    Mutation(
        "removal: no other owner's",
        f"{TASK}/erase.lua",
        " or arg.owner and arg.owner ~= rec.o",
        "",
        BATCH_TESTS,
    ),
    Mutation(
        "removal: a batch removes its own children only",
        f"{TASK}/erase.lua",
        " or arg.batch and arg.batch ~= rec.B",
        "",
        BATCH_TESTS,
    ),
    Mutation(
        "removal: no child before its batch knows its end",
        f"{TASK}/erase.lua",
        "then return { 'unreported' } end",
        "then end",
        BATCH_TESTS,
    ),
    Mutation(
        "removal: what is left shows nothing",
        f"{TASK}/apply.lua",
        "if not rec or rec.Z or",
        "if not rec or",
        BATCH_TESTS,
    ),
    Mutation(
        "removal: the id is free only when the blobs are gone",
        "shared/store/replies.py",
        "if task.is_removed:",
        "if False:",
        BATCH_TESTS,
    ),
    *(
        Mutation(f"upload: {name}", f"{LUA}/{file}.lua", guard, broken, UPLOAD_STORE_TESTS)
        for name, file, guard, broken in (
            ("one taker has it", "upload/take", "if upload.T and upload.T ~= arg.taker then", "if false then"),
            ("with its first snapshot", "upload/take", "if not upload.T then upload.T", "if true then upload.T"),
            (
                "nobody takes it without a snapshot",
                "upload/take",
                "if not upload.T and arg.snapshot == '' then return raw end\n",
                "",
            ),
            ("the last taker gives it back", "upload/give_back", "if upload.k == arg.op then", "if true then"),
            ("it ends", "includes/upload/upload", "return upload.T or now < upload.e", "return true"),
            ("its taker may repeat itself", "includes/upload/upload", "return upload.T or now", "return now"),
            (
                "its deadline finds it until it is forgotten",
                "task/sweep",
                "      set_due(id, now + arg.blob_grace)\n      done[#done + 1] = { 'upload'",
                "      done[#done + 1] = { 'upload'",
            ),
        )
    ),
    Mutation(
        "upload: what was declared is checked",
        "cache_manager/uploads.py",
        "if not wrong:",
        "if True:",
        (f"{UPLOAD_WIRE_TESTS[0]}::test_what_was_written_must_be_what_was_declared",),
    ),
    Mutation(
        "upload: it is its owner's",
        "cache_manager/uploads.py",
        "or upload.owner != self._owner",
        "",
        (f"{UPLOAD_TESTS[0]}::test_an_upload_and_a_body_are_their_owners",),
    ),
    Mutation(
        "upload: it is for one purpose",
        "cache_manager/uploads.py",
        "if upload.purpose == purpose else",
        "if True else",
        (f"{UPLOAD_WIRE_TESTS[0]}::test_an_upload_is_for_the_result_of_one_attempt",),
    ),
    Mutation(
        "upload: a refused task leaves it",
        "cache_manager/uploads.py",
        "if not is_kept and await",
        "if False and await",
        (f"{UPLOAD_WIRE_TESTS[0]}::test_a_queue_that_refuses_the_task_leaves_the_upload_as_it_was",),
    ),
    Mutation(
        "upload: a known key needs no bytes",
        "cache_manager/uploads.py",
        "if new.fingerprint and (known",
        "if '' and (known",
        (f"{UPLOAD_WIRE_TESTS[0]}::test_the_fingerprint_is_what_was_declared_and_not_the_upload",),
    ),
    Mutation(
        "upload: no backend gets more than it takes",
        "cache_manager/uploads.py",
        "if not endpoint.backend.takes_reference:",
        "if False:",
        (f"{UPLOAD_WIRE_TESTS[0]}::test_no_backend_gets_more_than_it_takes",),
    ),
    Mutation(
        "upload: a later step gets no more either",
        "shared/dispatch/backend_calls.py",
        "                raise TooLarge\n",
        "",
        (f"{UPLOAD_TESTS[0]}::test_a_result_that_is_too_large_for_the_next_backend_fails_the_task",),
    ),
    Mutation(
        "upload: only the snapshot is read",
        "shared/blobs.py",
        "snapshot=snapshot) if snapshot else",
        "snapshot=None) if snapshot else",
        (f"{UPLOAD_WIRE_TESTS[0]}::test_what_is_written_after_handing_in_changes_nothing",),
    ),
    Mutation(
        "upload: only the snapshot is signed for",
        "shared/signed_urls.py",
        "blob_client(name, snapshot=snapshot)",
        "blob_client(name)",
        (f"{UPLOAD_WIRE_TESTS[0]}::test_what_is_written_after_handing_in_changes_nothing",),
    ),
    Mutation(
        "upload: a body is there when its reference goes out",
        "shared/bodies.py",
        "size_bytes = (await client_of(container, blob).get_blob_properties()).size",
        "size_bytes = content.size_bytes",
        (f"{UPLOAD_TESTS[0]}::test_a_body_that_is_gone_is_noticed_before_its_reference_goes_out",),
    ),
    Mutation(
        "upload: a reference takes no room",
        "shared/dispatch/backend_calls.py",
        "and self._bodies.why_no_sas is None):\n            return 0",
        "and False):\n            return 0",
        (f"{UPLOAD_TESTS[0]}::test_bodies_that_go_by_reference_take_no_room",),
    ),
    Mutation(
        "upload: what a task has is kept",
        "cache_manager/reconciler.py",
        "if task is None or not task.names(upload.snapshot):",
        "if True:",
        (f"{UPLOAD_TESTS[0]}::test_an_upload_that_a_task_has_goes_with_the_task",),
    ),
    Mutation(
        "upload: what no task has is deleted",
        "cache_manager/reconciler.py",
        "if task is None or not task.names(upload.snapshot):",
        "if not upload.task_id:",
        (f"{UPLOAD_TESTS[0]}::test_what_is_written_after_the_task_is_gone_is_deleted_too",),
    ),
    Mutation(
        "upload: a purge knows its blob",
        f"{TASK}/erase.lua",
        "b = rec.b and rec.b[3] and rec.b or nil, r",
        "r",
        (f"{UPLOAD_TESTS[0]}::test_what_is_written_after_the_task_is_gone_is_deleted_too",),
    ),
    Mutation(
        "upload: a lease keeps no blob",
        "shared/blobs.py",
        '!= "LeaseIdMissing"',
        '!= ""',
        (f"{UPLOAD_TESTS[0]}::test_a_lease_that_its_writer_has_taken_keeps_no_blob",),
    ),
    Mutation(
        "upload: a large one never passes through",
        "cache_manager/stored_response.py",
        "is_too_large = content.is_upload and",
        "is_too_large = False and",
        (f"{UPLOAD_TESTS[0]}::test_what_is_too_large_for_the_app_is_answered_by_a_link_or_in_parts",),
    ),
    Mutation(
        "upload: a delegated key is renewed in time",
        "shared/signed_urls.py",
        "if known is None or age_s > _FRESH_S:",
        "if known is None:",
        SIGNING_TESTS,
    ),
    Mutation(
        "upload: no URL outlives its key",
        "shared/signed_urls.py",
        "expires_s = min(expires_s, self._delegated_s + _DELEGATED_S)",
        "pass",
        SIGNING_TESTS,
    ),
    Mutation(
        "host: a lease that cannot be renewed ends it",
        "local/functions_host/leases.py",
        "                        self._end_host()\n",
        "                        pass\n",
        LEASE_TESTS,
    ),
    Mutation(
        "json: a bound of values",
        BOUNDED_JSON,
        "if self._values > self._most_values:",
        "if False:",
        (f"{JSON_TESTS}::test_too_many_values_and_levels_are_refused_in_small_bodies_too",),
    ),
    Mutation(
        "json: a bound of levels",
        BOUNDED_JSON,
        "if depth >= MAX_DEPTH:",
        "if False:",
        (f"{JSON_TESTS}::test_too_many_values_and_levels_are_refused_in_small_bodies_too",),
    ),
    Mutation(
        "json: a bound of levels in small bodies too",
        BOUNDED_JSON,
        '<= _AT_ONCE_BYTES and body.count(b"[") + body.count(b"{") <= MAX_DEPTH:',
        "<= _AT_ONCE_BYTES:",
        (f"{JSON_TESTS}::test_too_many_values_and_levels_are_refused_in_small_bodies_too",),
    ),
    Mutation(
        "json: others have their turns",
        BOUNDED_JSON,
        "if self._values >= self._turn_values:",
        "if not self._values % _TURN_VALUES:",  # which an object of numbers passes by
        (f"{JSON_TESTS}::test_others_have_their_turns_while_a_body_is_read",),
    ),
    Mutation(
        "json: long texts are not texts first",
        BOUNDED_JSON,
        "if len(text) > _TEXT_BYTES or self._texts_bytes + len(text) > _TEXTS_BYTES:",
        "if False:",
        (f"{JSON_TESTS}::test_a_long_text_becomes_utf_8_wherever_its_pieces_end",),
    ),
    Mutation(
        "json: a name stands once",
        BOUNDED_JSON,
        "if len(names) == len(members):",
        "if True:",
        (f"{JSON_TESTS}::test_a_name_that_stands_twice_in_any_case_is_refused",),
    ),
    Mutation(
        "json: what can be small has a small bound",
        "shared/http/legacy_json.py",
        "if cls.most_bytes is not None and len(body) > cls.most_bytes:",
        "if False:",
        (f"{JSON_TESTS}::test_a_body_that_can_be_small_has_a_small_limit",),
    ),
    Mutation(
        "deliveries: one event is not many values",
        BOUNDED_JSON,
        "min(most_values, self._values + MAX_VALUES)",
        "most_values",
        (f"{DELIVERY_TESTS}::test_no_delivery_takes_much_more_than_its_bytes",),
    ),
    Mutation(
        "deliveries: a name stands once",
        "backend_webhook/deliveries.py",
        "if isinstance(value, RepeatingObject):",
        "if False:",
        (f"{DELIVERY_TESTS}::test_a_name_that_stands_twice_in_any_case_makes_the_event_bad",),
    ),
    Mutation(
        "addresses: those behind a translator",
        "shared/dispatch/embedded_addresses.py",
        "if not is_own and any(ip in network for network in _IN_LAST_BYTES):",
        "if False:",
        ADDRESS_TESTS,
    ),
    Mutation(
        "addresses: those behind a network's own translator",
        "shared/dispatch/embedded_addresses.py",
        "if ip in _LOCAL_NAT64:",
        "if False:",
        ADDRESS_TESTS,
    ),
    Mutation(
        "answers: no cache keeps one",
        "shared/http/functions.py",
        'if "Cache-Control" not in headers:',
        "if False:",
        ("tests/contract/test_bodies.py::test_no_cache_keeps_an_answer",),
    ),
    Mutation(
        "health: a Redis that would delete tasks to make room",
        "shared/store/eviction.py",
        'else "ok" if policies <= {_NONE} else "unsafe"',
        'else "ok"',
        ("tests/contract/test_health.py::test_policy_is_asked_once_a_minute",),
    ),
    Mutation(
        "status: a long one is no text",
        "shared/tasks/status_texts.py",
        "if len(status) <= 4 * MAX_STATUS_CHARS and",
        "if",
        ("tests/shared/test_long_status_texts.py",),
    ),
    Mutation(
        "local: no password in the arguments",
        "local/redis_server.py",
        "*_secrets_file(directory, password),",
        '*(("--requirepass", password) if password else ()),',
        ("tests/local/test_redis_server.py::test_nobody_else_sees_the_password",),
    ),
    Mutation(
        "SDK: few interim answers come before one",
        "sdk/src/taskbackbone/_bounds.py",
        "if self._interim > _MOST_INTERIM:\n            raise EndlessAnswer",
        "if False:\n            raise EndlessAnswer",
        ("sdk/tests/test_endless_answers.py::TestCallers::test_a_slow_series_of_interim_answers_is_no_answer",),
    ),
    Mutation(
        "SDK: a 103 is not the answer",
        "sdk/src/taskbackbone/_bounds.py",
        "while 101 < self.status < 200:",
        "while False:",
        ("sdk/tests/test_endless_answers.py::TestCallers::test_interim_answers_come_before_the_answer",),
    ),
    Mutation(
        "SDK: what is around a body has a bound",
        "sdk/src/taskbackbone/_bounds.py",
        "if self._left < 0:",
        "if False:",
        ("sdk/tests/test_endless_answers.py::TestCallers::test_a_flood_is_no_answer",),
    ),
    Mutation(
        "SDK: what is around a body may be a quarter of it",
        "sdk/src/taskbackbone/_bounds.py",
        "self._left += taken + taken // 4",
        "self._left += taken",
        ("sdk/tests/test_endless_answers.py::TestCallers::test_a_large_body_in_small_chunks_is_an_answer",),
    ),
    Mutation(
        "SDK: a head has the time of a call",
        "sdk/src/taskbackbone/_bounds.py",
        "if time.monotonic() > self._end_s:",
        "if False:",
        ("sdk/tests/test_endless_answers.py::TestCallers::test_a_drip_is_silence",),
    ),
    Mutation(
        "SDK: few interim answers come over aiohttp",
        "sdk/src/taskbackbone/_bounds.py",
        "if self._interim > _MOST_INTERIM:\n                    self._cut()",
        "if False:\n                    self._cut()",
        ("sdk/tests/test_endless_answers.py::TestCallers::test_a_slow_series_of_interim_answers_is_no_answer",),
    ),
    Mutation(
        "SDK: what is around a body over aiohttp has a bound",
        "sdk/src/taskbackbone/_bounds.py",
        "if self._came > _MOST_BESIDE + taken + taken // 4:",
        "if False:",
        ("sdk/tests/test_endless_answers.py::TestCallers::test_a_flood_is_no_answer",),
    ),
    Mutation(
        "SDK: an answer through a proxy has its bounds",
        "sdk/src/taskbackbone/_drivers.py",
        "manager.pool_classes_by_scheme = bounded()\n",
        "\n",
        ("sdk/tests/test_endless_answers.py::TestCallers::test_a_proxy_is_bounded_too",),
    ),
    Mutation(
        "SDK: a body in memory has a bound",
        "sdk/src/taskbackbone/_drivers.py",
        "if self._received > self._most:",
        "if False:",
        ("sdk/tests/test_endless_answers.py::TestCallers::test_a_body_without_an_end_is_no_answer",),
    ),
    Mutation(
        "SDK: a content is decompressed in parts",
        "sdk/src/taskbackbone/_payload.py",
        "self._inflate.decompress(chunk, _PART_BYTES)",
        "self._inflate.decompress(chunk)",
        ("sdk/tests/test_endless_answers.py::TestContent::test_a_small_content_becomes_much_in_parts",),
    ),
    Mutation(
        "SDK: a decompressed content has a bound",
        "sdk/src/taskbackbone/_payload.py",
        "if len(plain) > most:",
        "if False:",
        ("sdk/tests/test_endless_answers.py::TestContent::test_there_is_a_most_in_memory",),
    ),
    Mutation(
        "SDK: JSON has a bound",
        "sdk/src/taskbackbone/_core.py",
        "if len(self.body) > _MOST_JSON_BYTES:",
        "if False:",
        ("sdk/tests/test_endless_answers.py::TestContent::test_json_that_is_a_bomb_is_none",),
    ),
    Mutation(
        "SDK: a compressed result in memory has a bound",
        "sdk/src/taskbackbone/client.py",
        "async for part in self:\n                parts.append(part)\n                most -= len(part)",
        "async for part in self:\n                parts.append(part)",
        ("sdk/tests/test_endless_answers.py::TestResults::test_a_bomb_is_not_kept_in_memory",),
    ),
    Mutation(
        "SDK: a result is no longer than was told",
        "sdk/src/taskbackbone/client.py",
        "async for chunk in answer.stream:",
        "self.size = 0\n                async for chunk in answer.stream:",
        ("sdk/tests/test_endless_answers.py::TestResults::test_one_that_does_not_end_is_not_what_was_stored",),
    ),
    Mutation(
        "SDK: a body that comes byte by byte holds no slot",
        "sdk/src/taskbackbone/_server.py",
        "if time.monotonic() - began_s >",
        "if False and time.monotonic() - began_s >",
        ("sdk/tests/test_endless_answers.py::TestBodies::test_one_that_comes_byte_by_byte_does_not_hold_its_slot",),
    ),
    Mutation(
        "SDK: a file has half of the disk",
        "sdk/src/taskbackbone/_server.py",
        "if self.size > self._room:",
        "if False:",
        ("sdk/tests/test_endless_answers.py::TestServersOfModels::test_a_result_gets_half_of_the_disk",),
    ),
    Mutation(
        "SDK: the text of a refusal has a bound",
        "sdk/src/taskbackbone/sidecar.py",
        "if spool.size > _TEXT_BYTES and not",
        "if False and not",
        ("sdk/tests/test_endless_answers.py::TestServersOfModels::test_the_text_of_a_refusal_has_a_beginning_only",),
    ),
    Mutation(
        "local gateway: an issuer's document has a bound",
        "local/gateway/tokens.py",
        "if len(body) > _MOST_BYTES:",
        "if False:",
        ("tests/local/test_gateway.py",),
    ),
    Mutation(
        "drop-in: few interim answers come before one",
        "sdk/ai4e/ai4e_api_tools/task_management/bounded_answers.py",
        "if self._interim > _MOST_INTERIM:",
        "if False:",
        ("sdk/ai4e/tests/test_endless_answers.py::test_a_slow_series_of_interim_answers_is_no_answer",),
    ),
    Mutation(
        "drop-in: a 103 is not the answer",
        "sdk/ai4e/ai4e_api_tools/task_management/bounded_answers.py",
        "while 101 < self.status < 200:",
        "while False and 101 < self.status < 200:",
        ("sdk/ai4e/tests/test_endless_answers.py::test_interim_answers_come_before_the_answer",),
    ),
    Mutation(
        "drop-in: what is around a body has a bound",
        "sdk/ai4e/ai4e_api_tools/task_management/bounded_answers.py",
        "if self._left < 0:",
        "if False:",
        ("sdk/ai4e/tests/test_endless_answers.py::test_a_flood_is_no_answer",),
    ),
    Mutation(
        "drop-in: an answer has the time of a call",
        "sdk/ai4e/ai4e_api_tools/task_management/bounded_answers.py",
        "if time.monotonic() > self._end_s:",
        "if False:",
        ("sdk/ai4e/tests/test_endless_answers.py::test_a_drip_is_no_answer",),
    ),
    Mutation(
        "drop-in: a body has a bound",
        "sdk/ai4e/ai4e_api_tools/task_management/bounded_answers.py",
        "if len(body) > _MOST_BYTES:",
        "if False:",
        ("sdk/ai4e/tests/test_endless_answers.py::test_a_flood_is_no_answer",),
    ),
    Mutation(
        "drop-in: a process has a bound of metrics",
        "sdk/ai4e/ai4e_api_tools/ai4e_telemetry.py",
        "is_refused = is_new and len(self._gauges) >= _MOST_METRICS",
        "is_refused = False",
        ("sdk/ai4e/tests/test_telemetry.py::test_a_process_has_a_bound_of_metrics",),
    ),
    Mutation(
        "schedule: a due time is taken once",
        f"{SCHEDULE}/begin.lua",
        "if rec.g ~= arg.generation or rec.n ~= arg.run.t then return false end",
        "if rec.g ~= arg.generation then return false end",
        SCHEDULE_STORE_TESTS,
    ),
    Mutation(
        "schedule: a due time is of one definition",
        f"{SCHEDULE}/begin.lua",
        "if rec.g ~= arg.generation or rec.n ~= arg.run.t then return false end",
        "if rec.n ~= arg.run.t then return false end",
        SCHEDULE_STORE_TESTS,
    ),
    Mutation(
        "schedule: its task's id follows from the time",
        "cache_manager/schedule_runs.py",
        "unguessable_id_of(schedule.name.owner, scope, str(due_ms))",
        "unguessable_id_of(schedule.name.owner, scope, str(object()))",
        SCHEDULE_TESTS,
    ),
    Mutation(
        "schedule: what is due is not lost by a new definition",
        f"{SCHEDULE}/put.lua",
        "elseif not (rec.n and rec.n <= now and former.cron == new.cron and former.zone == new.zone) then",
        "else",
        SCHEDULE_STORE_TESTS,
    ),
    Mutation(
        "schedule: an owner has so many and no more",
        f"{SCHEDULE}/put.lua",
        "'(' .. arg.owner .. '!') >= arg.most then",
        "'(' .. arg.owner .. '!') > arg.most then",
        SCHEDULE_STORE_TESTS,
    ),
    Mutation(
        "schedule: a task that is there is told of",
        f"{SCHEDULE}/settle.lua",
        "  if run then run.o, run.y = 'started', nil end",
        "  if run and pending then run.o, run.y = 'started', nil end",
        SCHEDULE_STORE_TESTS,
    ),
    Mutation(
        "schedule: the last task is the latest",
        f"{LUA}/includes/schedule/schedule.lua",
        "if not rec.l or rec.l[1] <= at then",
        "if true then",
        SCHEDULE_STORE_TESTS,
    ),
    Mutation(
        "schedule: it is told again until it was seen to",
        f"{LUA}/includes/schedule/take_due.lua",
        "redis.call('ZADD', key, time_text(now + grace), name)",
        "redis.call('ZREM', key, name)",
        SCHEDULE_STORE_TESTS,
    ),
    Mutation(
        "schedule: a round tells when one is due",
        "shared/store/store.py",
        "self._upkeep.learned_of_schedules = self.schedules.due.learn",
        "pass",
        SCHEDULE_STORE_TESTS,
    ),
    Mutation(
        "schedule: who sees to one learns when it is due next",
        "cache_manager/schedule_runs.py",
        "services.store.schedules.due.seen_to(names)",
        "pass",
        SCHEDULE_TESTS,
    ),
    Mutation(
        "schedule: what waits for room is not lost",
        "cache_manager/schedule_runs.py",
        "if not is_due or schedule.definition.catch_up is CatchUp.ALL:",
        "if not is_due:",
        SCHEDULE_HELD_UP_TESTS,
    ),
    Mutation(
        "schedule: what waits for room asks for it with pauses",
        f"{LUA}/includes/schedule/schedule.lua",
        "if rec.p and (is_first or rec.p.at < (at or math.huge)) then at = rec.p.at end",
        "if rec.p and rec.p.at < (at or math.huge) then at = rec.p.at end",
        SCHEDULE_HELD_UP_TESTS,
    ),
    Mutation(
        "schedule: a hundred wait for room at most",
        "cache_manager/schedule_runs.py",
        "return len(behind) == MOST_CAUGHT_UP and await",
        "return len(behind) > MOST_CAUGHT_UP and await",
        SCHEDULE_HELD_UP_TESTS,
    ),
    Mutation(
        "schedule: a run is tried for a day from when it was first",
        "cache_manager/schedule_runs.py",
        "looked.now_ms > pending.since_ms + GIVE_UP_S * 1000",
        "looked.now_ms > pending.due_ms + GIVE_UP_S * 1000",
        SCHEDULE_HELD_UP_TESTS,
    ),
    Mutation(
        "schedule: a change asks for no room",
        "cache_manager/schedule_service.py",
        "if schedule is None or schedule.is_held_up or looked",
        "if schedule is None or looked",
        SCHEDULE_HELD_UP_TESTS,
    ),
    Mutation(
        "schedule: what is after its end takes no run from before",
        "shared/tasks/schedules.py",
        "return moment_ms if self.until_ms is None else min(self.until_ms, moment_ms)",
        "return moment_ms",
        SCHEDULE_TESTS,
    ),
    Mutation(
        "schedule: a clock that is set back makes nothing due anew",
        "shared/tasks/schedules.py",
        "return max([moment_ms, *(run.due_ms for run in self.runs if not run.is_asked)])",
        "return moment_ms",
        SCHEDULE_TESTS,
    ),
    Mutation(
        "schedule: a pause waits for what is due",
        "cache_manager/schedule_service.py",
        "for _ in range(MOST_CAUGHT_UP):",
        "for _ in range(1):",
        SCHEDULE_TESTS,
    ),
    Mutation(
        "schedule: one that is paused is due at no time when it is put",
        f"{SCHEDULE}/put.lua",
        "if rec.P then\n",
        "if false then\n",
        SCHEDULE_STORE_TESTS,
    ),
    Mutation(
        "schedule: its tasks have the body that was put last",
        f"{SCHEDULE}/put.lua",
        "redis.call('SET', task_key('schedule_body:' .. arg.name), ARGV[2])",
        "redis.call('SET', task_key('schedule_body:' .. arg.name), ARGV[2], 'NX')",
        SCHEDULE_STORE_TESTS,
    ),
    Mutation(
        "schedule: the last task is cancelled for the next",
        "cache_manager/schedule_runs.py",
        "await service.cancel(schedule.last.task_id)",
        "assert service",
        SCHEDULE_TESTS,
    ),
    Mutation(
        "schedule: its tasks have its bounds",
        "cache_manager/schedule_runs.py",
        "                max_run_ms=definition.max_run_ms,\n",
        "",
        SCHEDULE_TESTS,
    ),
    Mutation(
        "schedule: its former body is deleted",
        f"{SCHEDULE}/put.lua",
        "if blob and blob ~= new.body[3] then discard_blob(blob, now) end",
        "",
        SCHEDULE_TESTS,
    ),
    Mutation(
        "schedule: its body is kept",
        f"{SCHEDULE}/put.lua",
        "  redis.call('ZREM', task_key('schedules_due'), new.body[3])\n",
        "",
        SCHEDULE_STORE_TESTS,
    ),
    Mutation(
        "schedule: a run that is due during another is skipped",
        "cache_manager/schedule_runs.py",
        "return task is not None and not task.state.is_terminal",
        "return False",
        SCHEDULE_TESTS,
    ),
    Mutation(
        "schedule: each run has a body of its own",
        "cache_manager/schedule_runs.py",
        "body = await services.bodies.copy_for(task_id, body)",
        "body = body._replace()",
        SCHEDULE_TESTS,
    ),
    Mutation(
        "schedule: what the clocks show twice is due once",
        "shared/tasks/cron.py",
        "            # Where the clocks show the same hour twice, the library begins with the first time.\n"
        "            if time_ms > moment_ms:",
        "            if time_ms:",
        CRON_TESTS,
    ),
    Mutation(
        "schedule: seconds make no other day of it",
        "shared/tasks/cron.py",
        "if len(fields) == _WITH_SECONDS and not",
        "if len(fields) > _WITH_SECONDS and not",
        CRON_TESTS,
    ),
    Mutation(
        "schedule: all owners have their own",
        "cache_manager/schedule_api.py",
        "raise not_for_owners()\n    return owner or asked",
        "owner = asked\n    return owner or asked",
        ("tests/contract/test_v1_schedules.py",),
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation_check", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of guards' names; without one, all")
    names = parser.parse_args().names
    chosen = [each for each in MUTATIONS if not names or any(name in each.guard for name in names)]
    jobs = os.cpu_count() or 1
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as directory, ThreadPoolExecutor(jobs) as pool:
        trees: Trees[Path] = Trees()
        for number in range(jobs):
            trees.put(_copy(Path(directory) / f"tree{number}"))
        require_green(sorted({test for mutation in chosen for test in mutation.tests}), trees)
        print("| guard | first test that notices |\n| --- | --- |")
        for mutation, noticed in zip(chosen, pool.map(lambda each: _try(each, trees), chosen), strict=True):
            unnoticed += noticed is None
            print(f"| {mutation.guard} | {noticed or 'NOT NOTICED'} |", flush=True)
    return 1 if unnoticed else 0


def _copy(tree: Path) -> Path:
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", ".local", "__pycache__", ".*_cache"))
    (tree / ".local").mkdir()
    if (ROOT / ".local" / "npm").exists():
        (tree / ".local" / "npm").symlink_to(ROOT / ".local" / "npm")
    return tree


def require_green(tests: Sequence[str], trees: Trees[Path]) -> None:
    """
    Raises:
        SystemExit: a test fails though no guard is broken.
    """
    tree = trees.get()
    for home in HOMES:
        if those := [test for test in tests if _home(test) == home]:
            run = _run_tests(those, tree, "-n", "auto", "--dist", "loadfile")
            if run.returncode:
                sys.exit(f"These tests fail though no guard is broken:\n{run.stdout[-4000:]}")
    trees.put(tree)


def _home(test: str) -> str:
    return next(home for home in HOMES if test.startswith(home))


def _run_tests(tests: Sequence[str], tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs tests of one home."""
    home = _home(tests[0])
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options),
            # They find what the tables find, and then take minutes to shrink it.
            "--ignore=tests/shared/store/test_state_machine.py",
            "--ignore=tests/shared/store/test_rate_state_machine.py",
            "--ignore=tests/cache_manager/test_queue_state_machine.py",
            *(test.removeprefix(home) for test in tests),
        ],
        cwd=tree / home,
        # Before the working tree's, which is installed.
        env={**os.environ, "PYTHONPATH": str(tree / "sdk" / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def _try(mutation: Mutation, trees: Trees[Path]) -> str | None:
    """The first test that fails if the guard is broken, in a tree that nobody else uses meanwhile.

    Raises:
        SystemExit: the guard is not where the mutation expects it.
    """
    tree = trees.get()
    file = tree / mutation.file
    whole = file.read_text()
    if whole.count(mutation.old) != 1:
        sys.exit(f"{mutation.guard}: the text to replace stands {whole.count(mutation.old)} times in {mutation.file}")
    file.write_text(whole.replace(mutation.old, mutation.new))
    try:
        run = _run_tests(mutation.tests, tree, "-p", "no:xdist")
    finally:
        file.write_text(whole)
        trees.put(tree)
    if run.returncode not in (0, 1):
        sys.exit(f"{mutation.guard}: the tests could not run:\n{run.stdout[-2000:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+?)(?:\[|$| )", run.stdout, re.MULTILINE)
    return f"`{failed[1].rpartition('/')[2]}`" if failed else None


if __name__ == "__main__":
    sys.exit(main())
