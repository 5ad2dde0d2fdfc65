"""The legacy clients. They know part A of docs/contract.md and nothing of this app.

A model service's task manager (A7), in the manner of the Python or of the R package, and the gateway (A8).
"""

import json
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

Style = Literal["python", "r"]


class CallFailed(Exception):
    """Raised for any answer but 200: the legacy clients accept no other."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"{response.status_code}: {response.text}")
        self.status = response.status_code


class TaskManager:
    """The task manager of a legacy model service (A7).

    Parameters:
        http: has no address and no key.
        upsert_url, get_url: whole URLs with their keys, ``…?code=KEY``.
        style: "python" posts an object; "r" a data frame, which is an array of one object.
    """

    def __init__(self, http: httpx.Client, upsert_url: str, get_url: str, style: Style) -> None:
        self._http = http
        self._upsert_url = upsert_url
        self._get_url = get_url
        self._style = style

    def get_task_status(self, task_id: str) -> dict[str, Any]:
        return _content(self._http.get(f"{self._get_url}&taskId={task_id}"))

    def add_task(self) -> dict[str, Any]:
        """Without a task id it posts no body at all."""
        return _content(self._http.post(self._upsert_url))

    def update_task_status(self, task_id: str, status: str) -> dict[str, Any]:
        return self._update(task_id, status, "running")

    def complete_task(self, task_id: str, status: str) -> dict[str, Any]:
        return self._update(task_id, status, "completed")

    def fail_task(self, task_id: str, status: str) -> dict[str, Any]:
        return self._update(task_id, status, "failed")

    def add_pipeline_task(
        self, task_id: str, organization: str, version: str, api: str, body: str | None = None
    ) -> dict[str, Any]:
        here = urlsplit(self.get_task_status(task_id)["Endpoint"])
        return self._upsert(
            {
                "TaskId": task_id,
                "Status": "created",
                "BackendStatus": "created",
                "Endpoint": f"{here.scheme}://{here.netloc}/{version}/{organization}/{api}",
                "Body": body,
                "PublishToGrid": True,
            }
        )

    def _update(self, task_id: str, status: str, backend_status: str) -> dict[str, Any]:
        return self._upsert(
            {
                "TaskId": task_id,
                "Status": status,
                "BackendStatus": backend_status,
                "Endpoint": self.get_task_status(task_id)["Endpoint"],
                "PublishToGrid": False,
            }
        )

    def _upsert(self, task: dict[str, Any]) -> dict[str, Any]:
        content = json.dumps([task] if self._style == "r" else task)
        headers = {"Content-Type": "application/json"}
        return _content(self._http.post(self._upsert_url, content=content, headers=headers))


class Gateway:
    """The API Management policies of the legacy platform (A8)."""

    def __init__(self, http: httpx.Client, upsert_url: str, get_url: str, backend_url: str) -> None:
        self._http = http
        self._upsert_url = upsert_url
        self._get_url = get_url
        self._backend_url = backend_url

    def make_task(self, path: str, body: str) -> dict[str, Any]:
        """The asynchronous operation of the model behind *path*."""
        task = {
            "Status": "created",
            "BackendStatus": "created",
            "Endpoint": self._backend_url + path,
            "Body": body,
            "PublishToGrid": True,
        }
        return _content(self._http.post(self._upsert_url, json=task))

    def task_status(self, task_id: str) -> httpx.Response:
        """``GET /taskmanagement/task/{taskId}``: the gateway passes the answer on unchanged."""
        return self._http.get(f"{self._get_url}&taskId={task_id}")


def _content(response: httpx.Response) -> dict[str, Any]:
    if response.status_code != 200:
        raise CallFailed(response)
    return response.json()
