"""What the backbone calls when a task has ended, in a Flask app."""

from __future__ import annotations

import os

from flask import Flask, abort, request
from taskbackbone import errors, verify_callback

SECRETS = os.environ["CALLBACK_SECRETS"].split()  # two while one is replaced by the other
app = Flask(__name__)
known: dict[str, str] = {}  # in your own app: a table, in which the id is unique


@app.post("/ended")
def ended() -> tuple[str, int]:
    try:
        task = verify_callback(request.headers, request.get_data(), SECRETS)
    except errors.InvalidCallback as error:
        abort(400, error.reason)
    callback = request.headers["webhook-id"]
    if callback not in known:  # it may come twice
        known[callback] = task["TaskId"]
        print(f"{task['TaskId']} is {task['BackendStatus']}", flush=True)
    return "", 204


@app.get("/ended")
def seen() -> list[str]:
    return list(known.values())
