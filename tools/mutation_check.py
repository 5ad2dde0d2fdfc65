"""Breaks each guard in a copy of the tree, and says which test notices: ``python -m tools.mutation_check [NAME…]``.

A guard that can be broken without a test failing is not tested. Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = "shared/task_store/scripts"
QUEUE_SCRIPTS = "shared/task_store/queue_scripts"
STORE_TESTS = ("tests/shared/store",)
QUEUE_TESTS = ("tests/shared/store/test_queues.py", "tests/cache_manager/test_reconciler.py")
PIPELINE_TESTS = ("tests/shared/store/test_pipelines.py",)
JOINT_TESTS = ("tests/shared/store/test_joint.py",)
OWNER_TESTS = ("tests/contract/test_v1_owners.py", "tests/shared/store/test_lifecycle.py")


@dataclass(frozen=True)
class Mutation:
    """One guard, and how it is broken: *old*, which stands once in *file*, becomes *new*."""

    guard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = STORE_TESTS


MUTATIONS = [
    Mutation(
        "fence: an older attempt is refused",
        f"{SCRIPTS}/move.lua",
        "if arg.attempt and arg.attempt ~= rec.a then",
        "if false then",
    ),
    Mutation(
        "fence: a retry draws a new attempt",
        f"{SCRIPTS}/lib.lua",
        "rec.a, rec.n, rec.z = rec.a + 1, 0, nil",
        "rec.a, rec.n, rec.z = rec.a, 0, nil",
    ),
    Mutation("replay of a step", f"{SCRIPTS}/move.lua", "if rec.k == arg.op then", "if false then"),
    Mutation("replay of a create", f"{SCRIPTS}/create.lua", "if known and known.k == arg.op then", "if false then"),
    Mutation("replay of a report", f"{SCRIPTS}/report.lua", "known = known or op == arg.op", "known = false"),
    Mutation(
        "terminal: a finished task stays as it is", f"{SCRIPTS}/move.lua", "if TERMINAL[rec.s] and", "if false and"
    ),
    Mutation(
        "terminal: only a failed task is replayed",
        f"{SCRIPTS}/move.lua",
        "not (arg.revive and rec.s == 'failed')",
        "not arg.revive",
    ),
    Mutation(
        "claim: from waiting only",
        f"{SCRIPTS}/move.lua",
        "if not allowed then return { 'state', raw } end",
        "",
    ),
    Mutation(
        "lease: a report renews it", f"{SCRIPTS}/move.lua", "set_due(id, now + rec.l)", "set_due(id, now + 1e12)"
    ),
    Mutation("lease: silence is found", f"{SCRIPTS}/sweep.lua", "  else\n    lease_over(id, rec)\n", "  else\n"),
    Mutation(
        "lease: the attempt limit",
        f"{SCRIPTS}/sweep.lua",
        "elseif rec.f >= arg.max_attempts then",
        "elseif false then",
    ),
    Mutation("due: each step sets the next deadline", f"{SCRIPTS}/move.lua", "set_due(id, now + arg.due_in)", ""),
    Mutation("due: a created task has one", f"{SCRIPTS}/create.lua", "set_due(arg.id, now + arg.due_in)", ""),
    Mutation(
        "due: a sweep hands a task out once",
        f"{SCRIPTS}/sweep.lua",
        "set_due(id, now + backoff(arg.publish_base, arg.wait_cap, rec.z))\n  done",
        "set_due(id, now)\n  done",
    ),
    Mutation(
        "counts: a task leaves its former index",
        f"{SCRIPTS}/lib.lua",
        "if redis.call('ZREM', index_key(rec.p, rec.s), id) == 0 and",
        "if",
    ),
    Mutation(
        "retention: nothing of a task is left",
        f"{SCRIPTS}/lib.lua",
        "if rec.r and not rec.r[3] then table.insert(keys, result_key(id)) end\n",
        "",
    ),
    Mutation("owner: of a change", f"{SCRIPTS}/move.lua", " or arg.owner and arg.owner ~= rec.o", "", OWNER_TESTS),
    Mutation(
        "owner: of a look",
        "cache_manager/tasks.py",
        "(self.owner is not None and task.owner != self.owner)",
        "False",
        OWNER_TESTS,
    ),
    Mutation(
        "owner: of a list",
        f"{SCRIPTS}/list.lua",
        "(not arg.owner or cmsgpack.unpack(raw).o == arg.owner)",
        "true",
        OWNER_TESTS,
    ),
    Mutation(
        "owner: the gateway's key",
        "cache_manager/callers.py",
        "not hmac.compare_digest(given.encode(), expected.get_secret_value().encode())",
        "False",
        OWNER_TESTS,
    ),
    Mutation(
        "registry: of an Endpoint's origin",
        "shared/backends.py",
        "_origin(base) == origin and ",
        "",
        ("tests/shared/test_backends.py",),
    ),
    Mutation(
        "registry: of a path, at creation and at dispatch",
        "shared/backends.py",
        "            if backend.serves(path):",
        "            if True:",
        ("tests/shared/test_backends.py",),
    ),
    Mutation(
        "registry: of the address when it is called",
        "shared/resolver.py",
        'if not self._backends.forbids(result["host"].partition("%")[0])',
        "",
        ("tests/shared/test_backend_client.py",),
    ),
    *(
        Mutation(f"queue: {guard}", f"{QUEUE_SCRIPTS}/{file}.lua", old, new, QUEUE_TESTS)
        for guard, file, old, new in (
            ("one is tried beyond at a time", "lib", ", queue.p and queue.u or 0)", ")"),
            (
                "a refusal lowers what is known",
                "refused",
                "queue.l = math.min(queue.l, queue.h)",
                "",
            ),
            ("a refusal delays the next try", "lib", "math.max(at, queue.b or 0, ", "math.max(at, "),
            (
                "a freed slot is handed on meanwhile",
                "lib",
                "local beyond = known >= queue.l or queue.o ~= nil",
                "local beyond = true",
            ),
            ("a pause for failures ends with one", "lib", " or queue.o ~= nil", ""),
            ("paused, it grants nothing", "lib", "queue.w > 0 and not set.paused and", "queue.w > 0 and"),
            ("a limit caps", "lib", " and not (cap and queue.h >= cap) do", " do"),
            ("owners take turns", "lib", "set_owner('ZINCRBY', 1, owner)", ""),
            ("a refusal costs no turn", "lib", "set_owner('ZINCRBY', -1, owner)", ""),
            ("a turn never waits and holds at once", "lib", "if not arg.fresh and holds(turn) then return end", ""),
            ("a loss is noticed", "lib", "if not raw or queue.h ~= held or", "if not raw or"),
            ("a lost owner is noticed", "tend", "if queue.w ~= count_waiting() then recount(queue) end", ""),
            ("after a loss more is tried one by one", "lib", "queue.l = math.min(queue.l, queue.h)", ""),
            (
                "a lost try makes no room for another",
                "lib",
                "if queue.p and not redis.call('ZSCORE', HELD, queue.p) then",
                "if false then",
            ),
            ("slots that are held are looked at", "tend", "HELD, '-inf', now,", "HELD, '-inf', 0,"),
            ("a later loss is not taken for mended", "whole", "if queue.x == arg.loss then", "if true then"),
            ("who was taken is not refused", "offer", " and not stands(arg.turns[1][1], arg.turns[1][2])", ""),
            ("places among owners", "lib", "(other < owner and 1 or 0)", "1"),
        )
    ),
    Mutation(
        "queue: a stale turn does nothing",
        "shared/task_store/outcomes.py",
        'return f"{self.task_id}.{self.attempt}"',
        'return f"{self.task_id}.1"',
        QUEUE_TESTS,
    ),
    *(
        Mutation(f"joint: {guard}", f"shared/task_store/{file}.lua", old, new, JOINT_TESTS)
        for guard, file, old, new in (
            ("a replay tells whom it had claimed", "joint_scripts/step", "if moved.replay then", "if false then"),
            (
                "a step is not taken for its own claim",
                "joint_scripts/step",
                "if id == arg.id then return { 'state' } end",
                "",
            ),
            ("who was claimed has a window", "joint_scripts/step", "due_in = then_.window", "due_in = 1e12"),
            ("another attempt's end ends no turn", "joint_scripts/step", "elseif moved[1] == 'moved' then", "else"),
            (
                "what its queue does not take is gone",
                "joint_scripts/create",
                "withdraw({ tag }, { new.id }) == 0",
                "false",
            ),
            (
                "an id that is taken gets no turn",
                "joint_scripts/create",
                "if created[1] == 'exists' then",
                "if false then",
            ),
            (
                "a repeated create tells of its slot",
                "joint_scripts/create",
                "if created.replay and taken.held",
                "if false",
            ),
            (
                "who came first goes first",
                "queue_scripts/lib",
                "since = math.max(now * MOMENTS, (queue.q or 0) + 1)",
                "since = now * MOMENTS",
            ),
            (
                "a repeated create gives its task no second turn",
                "joint_scripts/create",
                "offered.fresh = not created.replay",
                "offered.fresh = true",
            ),
            (
                "a limit that was lost lets nothing through",
                "queue_scripts/lib",
                "{ l = 0, v = 0, i = 0 }",
                "{ l = 0, v = 0 }",
            ),
        )
    ),
    *(
        Mutation(f"queue: {guard}", f"{QUEUE_SCRIPTS}/{file}.lua", old, new, tests)
        for guard, file, old, new, tests in (
            (
                "known slots are handed on while more is tried",
                "lib",
                "local known = queue.h - (queue.p and 1 or 0)",
                "local known = queue.h",
                QUEUE_TESTS,
            ),
            (
                "a refusal in place of the try counts as its own",
                "refused",
                "is_try or (queue.a or 0) > now",
                "is_try",
                QUEUE_TESTS,
            ),
            (
                "a guess does not shorten the pause",
                "lib",
                "if proof and not unsure or",
                "if proof or",
                QUEUE_TESTS,
            ),
        )
    ),
    Mutation(
        "together: an error of one is not the others'",
        "shared/task_store/joint_scripts/lib.lua",
        "pcall(step, unpack(ARGV, first, first + words - 1))",
        "true, step(unpack(ARGV, first, first + words - 1))",
        JOINT_TESTS,
    ),
    Mutation(
        "together: an owner who comes changes the others' places",
        "shared/task_store/queue_scripts/lib.lua",
        "    read[STATE].times, read[STATE].alone = nil, nil\n    queue.w",
        "    queue.w",
        JOINT_TESTS,
    ),
    Mutation(
        "pipelines: answered together, they ask apart",
        "shared/task_store/pipelines.py",
        "takes_turns = len(commands) > FLIGHT_COMMANDS // 2",
        "takes_turns = False",
        PIPELINE_TESTS,
    ),
    Mutation(
        "pipelines: one brings the script for all",
        "shared/task_store/pipelines.py",
        "self._pipelines.start(self._bring_script(asking), asking)",
        "[self._pipelines.send_alone(command) for command in asking]",
        PIPELINE_TESTS,
    ),
    Mutation(
        "pipelines: closed, they tell all who wait",
        "shared/task_store/pipelines.py",
        "if task.cancelled():",
        "if False:",
        PIPELINE_TESTS,
    ),
    Mutation(
        "together: each gets its own reply",
        "shared/task_store/pipelines.py",
        "if part[0].first.is_common else (reply,)",
        "if False else (reply,) * len(part)",
        JOINT_TESTS,
    ),
    Mutation(
        "index: who waits anew leaves with all entries",
        f"{SCRIPTS}/lib.lua",
        "redis.call('ZREM', index_key(rec.p, 'since'), id)",
        "",
    ),
    Mutation(
        "queue: only a fresh task is withdrawn",
        f"{SCRIPTS}/withdraw.lua",
        "if rec.s ~= 'created' or rec.v > 1 or rec.W then return 0 end",
        "",
        ("tests/shared/store/test_sweep.py",),
    ),
    Mutation(
        "queue: a check counts a publish once",
        f"{SCRIPTS}/check.lua",
        "local replay = rec and rec.k == arg.op",
        "local replay = false",
        ("tests/shared/store/test_replays.py",),
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation_check", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of guards' names; without one, all")
    wanted = parser.parse_args().names
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as directory:
        tree = _copy(Path(directory))
        for mutation in MUTATIONS:
            if wanted and not any(name in mutation.guard for name in wanted):
                continue
            noticed = _try(mutation, tree)
            unnoticed += noticed is None
            print(f"{mutation.guard:<50} {noticed or 'NOT NOTICED'}", flush=True)
    return 1 if unnoticed else 0


def _copy(directory: Path) -> Path:
    tree = directory / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", ".local", "__pycache__", ".*_cache"))
    (tree / ".local").mkdir()
    if (ROOT / ".local" / "npm").exists():
        (tree / ".local" / "npm").symlink_to(ROOT / ".local" / "npm")
    return tree


def _try(mutation: Mutation, tree: Path) -> str | None:
    """The first test that fails when the guard is broken.

    Raises:
        SystemExit: the guard is not where the mutation expects it.
    """
    file = tree / mutation.file
    whole = file.read_text()
    if whole.count(mutation.old) != 1:
        sys.exit(
            f"{mutation.guard}: what is to be broken stands {whole.count(mutation.old)} times in {mutation.file}"
        )
    file.write_text(whole.replace(mutation.old, mutation.new))
    try:
        run = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-x", "-n", "2", "-p", "no:cacheprovider"),
                # It finds what the tables find, and then takes minutes to shrink it.
                "--ignore=tests/shared/store/test_state_machine.py",
                "--ignore=tests/cache_manager/test_queue_state_machine.py",
                *mutation.tests,
            ],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        file.write_text(whole)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    return failed[1] if failed else None


if __name__ == "__main__":
    sys.exit(main())
