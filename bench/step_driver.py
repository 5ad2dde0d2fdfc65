"""The cost of each step of a task in one revision of this project. ``bench/against.py`` runs one in each tree:

    PYTHONPATH=TREE python -P bench/step_driver.py STEPS_FILE REDIS_PORT

The file is that tree's ``bench/steps.py``, or a replacement for it. The driver uses only the standard library and
redis-py beside it, so it works with any revision. It prints ``{"ready": true}``. Then it answers each line
``{"tasks": n}`` with ``{step: {"redis_us": µs a step, "client_us": µs a step}}``:

- ``redis_us``: Redis' own time, from ``INFO commandstats``: the microseconds of all scripts, divided by the number of
  steps. One call may take several steps, so the number of calls does not matter.
- ``client_us``: the processor time of this process.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import redis

CALLERS = 128
PATIENCE_S = 60
SCRIPTS = ("evalsha", "eval", "fcall")
Step = Callable[[str], Awaitable[None]]


def main() -> None:
    file, port = Path(sys.argv[1]), int(sys.argv[2])
    # Under a name that no tree uses: the file may come from another tree.
    spec = importlib.util.spec_from_file_location("steps_to_measure", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asyncio.run(answer(module, port))


async def answer(module: Any, port: int) -> None:
    steps = module.Steps(f"redis://127.0.0.1:{port}", CALLERS)
    with redis.Redis(port=port, decode_responses=True) as server:
        # Like function_app.py.
        gc.freeze()
        gc.set_threshold(5_000)
        print_json({"ready": True})
        for line in sys.stdin:
            async with asyncio.timeout(PATIENCE_S):
                print_json(await measure(steps, server, json.loads(line)["tasks"]))
    await steps.aclose()


def print_json(document: object) -> None:
    print(json.dumps(document), flush=True)


async def measure(steps: Any, server: redis.Redis, tasks: int, callers: int = CALLERS) -> dict[str, dict[str, float]]:
    """Take all steps with *tasks* tasks, and return their costs."""
    costs: dict[str, dict[str, float]] = {}
    task_ids = [f"{'a' * 19}{number:012}" for number in range(tasks)]
    for stage in steps.stages:
        server.flushall()
        for name, step in stage.items():
            await steps.prepare(name)
            costs[name] = await cost(step, server, task_ids, callers)
        if (completed := await steps.completed()) != tasks:
            raise AssertionError(f"{completed} tasks are completed, not {tasks}: some steps had no effect")
    return costs


async def cost(step: Step, server: redis.Redis, task_ids: list[str], callers: int) -> dict[str, float]:
    todo: Iterator[str] = iter(task_ids)

    async def caller() -> None:
        for task_id in todo:
            await step(task_id)

    gc.collect()
    server.config_resetstat()
    began_ns = time.process_time_ns()
    await asyncio.gather(*(caller() for _ in range(callers)))
    client_us = (time.process_time_ns() - began_ns) / 1000
    stats: Any = server.info("commandstats")
    # The time of a script includes its commands, which are listed too.
    redis_us = sum(stats[f"cmdstat_{name}"]["usec"] for name in SCRIPTS if f"cmdstat_{name}" in stats)
    if not redis_us:
        raise AssertionError("the steps were no scripts")
    return {"redis_us": redis_us / len(task_ids), "client_us": client_us / len(task_ids)}


if __name__ == "__main__":
    main()
