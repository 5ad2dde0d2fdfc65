"""Reports on tasks to the task backbone, by the calls of the AI for Earth API Platform.

It takes the place of the platform's file of this name, and needs nothing but the standard library of Python 3.7.

- A task knows the attempt that it was dispatched as. What an older attempt reports changes nothing: the backbone
  answers 409, and the call returns the task as it is.
- A report is one call. It is repeated while the backbone does not answer, and raises nothing.
- Leases are renewed while ``APIService`` runs the function of a task.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import threading
import time
from typing import Any, Callable, Iterable, Mapping
from urllib.parse import quote, urlsplit, urlunsplit

from task_management.calls import TIMEOUT_S, call
from task_management.held_tasks import Held, Task, Urls, heart, holdings, slots_headers, task_id_of, task_in

_ASK_TIMEOUT_S = 5.0
_FAREWELL_TIMEOUT_S = 1.5
_FAREWELL_S = 2.0
_NOT_FOUND = "not found"
_TOLD_END = re.compile(r"\s*(completed|failed)(?:\s*\Z|\s?[-:.;])", re.IGNORECASE)
"""The texts that callers of the platform have always read as an end."""

logger = logging.getLogger("ai4e")


class DistributedApiTaskManager:
    """Creates tasks, and reports on them. ``CACHE_CONNECTOR_UPSERT_URI`` and ``CACHE_CONNECTOR_GET_URI`` say where.

    Each call returns the task as a dict. If there is none, it is ``{"TaskId": id, "Status": "not found"}``, and
    ``{"TaskId": "-1", "Status": "error"}`` for one that could not be created.
    """

    def __init__(self) -> None:
        self.cache_connector_upsert_url = os.environ.get("CACHE_CONNECTOR_UPSERT_URI", "").strip()
        self.cache_connector_get_url = os.environ.get("CACHE_CONNECTOR_GET_URI", "").strip()

    @property
    def urls(self) -> Urls:
        get = self.cache_connector_get_url
        if not get:
            upsert = urlsplit(self.cache_connector_upsert_url)
            get = urlunsplit((*upsert[:2], re.sub(r"(?i)upsert$", "Get", upsert.path), *upsert[3:]))
        return Urls(self.cache_connector_upsert_url, get)

    def AddTask(self, request: Any = None) -> Task:
        """The task that *request* dispatches; without one, or for a direct call, a new task at the request's URL.

        Its ``TaskId`` knows the attempt, and so does every report that gets it.
        """
        headers: Mapping[str, str] = getattr(request, "headers", {})
        text = headers.get("taskId")
        if not text:
            return self._create(request)
        attempt = headers.get("X-Task-Attempt", "")
        task_id = task_id_of(text, int(attempt) if attempt.isdigit() else None)
        task = self._ask(task_id, retry_for_s=0, timeout_s=_ASK_TIMEOUT_S)
        if task is None:
            # The dispatch says as much as is needed, and the backbone may be about to start again.
            path = getattr(request, "path", "")
            task = {"Status": "created", "BackendStatus": "created", "Endpoint": None, "EndpointPath": path}
        task = {**task, "TaskId": task_id}
        holdings.add(Held(task_id, headers, task))
        return task

    def _create(self, request: Any) -> Task:
        document: Task = {"Status": "created", "BackendStatus": "created", "PublishToGrid": False}
        if request is not None:
            document["Endpoint"] = str(request.base_url)
        status, task = call("POST", self.cache_connector_upsert_url, document, retry_for_s=_ASK_TIMEOUT_S)
        if status != 200 or not isinstance(task, dict):
            logger.error("no task could be created: status %d", status)
            return {"TaskId": "-1", "Status": "error"}
        task_id = task_id_of(task["TaskId"], None)
        task = {**task, "TaskId": task_id}
        holdings.add(Held(task_id, {}, task))
        return task

    def UpdateTaskStatus(self, taskId: str, status: Any) -> Task:
        return self._UpdateTaskStatus(taskId, status, "running")

    def CompleteTask(self, taskId: str, status: Any) -> Task:
        return self._UpdateTaskStatus(taskId, status, "completed")

    def FailTask(self, taskId: str, status: Any) -> Task:
        return self._UpdateTaskStatus(taskId, status, "failed")

    def _UpdateTaskStatus(self, taskId: str, status: Any, backendStatus: str) -> Task:
        held = holdings.find(taskId)
        report = {"BackendStatus": backendStatus, "Status": _text(status), "PublishToGrid": False}
        if held is None:
            return self._report(taskId, report, getattr(taskId, "attempt", None), {})
        if held.is_gone:
            return held.last
        attempt = held.id.attempt
        held.heard_s = time.monotonic()
        if backendStatus == "running":
            told = _TOLD_END.match(report["Status"] or "")
            held.told_end = (told[1].lower(), status) if told else None
            if told and not held.is_run:
                # Only the backbone can tell whether this was the last word: it does for those that name no attempt.
                attempt = None
        else:
            held.is_ending = True
            held.free_slot()
        task = self._report(taskId, report, attempt, held.headers)
        self._note(held, task, ended=backendStatus != "running")
        return task

    def _note(self, held: Held, task: Task, *, ended: bool) -> None:
        if "BackendStatus" not in task:
            held.is_ending = False
            return  # it could not be reported
        held.last = {**task, "TaskId": held.id}
        is_older = held.id.attempt is not None and task.get("Attempt", held.id.attempt) != held.id.attempt
        held.is_gone = is_older or task["BackendStatus"] == "cancelled"
        if ended or held.has_ended:
            heart.end(held)
            if not held.is_run:
                holdings.remove(held)

    def _report(self, taskId: str, report: Task, attempt: int | None, headers: Mapping[str, str]) -> Task:
        document = {"TaskId": str.__str__(taskId) if isinstance(taskId, str) else str(taskId), **report}
        if attempt is not None:
            document["Attempt"] = attempt
        status, answer = call("POST", self.cache_connector_upsert_url, document, headers)
        if status == 409:
            stored = task_in(answer) or self._ask(taskId, retry_for_s=_ASK_TIMEOUT_S)
            logger.warning("task %s: it does not take this report any more", taskId)
            return stored or {"TaskId": taskId, "Status": _NOT_FOUND}
        if status != 200 or not isinstance(answer, dict):
            detail = answer.get("detail") if isinstance(answer, dict) else None
            logger.error(
                "task %s: the report was not taken (status %d): %s", taskId, status, detail or "no reason given"
            )
            return {"TaskId": taskId, "Status": _NOT_FOUND}
        return answer

    def AddPipelineTask(self, taskId: str, organization_moniker: str, version: str, api_name: str, body: Any) -> Task:
        """Send the task on to ``/version/organization/api``, with *body*, or with the present one without one."""
        path = "/".join(str(part).strip("/") for part in (version, organization_moniker, api_name))
        held = holdings.find(taskId)
        if held is not None and held.is_gone:
            return held.last
        known = held.last if held is not None else {}
        endpoint = known.get("Endpoint") or (self._ask(taskId) or {}).get("Endpoint")
        if not endpoint:
            logger.error("task %s: it is not known, so it cannot be sent to /%s", taskId, path)
            return {"TaskId": "-1", "Status": "error"}
        where = urlsplit(endpoint)
        report = {
            "Status": "created",
            "BackendStatus": "created",
            "Endpoint": urlunsplit((where.scheme, where.netloc, "/" + path, "", "")),
            "Body": body.decode() if isinstance(body, bytes) else _text(body),
            "PublishToGrid": True,
        }
        if held is None:
            return self._report(taskId, report, getattr(taskId, "attempt", None), {})
        held.is_ending = True
        held.free_slot()
        task = self._report(taskId, report, held.id.attempt, held.headers)
        if "BackendStatus" in task:
            held.last, held.is_gone, held.told_end = task, True, None
            heart.end(held)
            if not held.is_run:
                holdings.remove(held)
        return task

    def GetTaskStatus(self, taskId: str) -> Task:
        return self._ask(taskId, retry_for_s=_ASK_TIMEOUT_S) or {"TaskId": taskId, "Status": _NOT_FOUND}

    def _ask(self, taskId: str, *, retry_for_s: float | None = None, timeout_s: float = TIMEOUT_S) -> Task | None:
        status, task = call("GET", self.urls.task(taskId), timeout_s=timeout_s, retry_for_s=retry_for_s)
        return task if status == 200 and isinstance(task, dict) else None

    # What APIService does with the tasks that it runs

    def run(self, task_id: str, *, slots: int | None, free_slot: Callable[[], None]) -> Held | None:
        """The function of this task begins: its lease is renewed from now on."""
        held = holdings.find(task_id)
        if held is not None:
            held.is_run, held.slots, held.free_slot = True, slots, free_slot
            heart.begin(held, self.urls)
        return held

    def ran(self, held: Held) -> None:
        """Its function has returned: nobody will report on this attempt any more."""
        if held.told_end is not None and not held.has_ended:
            state, status = held.told_end
            self._UpdateTaskStatus(held.id, status, state)
        elif not held.has_ended:
            logger.warning(
                "task %s: its function returned, and neither completed nor failed it. It is tried again when its "
                "lease ends, unless somebody reports on it.",
                held.id,
            )
        self.drop(held)

    def drop(self, held: Held) -> None:
        heart.end(held)
        holdings.remove(held)

    def give_back(self, tasks: Iterable[Held], text: str) -> None:
        """Give tasks back before this process ends, so that they begin elsewhere at once. One that was not dispatched
        fails instead: nobody would begin it again."""
        threads: list[threading.Thread] = []
        for held in tasks:
            if not held.has_ended:
                thread = threading.Thread(target=self._give_back, args=(held, text), daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is about to end, and begins no thread any more
                    self._give_back(held, text)
                else:
                    threads.append(thread)
        for thread in threads:
            thread.join()

    def _give_back(self, held: Held, text: str) -> None:
        heart.end(held)
        held.is_gone = True
        url = self.urls.v1("/tasks/{}/release".format(quote(held.id, safe="")))
        headers = {**slots_headers(None if held.slots is None else 0), "X-Task-Attempt": str(held.id.attempt)}
        if held.told_end is not None or held.id.attempt is None:
            state, status = held.told_end or ("failed", "failed - " + text)
            report = {"TaskId": held.id, "BackendStatus": state, "Status": _text(status)}
            if held.id.attempt is not None:
                report["Attempt"] = held.id.attempt
            call(
                "POST",
                self.cache_connector_upsert_url,
                report,
                timeout_s=_FAREWELL_TIMEOUT_S,
                retry_for_s=_FAREWELL_S,
            )
        elif url is not None:
            status, _ = call(
                "POST", url, {"Status": text}, headers, timeout_s=_FAREWELL_TIMEOUT_S, retry_for_s=_FAREWELL_S
            )
            if status != 200:
                logger.warning("task %s: it was not given back (status %d); its lease ends", held.id, status)

    # The platform's methods for event loops, which return JSON

    async def AddTaskAsync(self) -> str:
        return await _in_thread(self.AddTask)

    async def GetTaskStatusAsync(self, taskId: str) -> str:
        return await _in_thread(self.GetTaskStatus, taskId)

    async def _UpdateTaskStatusAsync(self, taskId: str, status: Any, backendStatus: str, endpoint: str) -> str:
        return await _in_thread(self._UpdateTaskStatus, taskId, status, backendStatus)

    async def AddPipelineTaskAsync(self, taskId: str, next_endpoint: str, body: Any) -> str:
        version, organization, api = urlsplit(next_endpoint).path.strip("/").split("/", 2)
        return await _in_thread(self.AddPipelineTask, taskId, organization, version, api, body)


async def _in_thread(function: Callable[..., Task], *arguments: Any) -> str:
    return json.dumps(await asyncio.get_event_loop().run_in_executor(None, lambda: function(*arguments)))


def _text(value: Any) -> str | None:
    """A status or body as text. What is no text is told as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value)
