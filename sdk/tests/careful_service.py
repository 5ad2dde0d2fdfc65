"""A model service that keeps every rule of docs/model-services.md without the SDK, and breaks the one in ``FLAW``.

It counts the words of a text, and sleeps for ``?seconds=`` first. With ``?copies=`` its result has so many lines.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

URL, KEY, FLAW = os.environ["BACKBONE_URL"], os.environ["BACKBONE_KEY"], os.environ.get("FLAW", "")
SLOTS = 2
NUMBERLESS = ("no attempt", "no heartbeat and no attempt")
LOCK = threading.Lock()
AT_WORK: dict[tuple[str, int], Work] = {}
SEEN: set[tuple[str, int]] = set()
STOPPING = threading.Event()
NAME = f"instance-{os.getpid()}"


class Stopped(Exception):
    """The backbone has taken the task away."""


def told() -> dict[str, str]:
    slots = {"slots that are no number": "many", "more slots than it has": "9", "no slots": "0"}.get(FLAW, str(SLOTS))
    name = f"{random.random()}" if FLAW == "a name that changes" else NAME
    return {"X-Task-Slots": "0" if STOPPING.is_set() else slots, "X-Task-Instance": name}


def call(method: str, path: str, attempt: int, body: bytes = b"", **headers: str) -> None:
    number = {} if FLAW in NUMBERLESS else {"X-Task-Attempt": str(attempt)}
    key = {} if FLAW == "no key" else {"x-functions-key": KEY}
    sent = {**key, **number, "Content-Type": "application/json", **told(), **headers}
    data = iter([body]) if FLAW == "chunks" and body else body
    for pause_s in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, None):
        try:
            return urllib.request.urlopen(
                urllib.request.Request(URL + path, data, sent, method=method), timeout=60
            ).close()
        except urllib.error.HTTPError as error:
            if error.code == 409 and FLAW != "goes on after a 409":
                raise Stopped from None
            if error.code != 429 and error.code < 500:
                return None
            if FLAW in ("gives up after 500", "fails the task after 500") or (
                FLAW == "gives up after 429" and error.code == 429
            ):
                raise
        except OSError:
            if FLAW == "gives up without an answer":
                raise
        if pause_s is None:
            raise TimeoutError
        time.sleep(pause_s)
    return None


def largest() -> int:
    with urllib.request.urlopen(URL + "/api/v1/health", timeout=60) as answer:
        return json.load(answer)["MaxBodyBytes"]


class Work(threading.Thread):
    def __init__(self, task: str, attempt: int, lease_s: float, body: bytes, query: dict[str, list[str]]) -> None:
        super().__init__(daemon=True)
        self.task, self.attempt, self.lease_s, self.body, self.query = task, attempt, lease_s, body, query
        self.holds = True

    def run(self) -> None:
        try:
            self.work()
        except Stopped:
            pass
        except urllib.error.HTTPError:
            if FLAW != "fails the task after 500":
                raise
            self.report("failed", "failed - the backbone erred")
        finally:
            self.free()

    def free(self) -> None:
        with LOCK:
            AT_WORK.pop((self.task, self.attempt), None)

    def report(self, backend_status: str, status: str) -> None:
        update = {"TaskId": self.task, "BackendStatus": backend_status, "Status": status}
        if FLAW == "a status of its own":
            update["BackendStatus"] = "finished"
        number = {} if FLAW in (*NUMBERLESS, "the end in the text only") else {"Attempt": self.attempt}
        call("POST", "/api/CacheConnectorUpsert", self.attempt, json.dumps({**update, **number}).encode())

    def work(self) -> None:
        self.report("running", "running")
        deadline_s = time.monotonic() + float(self.query.get("seconds", ["0"])[0])
        beat_s = time.monotonic()
        while time.monotonic() < deadline_s:
            if "no heartbeat" not in FLAW and time.monotonic() - beat_s > self.lease_s / 5:
                call("POST", f"/api/v1/tasks/{self.task}/heartbeat", self.attempt)
                beat_s = time.monotonic()
            if STOPPING.is_set() and FLAW != "keeps its task at the end":
                release = json.dumps({"Status": "the service is stopping"}).encode()
                call("POST", f"/api/v1/tasks/{self.task}/release", self.attempt, release)
                return
            time.sleep(0.02)
        result = json.dumps({"words": len(self.body.split())}).encode() * int(self.query.get("copies", ["1"])[0])
        if FLAW != "a slot that is freed too late":
            self.free()
        if FLAW == "no end":
            return
        if FLAW == "the end in the text only":
            self.report("running", "completed - counted")
            return
        if FLAW != "a result that is too large" and len(result) > largest():
            self.report("failed", "failed - the result is too large")
            return
        if FLAW == "the result after the end":
            self.report("completed", "completed")
        call("PUT", f"/api/v1/tasks/{self.task}/result", self.attempt, result)
        self.report("completed", "completed")


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        task, attempt = self.headers["taskId"], int(self.headers["X-Task-Attempt"])
        seen = (task, 1 if FLAW == "knows a task but not its attempts" else attempt)
        bad = 500 if FLAW == "500 for bad input" else 400
        if FLAW == "the result in the answer":
            return self.answer(200, json.dumps({"words": len(body.split())}).encode())
        if FLAW == "a completion text that is no UTF-8":
            return self.answer(200, b"6", {"X-Task-Complete": "%ff"})
        if "a quick answer" in FLAW:
            if FLAW == "a quick answer, and an end":
                call("PUT", f"/api/v1/tasks/{task}/result", attempt, b"6", **{"X-Task-Complete": ""})
            return self.answer(200, b"6", {"X-Task-Complete": "completed%20-%206"})
        if not self.headers["Content-Type"].startswith("text/plain"):
            return self.answer(bad, b"a text is expected")
        with LOCK:
            if seen in SEEN and FLAW not in (
                "runs an attempt twice",
                "refuses an attempt that comes twice",
            ):
                status = 200
            elif seen in SEEN and FLAW == "refuses an attempt that comes twice":
                status = 503
            elif STOPPING.is_set() or (len(AT_WORK) >= SLOTS and FLAW != "takes any number"):
                status = 409 if FLAW == "409 when full" else 503
            else:
                status = 202
                SEEN.add(seen)
                work = AT_WORK[task, attempt] = Work(task, attempt, float(self.headers["X-Task-Lease"]), body, query)
        if status == 202:
            work.start()
            if FLAW == "works before it answers":
                work.join()
        return self.answer(status)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "text/plain", **told()}.items():
            self.send_header(name, value)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
        return


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100


def main() -> None:
    server = Server(("127.0.0.1", int(os.environ["PORT"])), Service)

    def stop(*_: object) -> None:
        STOPPING.set()
        if FLAW != "does not end":
            threading.Thread(target=end, daemon=True).start()

    def end() -> None:
        for work in list(AT_WORK.values()):
            if FLAW != "keeps its task at the end":
                work.join()
        server.shutdown()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever()


if __name__ == "__main__":
    main()
