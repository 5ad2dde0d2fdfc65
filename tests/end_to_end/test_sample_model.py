"""The whole stack with the real sample model, which is a service of the SDK."""

from __future__ import annotations

import io

import httpx
import pytest
from PIL import Image

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.sample_model import LEGEND_PATH, SEGMENT_PATH
from local.sample_model.pictures import sample_pictures
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.end_to_end.backbone import Backbone
from tests.waiting import PATIENCE_S, eventually


def test_sample_model_segments_a_picture_and_adds_a_legend_in_a_second_step(
    tmp_path_factory: pytest.TempPathFactory, azurite: Azurite
) -> None:
    picture = next(picture for picture in sample_pictures() if picture.name == "rocket.jpg")
    with (
        RedisServer(tmp_path_factory.mktemp("redis")) as redis,
        Stack(tmp_path_factory.mktemp("stack"), redis=redis, azurite=azurite, settings=IN_A_HURRY) as stack,
        stack.client() as http,
    ):
        backbone = Backbone(http)
        task_id = backbone.submit(f"{SEGMENT_PATH}?classes=4&then=legend", picture.data, picture.content_type)
        refused_id = backbone.submit(SEGMENT_PATH, b"no picture at all", "text/plain")

        ended = backbone.ended(task_id, within_s=3 * PATIENCE_S)  # it computes
        refused = backbone.ended(refused_id)

        assert (ended["BackendStatus"], ended["Status"]) == ("completed", "completed - map with legend")
        assert (ended["EndpointPath"], ended["Attempt"]) == (LEGEND_PATH, backbone.history(task_id)[-1]["Attempt"])
        assert (backbone.depth(SEGMENT_PATH), backbone.depth(LEGEND_PATH)) == ({"Failed": 1}, {"Completed": 1})
        reason = "Failed - the backend answered 415: The body must be image/jpeg or image/png."
        assert (refused["BackendStatus"], refused["Status"]) == ("failed", reason)
        result = http.get(f"/api/v1/tasks/{task_id}/result")
        original, drawn = Image.open(io.BytesIO(picture.data)), Image.open(io.BytesIO(result.content))
        assert result.headers["content-type"] == "image/png"
        assert drawn.width * drawn.height > original.width * original.height, "the legend is beside the map"

        assert stack.model is not None
        direct = httpx.post(
            f"{stack.model.url}{SEGMENT_PATH}",
            content=picture.data,
            headers={"Content-Type": picture.content_type},
            timeout=PATIENCE_S,
        )
        assert Image.open(io.BytesIO(direct.content)).size == original.size
        count = {"cluster": "local", "path": SEGMENT_PATH}
        eventually(lambda: http.get("/api/CurrentProcessingGet", params=count).text == "0")
