"""Ours: the same function as a task service, called directly."""

from __future__ import annotations

from taskbackbone import TaskService

service = TaskService()


@service.task("/v1/hello")
def hello(body: str) -> dict:
    return {"characters": len(body)}


service.run()
