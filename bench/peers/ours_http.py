"""Ours, the whole app: submits over HTTP, through Event Grid to a model service that reports over HTTP.

The addresses are JSON. A producer's ``{"url", "key"}`` are the app's. A worker's ``{"url", "key", "port"}`` also have
the port of the model service.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

from aiohttp import ClientSession, TCPConnector, web

from bench.peers import side

PATH = "/v1/bench"
CLIENTS = 64
ATTEMPTS = 5


def producer(address: str) -> side.Enqueue:
    app = json.loads(address)
    loop = asyncio.new_event_loop()
    session = loop.run_until_complete(_open_session(app["key"]))
    body = side.PAYLOAD.encode()

    async def client(tasks: Iterable[float]) -> None:
        for seconds in tasks:
            url = f"{app['url']}/api/v1/submit{PATH}?seconds={seconds}"
            async with session.post(url, data=body, headers={"Content-Type": "text/plain"}) as response:
                if response.status != 202:
                    raise RuntimeError(f"A submit was answered {response.status}: {await response.text()}")
                await response.read()

    async def enqueue(tasks: Iterable[float]) -> None:
        await asyncio.gather(*(client(tasks) for _ in range(CLIENTS)))

    return lambda tasks: loop.run_until_complete(enqueue(tasks))


def worker(address: str) -> None:
    """The model service: it begins every task at once, without a limit, and reports its end."""
    app = json.loads(address)
    asyncio.run(_serve(app["url"], app["key"], app["port"]))


async def _serve(url: str, key: str, port: int) -> None:
    session = await _open_session(key)
    at_work: set[asyncio.Task[None]] = set()

    async def run(task_id: str, attempt: int, payload: str, seconds: float) -> None:
        status = await side.perform_async(payload, seconds)
        report = {"TaskId": task_id, "Attempt": attempt, "BackendStatus": "completed", "Status": status}
        for _ in range(ATTEMPTS):  # a model service must repeat its report to a busy app
            async with session.post(f"{url}/api/CacheConnectorUpsert", json=report) as response:
                await response.read()
            if response.status not in (429, 503):
                break
            await asyncio.sleep(0.1)

    async def accept(request: web.Request) -> web.Response:
        task_id, attempt = request.headers["taskId"], int(request.headers["X-Task-Attempt"])
        work = run(task_id, attempt, await request.text(), float(request.query["seconds"]))
        task = asyncio.create_task(work)
        at_work.add(task)
        task.add_done_callback(at_work.discard)
        return web.Response()

    service = web.Application()
    service.router.add_post(PATH, accept)
    runner = web.AppRunner(service, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


async def _open_session(key: str) -> ClientSession:
    return ClientSession(connector=TCPConnector(limit=CLIENTS), headers={"x-functions-key": key})


if __name__ == "__main__":
    side.main(producer, worker, "aiohttp", "redis")
