"""This generator writes models only; the calls are made by hand."""

import httpx
from models import ConflictDocument, ProblemDocument, QueueDepth, TaskList, TaskView
from scenario import BASE_URL, KEY, Calls, run

http = httpx.Client(base_url=BASE_URL, headers={"x-functions-key": KEY}, timeout=60)


class Generated(Calls):
    def submit(self, path: str, body: bytes) -> str:
        task = TaskView.model_validate_json(http.post(f"/v1/submit/{path}", content=body).content)
        assert (task.Endpoint, task.ResultSize, task.Body) == (f"/{path}", None, None)
        return task.TaskId

    def wait(self, task_id: str, seconds: float) -> str:
        answer = http.get(f"/v1/tasks/{task_id}", params={"wait": seconds})
        return TaskView.model_validate_json(answer.content).BackendStatus.value

    def result(self, task_id: str) -> bytes:
        return http.get(f"/v1/tasks/{task_id}/result").content

    def list(self, path: str) -> list[str]:
        answer = http.get("/v1/tasks", params={"path": path, "status": "completed"})
        return [task.TaskId for task in TaskList.model_validate_json(answer.content).Tasks]

    def queue(self, path: str) -> tuple[int, int | None]:
        queue = QueueDepth.model_validate_json(http.get(f"/v1/queues/{path}").content)
        assert queue.Outage is None
        return queue.Completed, queue.Limit

    def conflict(self, task_id: str) -> tuple[int, str]:
        conflict = ConflictDocument.model_validate_json(http.delete(f"/v1/tasks/{task_id}").content)
        return conflict.status, conflict.Task.TaskId

    def unknown_queue(self, path: str) -> tuple[int, str]:
        problem = ProblemDocument.model_validate_json(http.get(f"/v1/queues/{path}").content)
        return problem.status, problem.detail


run(Generated())
