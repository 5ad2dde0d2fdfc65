"""NAME: the mean of a list of numbers, in place of a model."""

from taskbackbone import Fail, Task, TaskService

service = TaskService(workers=1)


@service.setup
def load() -> None:
    """Load the model here: each worker calls this once, and the service is ready afterwards."""


@service.task("/v1/NAME/predict", content_types=["application/json"])
def predict(body: list[float], task: Task, *, scale: float = 1.0) -> dict[str, float]:
    if not body:
        raise Fail("the list is empty")
    task.progress(0.5, "predicting")
    return {"mean": scale * sum(body) / len(body)}


if __name__ == "__main__":
    service.run()
