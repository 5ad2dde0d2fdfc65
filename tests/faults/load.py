"""Callers that record which tasks were acknowledged, and a watcher that records which tasks it saw finished."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

import httpx

from local.stack import NO_TLS
from shared.settings import INLINE_LIMIT_BYTES, Settings
from shared.tasks import status_texts
from tests.faults.model_service import (
    ANSWER,
    CONTENT_TYPE,
    FIRST,
    LEGACY,
    MODERN,
    PIPED,
    RATED,
    SECOND,
    UPLOADED,
    write_blob,
)
from tests.faults.rig import Rig
from tests.waiting import PATIENCE_S

CALLERS = 3
PAUSE_S = 0.08
"""A caller's mean pause between two submits: together the callers submit some 25 tasks a second."""
WATCH_PAUSE_S = 0.03
REQUEST_TIMEOUT_S = 20.0
REPEAT_FOR_S = 60.0
"""How long a caller with an idempotency key repeats a submit that is not acknowledged."""
OF_MANY = ("0", "1", "2", "3")
"""How the idempotency keys end of the tasks that come as lines of a submit of many."""
LARGE_SHARE, KEYED_SHARE, AGAIN_SHARE = 0.15, 0.6, 0.2
DELAYED_SHARE, LONGEST_DELAY_S = 0.15, 6.0
"""Of the tasks that are submitted to a modern service: those that start later, and when at the latest."""
EXPIRING_SHARE, BRIEF_SHARE = 0.15, 0.15
"""Of the tasks of modern services: those that expire after ``EXPIRES_S``, and those whose attempts may run for
``MAX_RUN_S``."""
EXPIRES_S, MAX_RUN_S = 2, 3
BATCH_SHARE = 0.4
"""Of the tasks that are submitted with an idempotency key to a modern service: those that are children of a batch."""
_PATHS: Final = {
    f"{MODERN}/only": 4,
    f"{MODERN}{FIRST}": 2,
    f"{MODERN}{ANSWER}": 2,
    f"{MODERN}{PIPED}": 2,
    f"{MODERN}{UPLOADED}": 2,
    f"{MODERN}{RATED}": 2,
    f"{LEGACY}/only": 3,
    f"{LEGACY}{FIRST}": 1,
}
_ENDED: Final = ("completed", "failed", "cancelled")
MAX_ATTEMPTS: Final[int] = Settings.model_fields["max_attempts"].default
_UNREGISTERED = ("no backend is registered for this path", "it lies within no registered backend")


@dataclass(slots=True)
class Submission:
    """One task that a caller submits, maybe repeatedly."""

    path: str
    body: bytes
    task_id: str | None = None
    """The task's id, once the submit is acknowledged."""
    upload_id: str | None = None
    """What is handed in in place of the body, if the endpoint takes uploads."""
    batch_id: str | None = None
    """The batch that it is to be a child of."""
    start_after: str | None = None
    """When it is to start, if not at once."""
    expires: bool = False
    is_brief: bool = False
    """Whether its attempts may run for a short time only."""

    @property
    def may_fail_with(self) -> Iterator[str]:
        """The status texts of the ends that it may have, whatever becomes of the others."""
        if self.expires:
            yield status_texts.expired(EXPIRES_S)
        if self.is_brief:
            yield status_texts.OVERRUN_EXHAUSTED % (MAX_RUN_S, MAX_ATTEMPTS, MAX_ATTEMPTS)


@dataclass(frozen=True, slots=True)
class Ending:
    """A finished task as a caller sees it."""

    state: str
    status: str
    etag: str


class Load:
    """Within its context, callers submit tasks of all kinds and a watcher polls them.

    Most callers send an idempotency key and repeat a submit until it is acknowledged. The others submit once; a task
    that was not acknowledged may exist or not. Some use the legacy function ``CacheConnectorUpsert``.
    """

    def __init__(self, rig: Rig, seed: str, with_delays: bool = True) -> None:
        self.endings: dict[str, Ending] = {}
        """Each finished task, as the watcher first saw it."""
        self.batch_id: str | None = None
        """The batch of some of the tasks, once it is acknowledged that it has begun."""
        self.wrong: list[str] = []
        self.may_forget = False
        """Whether a task may be found in an earlier state than it was seen in."""
        self._rig = rig
        self._with_delays = with_delays
        self._over = threading.Event()
        self._watched = threading.Event()
        self._errors: list[BaseException] = []
        self._lists: list[list[Submission]] = [[] for _ in range(CALLERS)]
        self._callers = [
            self._thread(lambda n=n, own=own: self._submit_all(random.Random(f"{seed} {n}"), own))
            for n, own in enumerate(self._lists)
        ]
        self._batcher = self._thread(lambda: self._begin_batch(seed))
        self._watcher = self._thread(lambda: self._watch(random.Random(f"{seed} watcher")))

    @property
    def submissions(self) -> list[Submission]:
        return [submission for own in self._lists for submission in [*own]]

    @property
    def acknowledged(self) -> list[str]:
        return [submission.task_id for submission in self.submissions if submission.task_id]

    def finish(self) -> None:
        """Submit nothing new, and return when the last submit is acknowledged or given up."""
        self._over.set()
        for caller in (self._batcher, *self._callers):
            caller.join()
        if self.batch_id is not None:
            self._seal_batch(self.batch_id)
        self._raise()

    def stop_watching(self) -> None:
        self._watched.set()
        self._watcher.join()
        self._raise()

    def __enter__(self) -> Self:
        for thread in (self._batcher, *self._callers, self._watcher):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watched.set()

    def _raise(self) -> None:
        if self._errors:
            raise self._errors[0]

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._errors.append(error)

        return threading.Thread(target=run, daemon=True)

    def _client(self) -> httpx.Client:
        stack = self._rig.stack
        return httpx.Client(
            base_url=stack.url, headers={"x-functions-key": stack.key}, timeout=REQUEST_TIMEOUT_S, verify=NO_TLS
        )

    def _begin_batch(self, seed: str) -> None:
        with self._client() as app:
            while self.batch_id is None and not self._over.is_set():
                headers = {"Idempotency-Key": f"batch of {seed}"}
                self.batch_id = self._post(
                    app, "/api/v1/batches", 202, json={"Then": f"{MODERN}/only"}, headers=headers
                )
                self._over.wait(PAUSE_S)

    def _seal_batch(self, batch_id: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        with self._client() as app:
            while self._post(app, f"/api/v1/batches/{batch_id}/seal", 200) is None:
                if time.monotonic() > deadline_s:
                    self.wrong.append(f"batch {batch_id} could not be sealed")
                    return
                time.sleep(PAUSE_S)

    def has_batch_ended(self) -> bool:
        with self._client() as app, suppress(httpx.TransportError):
            known = app.get(f"/api/v1/tasks/{self.batch_id}")
            return known.status_code == 200 and known.json()["BackendStatus"] in _ENDED
        return False

    def _submit_all(self, chance: random.Random, own: list[Submission]) -> None:
        with self._client() as app:
            while not self._over.is_set():
                submission = Submission(chance.choices([*_PATHS], [*_PATHS.values()])[0], _body(chance))
                own.append(submission)
                if chance.random() < DELAYED_SHARE and self._with_delays:
                    submission.start_after = f"{chance.uniform(0, LONGEST_DELAY_S):.3f}"
                elif submission.path.startswith(MODERN):
                    submission.expires = chance.random() < EXPIRING_SHARE
                    submission.is_brief = chance.random() < BRIEF_SHARE
                if chance.random() < KEYED_SHARE or submission.path.endswith(UPLOADED):
                    if submission.path.startswith(MODERN) and chance.random() < BATCH_SHARE:
                        submission.batch_id = self.batch_id
                    self._submit_until_acknowledged(app, submission, f"{chance.getrandbits(64):x}", chance)
                else:
                    submission.task_id = self._submit_once(app, submission)
                self._over.wait(chance.uniform(0, 2 * PAUSE_S))

    def _submit_until_acknowledged(
        self, app: httpx.Client, submission: Submission, key: str, chance: random.Random
    ) -> None:
        deadline_s = time.monotonic() + REPEAT_FOR_S
        while submission.task_id is None and time.monotonic() < deadline_s:
            submission.task_id = self._submit(app, submission, {"Idempotency-Key": key})
            if submission.task_id is None:
                time.sleep(PAUSE_S)
        if submission.task_id and chance.random() < AGAIN_SHARE:
            again = self._submit(app, submission, {"Idempotency-Key": key})
            if again not in (None, submission.task_id):
                self.wrong.append(f"one idempotency key made two tasks, {submission.task_id} and {again}")

    def _submit_once(self, app: httpx.Client, submission: Submission) -> str | None:
        if submission.path.startswith(MODERN):
            return self._submit(app, submission, {})
        legacy = {
            "Status": "created",
            "BackendStatus": "created",
            "Endpoint": self._rig.endpoint(submission.path),
            "Body": submission.body.decode(),
            "PublishToGrid": True,
        }
        return self._post(app, "/api/CacheConnectorUpsert", 200, json=legacy)

    def _submit(self, app: httpx.Client, submission: Submission, headers: dict[str, str]) -> str | None:
        json_headers = {"Content-Type": "application/json", **headers}
        if submission.batch_id is not None:
            json_headers["Batch"] = submission.batch_id
        if submission.start_after is not None:
            json_headers["Start-After"] = submission.start_after
        if submission.expires:
            json_headers["Start-Before"] = str(EXPIRES_S)
        if submission.is_brief:
            json_headers["Max-Run"] = str(MAX_RUN_S)
        if submission.path.endswith(PIPED):
            json_headers["Pipeline"] = f"{MODERN}{SECOND}"
        if submission.path.endswith(UPLOADED):
            if submission.upload_id is None:
                submission.upload_id = self._upload(app, submission.body)
            if submission.upload_id is None:
                return None
            json_headers = {**json_headers, "X-Upload": submission.upload_id}
            return self._post(app, f"/api/v1/submit{submission.path}", 202, headers=json_headers)
        key, body = headers.get("Idempotency-Key", ""), submission.body
        if key.endswith(OF_MANY) and body.startswith(b"{") and b"\n" not in body:
            line = b'{"Body":%b,"IdempotencyKey":"%b"}\n' % (body, key.encode())
            del json_headers["Idempotency-Key"]
            return self._post(app, f"/api/v1/submit-many{submission.path}", 202, content=line, headers=json_headers)
        return self._post(app, f"/api/v1/submit{submission.path}", 202, content=submission.body, headers=json_headers)

    def _upload(self, app: httpx.Client, body: bytes) -> str | None:
        """The id of a new upload with this body, or None if it could not be made now."""
        with suppress(httpx.TransportError):
            response = app.post("/api/v1/uploads", json={"Size": len(body), "ContentType": CONTENT_TYPE})
            if response.status_code == 201 and write_blob(response.json()["Url"], body):
                return response.json()["UploadId"]
        return None

    def _post(self, app: httpx.Client, url: str, acknowledged: int, **content: Any) -> str | None:
        """The task's id, or None if the request was not acknowledged."""
        try:
            response = app.post(url, **content)
        except httpx.TransportError:
            return None
        if response.status_code == acknowledged:
            answer = response.json()
            return answer["Outcomes"][0]["TaskId"] if "Outcomes" in answer else answer["TaskId"]
        if any(text in response.text for text in _UNREGISTERED):
            return None  # not in the registry at present, which the fault says
        if response.status_code == 429 and not response.content:
            return None  # the host's own, which says no more (contract B0.21)
        if response.status_code not in (429, 503) or "Retry-After" not in response.headers:
            self.wrong.append(f"POST {url} was answered {response.status_code}: {response.text[:200]}")
        return None

    def _watch(self, chance: random.Random) -> None:
        with self._client() as app:
            while not self._watched.wait(WATCH_PAUSE_S):
                if known := self.acknowledged:
                    self.check(app, chance.choice(known))

    def check(self, app: httpx.Client, task_id: str) -> None:
        """Get one task, and compare it with what the watcher saw before."""
        with suppress(httpx.TransportError):
            response = app.get(f"/api/v1/tasks/{task_id}")
            if response.status_code == 404 and task_id not in self._rig.deleted:
                self.wrong.append(f"{task_id} was acknowledged and is not known")
            if response.status_code != 200:
                return
            task = response.json()
            if self.may_forget:
                self.endings.pop(task_id, None)
                return
            now = Ending(task["BackendStatus"], task["Status"], response.headers["ETag"])
            if now.state in _ENDED and self.endings.setdefault(task_id, now) != now:
                self.wrong.append(f"{task_id} was finished as {self.endings[task_id]} and is {now}")
            if now.state not in _ENDED and task_id in self.endings:
                self.wrong.append(f"{task_id} was finished as {self.endings[task_id]} and is not any more")


def _body(chance: random.Random) -> bytes:
    # Text, since legacy callers send nothing else.
    token = f"{chance.getrandbits(128):032x}"
    filler = "x" * INLINE_LIMIT_BYTES if chance.random() < LARGE_SHARE else ""
    return json.dumps({"token": token, "filler": filler}).encode()
