"""The sample model: it distinguishes regions, and it behaves as a model service of the backbone."""

import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from local.processes import ChildProcess, LocalStackError
from local.sample_model import segmentation
from local.sample_model.legend import MapDescription, add_legend, draw_legend
from local.sample_model.pictures import Picture, photograph, sample_pictures
from local.sample_model.segmentation import LandClass, UnreadablePicture, open_picture, segment
from tests.local.fake_backbone import KEY, FakeBackbone, running_backbone
from tests.waiting import PATIENCE_S, eventually

PICTURES = ("china.jpg", "flower.jpg", "china.png", "china-roofs.png", "flower-large.png")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SEGMENT, LEGEND = "/v1/landcover/segment", "/v1/landcover/legend"


def encoded(image: Image.Image, kind: str) -> bytes:
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def png(image: Image.Image) -> bytes:
    return encoded(image, "PNG")


@cache
def pictures() -> dict[str, Picture]:
    return {picture.name: picture for picture in sample_pictures()}


PHOTO = photograph("china.jpg").read_bytes()


def china() -> bytes:
    """The photo, so small that the model takes a moment."""
    photo = open_picture(PHOTO)
    photo.thumbnail((160, 160))
    return encoded(photo, "JPEG")


CHINA = china()
CHINA_SIZE = (160, 107)
STAGES = ["features", "clustering", "labels", "smoothing"]


Colour = tuple[int, int, int]


def two_halves(left: Colour, right: Colour, roughness: tuple[float, float]) -> Image.Image:
    """200 x 120 pixels: each half has one colour with its own strength of Gaussian noise."""
    pixels = np.zeros((120, 200, 3))
    noise = np.random.default_rng(1).normal(size=(120, 200, 1))
    for half, colour, strength in ((np.s_[:, :100], left, roughness[0]), (np.s_[:, 100:], right, roughness[1])):
        pixels[half] = np.array(colour) + strength * noise[half]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(two_halves((40, 110, 50), (60, 90, 170), (12, 12)), id="by colour"),
        pytest.param(two_halves((120, 120, 120), (120, 120, 120), (0, 40)), id="by texture"),
    ],
)
def test_two_regions_get_different_classes(picture: Image.Image) -> None:
    labels = np.asarray(segment(picture, 2).map)
    left, right = np.bincount(labels[:, :90].ravel()).argmax(), np.bincount(labels[:, 110:].ravel()).argmax()
    assert left != right
    assert (labels[:, :90] == left).mean() > 0.99
    assert (labels[:, 110:] == right).mean() > 0.99


@pytest.mark.parametrize("name", PICTURES)
def test_map_has_the_picture_size_and_shares_count_its_pixels(name: str) -> None:
    picture = open_picture(pictures()[name].data)
    picture.thumbnail((320, 320))
    found = segment(picture, 6)
    assert found.map.size == picture.size
    assert sum(land_class.share for land_class in found.classes) == pytest.approx(1)
    assert [land_class.number for land_class in found.classes] == [1, 2, 3, 4, 5, 6]
    assert len({land_class.map_colour for land_class in found.classes}) == 6
    shares = [land_class.share for land_class in found.classes]
    assert shares == sorted(shares, reverse=True)
    drawn = np.asarray(found.map.convert("RGB"))
    for land_class in found.classes:
        colour = np.array(list(bytes.fromhex(land_class.map_colour[1:])))
        assert (drawn == colour).all(axis=-1).mean() == pytest.approx(land_class.share)


def test_same_picture_gives_the_same_map() -> None:
    picture = open_picture(CHINA)
    first, second = segment(picture, 5), segment(picture, 5)
    assert png(first.map) == png(second.map)
    assert first.classes == second.classes


def test_class_is_named_after_its_mean_colour() -> None:
    classes = segment(two_halves((30, 70, 34), (160, 196, 228), (3, 3)), 2).classes
    assert {land_class.colour for land_class in classes} == {"dark green", "light blue"}
    assert str(replace(classes[0], colour="dark green", share=0.306)) == "class 1 (dark green) 31 %"


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_a_tiny_or_plain_picture_has_fewer_classes(size: tuple[int, int]) -> None:
    found = segment(Image.new("RGB", size, "olive"), 4)
    assert found.map.size == size
    assert [(land_class.colour, land_class.share) for land_class in found.classes] == [("olive", 1.0)]


def test_progress_goes_from_stage_to_stage() -> None:
    reported: list[tuple[str, float]] = []
    segment(two_halves((40, 110, 50), (60, 90, 170), (12, 12)), 3, lambda stage, done: reported.append((stage, done)))
    assert list(dict.fromkeys(stage for stage, _ in reported)) == STAGES
    assert len(reported) > 8


def test_large_picture_is_scaled_down_and_rotated_one_set_upright() -> None:
    large = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    Image.new("RGB", (3200, 1600)).save(large, "JPEG", exif=exif)
    assert open_picture(large.getvalue()).size == (800, 1600)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_every_png_colour_mode_is_read(mode: str) -> None:
    picture = open_picture(png(Image.new(mode, (10, 20))))
    assert (picture.mode, picture.size) == ("RGB", (10, 20))


@pytest.mark.parametrize(
    "data",
    [
        b"no picture",
        b"",
        pytest.param(PHOTO[:5000], id="half a JPEG"),
        pytest.param(png(open_picture(PHOTO).crop((0, 0, 200, 200)))[:5000], id="half a PNG"),
    ],
)
def test_data_that_is_not_a_picture_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadablePicture, match="not a readable JPEG or PNG"):
        open_picture(data)


def test_picture_with_too_many_pixels_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "MAX_PICTURE_PX", 640 * 427 - 1)
    with pytest.raises(UnreadablePicture, match="megapixels"):
        open_picture(PHOTO)


def test_sample_pictures_are_photos_of_realistic_size() -> None:
    shipped = files("sklearn.datasets.images")
    for name in ("china.jpg", "flower.jpg"):
        assert pictures()[name].data == shipped.joinpath(name).read_bytes()
    assert tuple(pictures()) == PICTURES
    for picture in pictures().values():
        assert len(picture.data) > 64 * 1024
        image = Image.open(io.BytesIO(picture.data))
        assert picture.content_type == Image.MIME[image.format or ""]


def test_a_legend_is_drawn_below_the_map_once() -> None:
    classes = [LandClass(1, "green", "#4d8a3a", 0.75), LandClass(2, "blue", "#3a6ab5", 0.25)]
    described = MapDescription(640, 100, classes)
    legend = draw_legend(described)
    assert legend.width == 640
    assert {(0x4D, 0x8A, 0x3A), (0x3A, 0x6A, 0xB5)} <= {colour for _, colour in legend.getcolors() or ()}
    with_legend = add_legend(Image.new("RGB", (640, 100), "#4d8a3a"), described)
    assert with_legend.size == (640, 100 + legend.height)
    assert png(add_legend(with_legend, described)) == png(with_legend)


# The service, over HTTP


@pytest.fixture(scope="module")
def module_backbone() -> Iterator[FakeBackbone]:
    with running_backbone() as backbone:
        yield backbone


def service_process(backbone: FakeBackbone, log_path: Path) -> ChildProcess:
    return ChildProcess(
        "The sample model",
        [sys.executable, "-m", "local.sample_model", "--port", "0"],
        log_path=log_path,
        environment={
            "CACHE_CONNECTOR_UPSERT_URI": f"{backbone.url}/api/CacheConnectorUpsert?code={KEY}",
            "CACHE_CONNECTOR_GET_URI": f"{backbone.url}/api/CacheConnectorGet?code={KEY}",
            "REQUEST_REPORTER_URI": f"{backbone.url}/api/CurrentProcessingUpsert?code={KEY}",
            "BACKBONE_URL": backbone.url,
            "BACKBONE_KEY": KEY,
        },
    )


@pytest.fixture(scope="module")
def service(module_backbone: FakeBackbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service that works on one request at a time."""
    process = service_process(module_backbone, tmp_path_factory.mktemp("model") / "model.log")
    with process, httpx.Client(base_url=process.url, timeout=PATIENCE_S) as client:
        yield client
        assert KEY not in process.log_path.read_text()


@pytest.fixture
def backbone(module_backbone: FakeBackbone, service: httpx.Client) -> FakeBackbone:
    """The backbone without any tasks, once the service is idle."""
    wait_until_idle(service)
    for record in (module_backbone.updates, module_backbone.in_flight_reports, module_backbone.traceparents):
        record.clear()
    return module_backbone


def wait_until_idle(service: httpx.Client) -> None:
    eventually(lambda: not service.get("/health").raise_for_status().json()["InFlight"])


def dispatch(
    service: httpx.Client, path: str, task_id: str, *, attempt: int | None = 1, data: bytes | str, content_type: str
) -> httpx.Response:
    """Posts a task like the backbone."""
    headers = {"taskId": task_id, "traceparent": TRACEPARENT, "Content-Type": content_type}
    if attempt is not None:
        headers["X-Task-Attempt"] = str(attempt)
    return service.post(path, content=data, headers=headers)


SMALL = png(two_halves((40, 110, 50), (60, 90, 170), (12, 12)))


def test_request_without_a_task_is_answered_with_the_map(service: httpx.Client, backbone: FakeBackbone) -> None:
    response = service.post(f"{SEGMENT}?classes=3", content=CHINA, headers={"Content-Type": "image/jpeg"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == CHINA_SIZE
    classes = json.loads(response.headers["x-class-shares"])
    assert [set(found) for found in classes] == [{"Number", "Colour", "MapColour", "Share"}] * 3
    assert sum(found["Share"] for found in classes) == pytest.approx(1)
    assert backbone.updates == []


def test_dispatched_task_is_accepted_reported_stored_and_completed(
    service: httpx.Client, backbone: FakeBackbone
) -> None:
    backbone.add_task("whole", endpoint := f"{service.base_url}{SEGMENT}")
    response = dispatch(service, f"{SEGMENT}?classes=4", "whole", attempt=3, data=CHINA, content_type="image/jpeg")
    assert (response.status_code, response.json()) == (200, {"TaskId": "whole"})

    task = backbone.wait_until_status("whole", "completed")
    assert re.fullmatch(r"completed - (class \d \([a-z ]+\) \d+ %(, )?){4}", task["Status"])
    assert Image.open(io.BytesIO(backbone.results["whole"])).size == CHINA_SIZE
    stored_with = backbone.result_headers["whole"]
    assert (stored_with["content-type"], stored_with["x-task-attempt"]) == ("image/png", "3")

    first, *progress, _ = [update["Status"] for update in backbone.updates]
    assert first == "running"
    # What is over before it can be reported is left out.
    stages = [re.fullmatch(r"running - (\w+) \d+%", status)[1] for status in progress]
    assert stages == sorted(stages, key=STAGES.index)
    for update in backbone.updates:
        assert update.keys() == {
            "TaskId", "Timestamp", "Status", "BackendStatus", "Endpoint", "PublishToGrid", "Attempt",
        }  # fmt: skip
        assert (update["Endpoint"], update["PublishToGrid"], update["Attempt"]) == (endpoint, False, 3)
    assert backbone.traceparents == {TRACEPARENT}


def test_reports_name_no_attempt_if_the_dispatch_named_none(service: httpx.Client, backbone: FakeBackbone) -> None:
    backbone.add_task("unnumbered", f"{service.base_url}{SEGMENT}")
    dispatch(service, SEGMENT, "unnumbered", attempt=None, data=CHINA, content_type="image/jpeg")
    backbone.wait_until_status("unnumbered", "completed")
    assert all("Attempt" not in update for update in backbone.updates)
    assert "x-task-attempt" not in backbone.result_headers["unnumbered"]


def test_busy_service_refuses_other_tasks_and_ignores_a_duplicate_dispatch(
    service: httpx.Client, backbone: FakeBackbone
) -> None:
    backbone.add_task("first", f"{service.base_url}{SEGMENT}")
    backbone.gate.clear()
    try:
        assert dispatch(service, SEGMENT, "first", data=CHINA, content_type="image/jpeg").status_code == 200
        assert dispatch(service, SEGMENT, "first", data=CHINA, content_type="image/jpeg").status_code == 200
        refused = dispatch(service, SEGMENT, "second", data=CHINA, content_type="image/jpeg")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert service.get("/health").json() == {"InFlight": 1, "MaxConcurrent": 1}
    finally:
        backbone.gate.set()
    backbone.wait_until_status("first", "completed")
    wait_until_idle(service)
    assert [update["BackendStatus"] for update in backbone.updates].count("completed") == 1


def test_a_revoked_task_is_dropped_at_once(service: httpx.Client, backbone: FakeBackbone) -> None:
    backbone.add_task("revoked", f"{service.base_url}{SEGMENT}")
    backbone.revoked.add("revoked")
    dispatch(service, SEGMENT, "revoked", data=CHINA, content_type="image/jpeg")
    backbone.wait_until(lambda: bool(backbone.updates))
    wait_until_idle(service)
    assert [update["Status"] for update in backbone.updates] == ["running"]
    assert "revoked" not in backbone.results


def test_a_task_revoked_while_it_is_computed_is_dropped(service: httpx.Client, backbone: FakeBackbone) -> None:
    backbone.add_task("late", f"{service.base_url}{SEGMENT}")
    large = pictures()["flower-large.png"]
    dispatch(service, SEGMENT, "late", data=large.data, content_type=large.content_type)
    backbone.wait_until(lambda: len(backbone.updates) == 2)
    backbone.revoked.add("late")
    wait_until_idle(service)
    assert {update["BackendStatus"] for update in backbone.updates} == {"running"}
    assert "late" not in backbone.results


def test_an_unknown_task_is_dropped(service: httpx.Client, backbone: FakeBackbone) -> None:
    assert dispatch(service, SEGMENT, "unknown", data=CHINA, content_type="image/jpeg").status_code == 200
    wait_until_idle(service)
    assert backbone.updates == []


def test_body_that_is_not_a_picture_fails_the_task(service: httpx.Client, backbone: FakeBackbone) -> None:
    backbone.add_task("broken", f"{service.base_url}{SEGMENT}")
    assert dispatch(service, SEGMENT, "broken", data=b"scrambled", content_type="image/png").status_code == 200
    task = backbone.wait_until_status("broken", "failed")
    assert task["Status"] == "failed - the body is not a readable JPEG or PNG picture"


@pytest.mark.parametrize(
    ("query", "content_type", "detail"),
    [
        ("", "application/json", "The body must be one of image/jpeg, image/png."),
        ("?classes=1", "image/png", "classes must be a number from 2 to 12."),
        ("?classes=13", "image/png", "classes must be a number from 2 to 12."),
        ("?classes=many", "image/png", "classes must be a number from 2 to 12."),
        ("?then=lunch", "image/png", "then must be legend, or absent."),
    ],
)
def test_invalid_request_is_400(
    service: httpx.Client, backbone: FakeBackbone, query: str, content_type: str, detail: str
) -> None:
    response = dispatch(service, SEGMENT + query, "senseless", data=b"x", content_type=content_type)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {"title": "Bad Request", "status": 400, "detail": detail}
    wait_until_idle(service)
    assert backbone.updates == []


@pytest.mark.usefixtures("backbone")
def test_unreadable_picture_without_a_task_is_refused(service: httpx.Client) -> None:
    response = service.post(SEGMENT, content=b"scrambled", headers={"Content-Type": "image/png"})
    assert response.status_code == 400
    assert "not a readable JPEG or PNG" in response.json()["detail"]


def test_updates_are_repeated_until_the_backbone_accepts_them(service: httpx.Client, backbone: FakeBackbone) -> None:
    backbone.add_task("patient", f"{service.base_url}{SEGMENT}")
    backbone.upsert_failures.extend([503, 500, 429])
    dispatch(service, SEGMENT, "patient", data=CHINA, content_type="image/jpeg")
    backbone.wait_until_status("patient", "completed")
    assert not backbone.upsert_failures


def test_a_refused_update_drops_the_task(service: httpx.Client, backbone: FakeBackbone) -> None:
    backbone.add_task("refused", f"{service.base_url}{SEGMENT}")
    backbone.upsert_failures.append(400)
    dispatch(service, SEGMENT, "refused", data=CHINA, content_type="image/jpeg")
    wait_until_idle(service)
    assert backbone.updates == []


def test_requests_in_flight_are_reported(service: httpx.Client, backbone: FakeBackbone) -> None:
    backbone.add_task("counted", f"{service.base_url}{SEGMENT}")
    dispatch(service, SEGMENT, "counted", data=CHINA, content_type="image/jpeg")
    backbone.wait_until(lambda: len(backbone.in_flight_reports) == 2)
    assert backbone.in_flight_reports == [
        {"ApiPath": SEGMENT, "ServiceCluster": "local", "IncrementBy": 1},
        {"ApiPath": SEGMENT, "ServiceCluster": "local", "DecrementBy": 1},
    ]


def test_pipeline_adds_the_legend_in_a_second_step(service: httpx.Client, backbone: FakeBackbone) -> None:
    backbone.add_task("pipeline", f"{service.base_url}{SEGMENT}")
    dispatch(
        service, f"{SEGMENT}?then=legend&classes=4", "pipeline", attempt=1, data=PHOTO, content_type="image/jpeg"
    )
    backbone.wait_until(lambda: "Body" in backbone.tasks["pipeline"])
    hop = backbone.tasks["pipeline"]
    assert (hop["Endpoint"], hop["PublishToGrid"], hop["Attempt"]) == (f"{service.base_url}{LEGEND}", True, 1)
    described = json.loads(hop["Body"])
    assert (described["Width"], described["Height"], len(described["Classes"])) == (640, 427, 4)
    wait_until_idle(service)

    dispatch(service, LEGEND, "pipeline", attempt=2, data=hop["Body"], content_type="application/json")
    assert backbone.wait_until_status("pipeline", "completed")["Status"] == "completed - map with legend"
    width, height = Image.open(io.BytesIO(backbone.results["pipeline"])).size
    assert width == 640
    assert height > 427


@pytest.mark.usefixtures("backbone")
def test_legend_request_without_a_task_is_answered_with_the_drawn_legend(service: httpx.Client) -> None:
    land_class = {"Number": 1, "Colour": "red", "MapColour": "#c8302a", "Share": 1}
    response = service.post(LEGEND, json={"Width": 300, "Height": 10, "Classes": [land_class]})
    assert Image.open(io.BytesIO(response.content)).width == 300
    assert service.post(LEGEND, json={"Width": 300}).status_code == 400


def test_a_result_over_the_backbones_limit_fails_the_task_and_is_not_sent(tmp_path: Path) -> None:
    with running_backbone() as backbone:
        backbone.max_body_bytes = 100
        process = service_process(backbone, tmp_path / "model.log")
        with process, httpx.Client(base_url=process.url, timeout=PATIENCE_S) as service:
            backbone.add_task("large", f"{service.base_url}{SEGMENT}")
            dispatch(service, SEGMENT, "large", data=CHINA, content_type="image/jpeg")
            task = backbone.wait_until_status("large", "failed")
        assert "at most 100 are taken" in task["Status"]
        assert backbone.results == {}


def test_service_finishes_its_work_when_stopped(module_backbone: FakeBackbone, tmp_path: Path) -> None:
    process = service_process(module_backbone, tmp_path / "model.log")
    process.start()
    with httpx.Client(base_url=process.url, timeout=PATIENCE_S) as client:
        # The first picture loads the libraries, which takes long on an overloaded machine.
        assert client.post(SEGMENT, content=SMALL, headers={"Content-Type": "image/png"}).status_code == 200
        module_backbone.add_task("last", f"{process.url}{SEGMENT}")
        assert dispatch(client, SEGMENT, "last", data=SMALL, content_type="image/png").status_code == 200
    assert process.stop() == 0
    assert module_backbone.tasks["last"]["BackendStatus"] == "completed"


def test_service_does_not_start_without_the_backbone_addresses(module_backbone: FakeBackbone, tmp_path: Path) -> None:
    process = ChildProcess(
        "The sample model",
        [sys.executable, "-m", "local.sample_model", "--port", "0"],
        log_path=tmp_path / "model.log",
    )
    with pytest.raises(LocalStackError, match="CACHE_CONNECTOR_UPSERT_URI is not set"):
        process.start()
