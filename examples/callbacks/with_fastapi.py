"""What the backbone calls when a task has ended, in a FastAPI app."""

from __future__ import annotations

import os

from fastapi import BackgroundTasks, FastAPI, HTTPException, Request
from taskbackbone import errors, verify_callback

SECRETS = os.environ["CALLBACK_SECRETS"].split()  # two while one is replaced by the other
app = FastAPI(title="What has ended")
known: dict[str, str] = {}  # in your own app: a table, in which the id is unique


@app.post("/ended", status_code=204)
async def ended(request: Request, later: BackgroundTasks) -> None:
    try:
        task = verify_callback(request.headers, await request.body(), SECRETS)
    except errors.InvalidCallback as error:
        raise HTTPException(400, error.reason) from None
    callback = request.headers["webhook-id"]
    if callback not in known:  # it may come twice
        known[callback] = task["TaskId"]
        later.add_task(take, task)  # the backbone waits for the answer, so that comes first


def take(task: dict) -> None:
    print(f"{task['TaskId']} is {task['BackendStatus']}", flush=True)


@app.get("/ended")
def seen() -> list[str]:
    return list(known.values())
