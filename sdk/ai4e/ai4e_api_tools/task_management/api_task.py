"""The task manager of the AI for Earth images.

With ``CACHE_CONNECTOR_UPSERT_URI`` it reports to the task backbone; without it, as on a developer's machine, it keeps
the tasks in ``task_status.json`` in the folder ``LOCAL_BLOB_TEST_DIRECTORY``, so that all processes of a service see
them, or in memory if nothing can be written there. In both cases a task is a dict with at least ``TaskId``,
``Status``, ``Timestamp`` and ``Endpoint``.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import uuid
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from http.client import HTTPException
from typing import Any, Dict, Iterator, TextIO
from urllib.request import Request

from flask import request as flask_request
from flask.views import MethodView

from task_management.calls import open_url
from task_management.distributed_api_task import DistributedApiTaskManager
from task_management.held_tasks import task_id_of

_MOST_KEPT = 10000
_PIPELINE_TIMEOUT_S = 60.0
LOCAL_BLOB_TEST_DIRECTORY = os.environ.get("LOCAL_BLOB_TEST_DIRECTORY", ".")

logger = logging.getLogger("ai4e")


class TaskManager:
    """Creates tasks and reports on them. A report returns the task."""

    def __init__(self) -> None:
        self.distributed_api_task: Any = (
            DistributedApiTaskManager() if os.environ.get("CACHE_CONNECTOR_UPSERT_URI", "").strip() else _LocalTasks()
        )

    def GetTaskId(self) -> str:
        return str(uuid.uuid4())

    def AddTask(self, request: Any) -> Dict[str, Any]:
        """The task that *request* dispatches, or a new one."""
        return self.distributed_api_task.AddTask(request)

    def UpdateTaskStatus(self, taskId: str, status: Any) -> Dict[str, Any]:
        return self.distributed_api_task.UpdateTaskStatus(taskId, status)

    def CompleteTask(self, taskId: str, status: Any) -> Dict[str, Any]:
        return self.distributed_api_task.CompleteTask(taskId, status)

    def FailTask(self, taskId: str, status: Any) -> Dict[str, Any]:
        return self.distributed_api_task.FailTask(taskId, status)

    def AddPipelineTask(self, taskId: str, organization_moniker: str, version: str, api_name: str, body: Any) -> Any:
        """Send the task on to ``/version/organization_moniker/api_name``."""
        return self.distributed_api_task.AddPipelineTask(taskId, organization_moniker, version, api_name, body)

    def GetTaskStatus(self, taskId: str) -> Dict[str, Any]:
        return self.distributed_api_task.GetTaskStatus(taskId)


class ApiTaskManager(TaskManager):
    """A task manager of 2019, with a resource at ``/task/<id>`` of a Flask-RESTful ``Api``, or of an app."""

    def __init__(self, flask_api: Any, resource_prefix: str = "") -> None:
        super().__init__()
        self.resource_pfx = resource_prefix
        rule = resource_prefix + "/task/<id>"
        if hasattr(flask_api, "add_resource"):
            flask_api.add_resource(Task, rule, resource_class_kwargs={"task_manager": self})
        else:
            flask_api.add_url_rule(rule, view_func=Task.as_view("task", task_manager=self))


class Task(MethodView):
    """What callers of the service itself see of a task."""

    def __init__(self, **kwargs: Any) -> None:
        self.task_mgr: TaskManager = kwargs.get("task_manager") or kwargs["distributed_api_task"]

    def get(self, id: str) -> Dict[str, Any]:
        task = self.task_mgr.GetTaskStatus(str(id))
        return {name: task.get(name, "") for name in ("TaskId", "Status", "Timestamp", "Endpoint")}


class _LocalTasks:
    """Tasks of a service that runs alone."""

    def __init__(self) -> None:
        self.task_status_json_path = os.path.join(LOCAL_BLOB_TEST_DIRECTORY, "task_status.json")
        self.status_dict: Dict[str, Dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._is_shared = True

    def AddTask(self, request: Any) -> Dict[str, Any]:
        headers = getattr(request, "headers", {})
        task_id = task_id_of(headers.get("taskId") or str(uuid.uuid4()), None)
        task = {"TaskId": task_id, "Status": "created", "Timestamp": _now(), "Endpoint": getattr(request, "path", "")}
        with self._tasks() as tasks:
            tasks.pop(task_id, None)
            tasks[task_id] = dict(task)
        return task

    def UpdateTaskStatus(self, taskId: str, status: Any) -> Dict[str, Any]:
        with self._tasks() as tasks:
            if taskId not in tasks:
                raise ValueError(
                    f'taskId "{taskId}" is not found. Decorate your endpoint with an ai4e_service decorator or call '
                    "AddTask(request) before UpdateTaskStatus."
                )
            tasks[taskId].update(Status=status, Timestamp=_now())
            return dict(tasks[taskId])

    def CompleteTask(self, taskId: str, status: Any) -> Dict[str, Any]:
        return self.UpdateTaskStatus(taskId, status)

    def FailTask(self, taskId: str, status: Any) -> Dict[str, Any]:
        return self.UpdateTaskStatus(taskId, status)

    def GetTaskStatus(self, taskId: str) -> Dict[str, Any]:
        with self._tasks() as tasks:
            missing = {"TaskId": taskId, "Status": "Not found.", "Timestamp": _now(), "Endpoint": ""}
            return dict(tasks.get(taskId, missing))

    def AddPipelineTask(self, taskId: str, organization_moniker: str, version: str, api_name: str, body: Any) -> Any:
        """Call the next service at ``LOCAL_NEXT_API_HOST_IN_PIPELINE``; returns 200 if it takes the call."""
        host = os.environ.get("LOCAL_NEXT_API_HOST_IN_PIPELINE", "")
        url = "/".join([*([host] if host else []), version, organization_moniker, api_name])
        text = body if isinstance(body, (str, bytes)) else json.dumps(body)
        try:
            data = text.encode() if isinstance(text, str) else text
            with open_url(Request(url, data, _passed_on()), _PIPELINE_TIMEOUT_S) as answer:
                if answer.status == 200:
                    return answer.status
        except (OSError, HTTPException, ValueError) as error:
            logger.info("%s was not reached: %s", url, error)
        told = "Pipelining is not supported in a single node deployment, but the next service is: " + url
        self.UpdateTaskStatus(taskId, told)
        return told

    @contextmanager
    def _tasks(self) -> Iterator[Dict[str, Dict[str, Any]]]:
        """All tasks, by id; what is changed in them is kept."""
        with self._lock, ExitStack() as stack:
            if self._is_shared:
                try:
                    lock = stack.enter_context(open(self.task_status_json_path + ".lock", "a"))
                except OSError as error:
                    logger.warning("tasks are kept in memory, and each process has its own: %s", error)
                    self._is_shared = False
                else:
                    _lock_file(lock)
            tasks = self._read() if self._is_shared else self.status_dict
            before = json.dumps(tasks) if self._is_shared else ""
            yield tasks
            _forget_oldest(tasks)
            if self._is_shared and json.dumps(tasks) != before:
                self._write(tasks)

    def _read(self) -> Dict[str, Dict[str, Any]]:
        try:
            with open(self.task_status_json_path) as file:
                return {task["TaskId"]: task for task in json.load(file)}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s is begun anew: %s", self.task_status_json_path, error)
            return {}

    def _write(self, tasks: Dict[str, Dict[str, Any]]) -> None:
        folder, name = os.path.split(os.path.abspath(self.task_status_json_path))
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=name, delete=False) as file:
            json.dump(list(tasks.values()), file)
        os.replace(file.name, self.task_status_json_path)  # a reader never sees half of it


def _lock_file(file: TextIO) -> None:
    """Keeps other processes out until the file is closed."""
    try:
        import fcntl
    except ImportError:
        return  # on Windows a service has one process
    fcntl.flock(file, fcntl.LOCK_EX)


def _forget_oldest(tasks: Dict[str, Dict[str, Any]]) -> None:
    for task_id in list(tasks)[: max(0, len(tasks) - _MOST_KEPT)]:
        del tasks[task_id]


def _passed_on() -> Dict[str, str]:
    """The content type of the request at hand, if there is one; else JSON."""
    return {"Content-Type": (flask_request.content_type if flask_request else None) or "application/json"}


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
