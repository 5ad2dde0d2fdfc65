"""A process that runs the reconciler, and nothing else: ``python -m bench.schedule_host REDIS_URL``, until it is
killed."""

from __future__ import annotations

import asyncio
import sys
import time

from cache_manager.reconciler import keep_reconciling
from tests.cache_manager.process import Process


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def main(url: str) -> None:
    await keep_reconciling(Process.start(url, now_ms).services)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
