"""The model as a model service of the backbone: `python -m local.sample_model`."""

import io
import os
from importlib import import_module
from typing import Literal

from PIL import Image
from taskbackbone import Fail, Result, Task, TaskService
from threadpoolctl import threadpool_limits

from local.sample_model import LEGEND_PATH, SEGMENT_PATH
from local.sample_model.legend import MapDescription, add_legend, draw_legend
from local.sample_model.segmentation import CLASSES, STAGES, UnreadablePicture, open_picture, segment

service = TaskService(workers=int(os.environ.get("WORKERS", "1")))


@service.setup
def load() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # each worker computes on one core
    import_module("sklearn.cluster")  # else the first picture would have to wait for it
    threadpool_limits(1)


@service.task(SEGMENT_PATH, content_types=["image/jpeg", "image/png"], max_body_bytes=100 * 1024**2)
def segment_picture(body: bytes, task: Task, *, classes: int = 5, then: Literal["legend", ""] = "") -> Result:
    """Returns the map of a picture. With `then=legend`, the task goes on to get a legend."""
    if classes not in CLASSES:
        raise Fail(f"classes must be a number from {CLASSES.start} to {CLASSES.stop - 1}")

    def report(stage: str, done: float) -> None:
        task.progress((STAGES.index(stage) + done) / len(STAGES), f"{stage} {done:.0%}")

    try:
        found = segment(open_picture(body), classes, report)
    except UnreadablePicture as error:
        raise Fail(str(error)) from error
    if then == "legend":
        width, height = found.map.size
        task.next(LEGEND_PATH, MapDescription(width=width, height=height, classes=found.classes).model_dump())
    return picture(found.map, ", ".join(map(str, found.classes)))


@service.task(LEGEND_PATH, content_types=["application/json"])
def legend(body: MapDescription, task: Task) -> Result:
    """Returns the map of the step before with its legend; the legend alone, if there was no step before."""
    if task.previous_result is None:
        return picture(draw_legend(body), "legend")
    return picture(add_legend(Image.open(io.BytesIO(task.previous_result)), body), "map with legend")


def picture(image: Image.Image, status: str) -> Result:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return Result(encoded.getvalue(), "image/png", status)
