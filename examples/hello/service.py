"""Counts the words of a text: the service of the README."""

from taskbackbone import Task, TaskService

service = TaskService()


@service.task("/v1/words/count", content_types=["text/plain"])
def count(body: str, task: Task, *, least: int = 1) -> dict:
    task.progress(0.5, "counting")
    return {"words": sum(len(word) >= least for word in body.split())}


service.run()
