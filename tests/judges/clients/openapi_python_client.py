from io import BytesIO

from scenario import BASE_URL, KEY, Calls, run
from task_backbone_client import AuthenticatedClient
from task_backbone_client.api.queues_and_health import queue_depths
from task_backbone_client.api.results import get_task_result
from task_backbone_client.api.tasks import cancel_task, get_task, list_tasks, submit_task
from task_backbone_client.models import (
    ConflictDocument,
    ListTasksStatus,
    ProblemDocument,
    QueueDepth,
    TaskList,
    TaskView,
)
from task_backbone_client.types import File

client = AuthenticatedClient(BASE_URL, KEY, prefix="", auth_header_name="x-functions-key")


class Generated(Calls):
    def submit(self, path: str, body: bytes) -> str:
        task = submit_task.sync(path, client=client, body=File(BytesIO(body)))
        assert isinstance(task, TaskView)
        assert (task.endpoint, task.result_size, task.body) == (f"/{path}", None, None)
        return task.task_id

    def wait(self, task_id: str, seconds: float) -> str:
        task = get_task.sync(task_id, client=client, wait=seconds)
        assert isinstance(task, TaskView)
        return task.backend_status.value

    def result(self, task_id: str) -> bytes:
        file = get_task_result.sync(task_id, client=client)
        assert isinstance(file, File)
        return file.payload.read()

    def list(self, path: str) -> list[str]:
        page = list_tasks.sync(client=client, path=path, status=ListTasksStatus.COMPLETED)
        assert isinstance(page, TaskList)
        return [task.task_id for task in page.tasks]

    def queue(self, path: str) -> tuple[int, int | None]:
        queue = queue_depths.sync(path, client=client)
        assert isinstance(queue, QueueDepth)
        assert queue.outage is None
        return queue.completed, queue.limit

    def conflict(self, task_id: str) -> tuple[int, str]:
        conflict = cancel_task.sync(task_id, client=client)
        assert isinstance(conflict, ConflictDocument)
        return conflict.status, conflict.task.task_id

    def unknown_queue(self, path: str) -> tuple[int, str]:
        problem = queue_depths.sync(path, client=client)
        assert isinstance(problem, ProblemDocument)
        return problem.status, problem.detail


run(Generated())
