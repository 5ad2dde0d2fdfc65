"""A model service for tests, as its author writes it without the SDK: it counts words, and sleeps first.

It takes the seconds to sleep from the query, holds ``SLOTS`` tasks, and beats four times a second.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

URL, KEY = os.environ["BACKBONE_URL"], os.environ["BACKBONE_KEY"]
SLOTS = threading.Semaphore(int(os.environ.get("SLOTS", "2")))
TOLD = {"X-Task-Slots": os.environ["SLOTS"], "X-Task-Instance": "one"} if os.environ.get("TELLS") else {}
BEAT_S = 0.25


def call(method: str, path: str, attempt: int, body: bytes = b"", **headers: str) -> None:
    sent = {"x-functions-key": KEY, "X-Task-Attempt": str(attempt), "Content-Type": "application/json", **headers}
    urllib.request.urlopen(urllib.request.Request(URL + path, body, {**sent, **TOLD}, method=method), timeout=60)


def work(task: str, attempt: int, body: bytes, seconds: float) -> None:
    try:
        try:
            end_s = time.monotonic() + seconds
            while (left_s := end_s - time.monotonic()) > 0:
                call("POST", f"/api/v1/tasks/{task}/heartbeat", attempt)
                time.sleep(min(left_s, BEAT_S))
        finally:
            SLOTS.release()
        result = json.dumps({"words": len(body.split())}).encode()
        call("PUT", f"/api/v1/tasks/{task}/result", attempt, result, **{"X-Task-Complete": ""})
    except urllib.error.HTTPError as error:
        assert error.code == 409


class Service(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        accepted = SLOTS.acquire(blocking=False)
        if accepted:
            task, attempt = self.headers["taskId"], int(self.headers["X-Task-Attempt"])
            seconds = float(query.get("seconds", ["0"])[0])
            threading.Thread(target=work, args=(task, attempt, body, seconds), daemon=True).start()
        self.send_response(202 if accepted else 503)
        for name, value in TOLD.items():
            self.send_header(name, value)
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Service).serve_forever()
