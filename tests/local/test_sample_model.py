"""The sample model: it distinguishes regions, and it behaves as a model service of the backbone."""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import combinations

import httpx
import numpy as np
import pytest
from PIL import Image
from taskbackbone.testing import PlayedBackbone

from local.sample_model import segmentation
from local.sample_model.legend import MapDescription, add_legend, draw_legend
from local.sample_model.pictures import Picture, photograph, sample_pictures
from local.sample_model.segmentation import STAGES, FoundClass, UnreadablePicture, open_picture, segment
from local.stack import ROOT
from tests.waiting import PATIENCE_S, eventually

PICTURES = ("china.jpg", "flower.jpg", "coffee.png", "chelsea.png", "rocket.jpg")
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


@cache
def large() -> bytes:
    """The photo, so large that the model takes its time."""
    return png(open_picture(PHOTO).resize((1920, 1281)))


CHINA = china()
CHINA_SIZE = (160, 107)


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
    assert sum(found_class.share for found_class in found.classes) == pytest.approx(1)
    assert [found_class.number for found_class in found.classes] == [1, 2, 3, 4, 5, 6]
    assert len({found_class.map_colour for found_class in found.classes}) == 6
    shares = [found_class.share for found_class in found.classes]
    assert shares == sorted(shares, reverse=True)
    drawn = np.asarray(found.map.convert("RGB"))
    for found_class in found.classes:
        colour = np.array(list(bytes.fromhex(found_class.map_colour[1:])))
        assert (drawn == colour).all(axis=-1).mean() == pytest.approx(found_class.share)


def test_same_picture_gives_the_same_map() -> None:
    picture = open_picture(CHINA)
    first, second = segment(picture, 5), segment(picture, 5)
    assert png(first.map) == png(second.map)
    assert first.classes == second.classes


def test_class_is_named_after_its_mean_colour() -> None:
    classes = segment(two_halves((30, 70, 34), (160, 196, 228), (3, 3)), 2).classes
    assert {found_class.colour for found_class in classes} == {"dark green", "light blue"}
    assert str(replace(classes[0], colour="dark green", share=0.306)) == "class 1 (dark green) 31 %"


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_a_tiny_or_plain_picture_has_fewer_classes(size: tuple[int, int]) -> None:
    found = segment(Image.new("RGB", size, "olive"), 4)
    assert found.map.size == size
    assert [(found_class.colour, found_class.share) for found_class in found.classes] == [("olive", 1.0)]


def test_progress_goes_from_stage_to_stage() -> None:
    reported: list[tuple[str, float]] = []
    segment(two_halves((40, 110, 50), (60, 90, 170), (12, 12)), 3, lambda stage, done: reported.append((stage, done)))
    assert list(dict.fromkeys(stage for stage, _ in reported)) == list(STAGES)
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


def test_sample_pictures_are_five_different_photos() -> None:
    shipped = dict.fromkeys(PICTURES[:2], files("sklearn") / "datasets" / "images")
    shipped |= dict.fromkeys(PICTURES[2:], files("skimage") / "data")
    assert tuple(pictures()) == PICTURES
    small = [np.asarray(open_picture(picture.data).resize((8, 8)), dtype=float) for picture in pictures().values()]
    for one, other in combinations(small, 2):
        assert np.abs(one - other).mean() > 20, "one is a copy or a part of the other"
    for name, folder in shipped.items():
        data, original = pictures()[name].data, folder.joinpath(name).read_bytes()
        assert data == original or open_picture(data).size[0] == 1600 > open_picture(original).size[0]
    for picture in pictures().values():
        assert len(picture.data) > 64 * 1024
        image = Image.open(io.BytesIO(picture.data))
        assert picture.content_type == Image.MIME[image.format or ""]


def test_a_legend_is_drawn_below_the_map_once() -> None:
    classes = [FoundClass(1, "green", "#4d8a3a", 0.75), FoundClass(2, "blue", "#3a6ab5", 0.25)]
    described = MapDescription(width=640, height=100, classes=classes)
    legend = draw_legend(described)
    assert legend.width == 640
    assert {(0x4D, 0x8A, 0x3A), (0x3A, 0x6A, 0xB5)} <= {colour for _, colour in legend.getcolors() or ()}
    with_legend = add_legend(Image.new("RGB", (640, 100), "#4d8a3a"), described)
    assert with_legend.size == (640, 100 + legend.height)
    assert png(add_legend(with_legend, described)) == png(with_legend)


# The service, over HTTP


@contextmanager
def serving(backbone: PlayedBackbone) -> Iterator[httpx.Client]:
    """A client of the service, which has one worker."""
    command = [sys.executable, "-m", "local.sample_model"]
    environment = {"SERVICE_CLUSTER": "local"}
    with (
        backbone.start(command, environment=environment, cwd=ROOT),
        httpx.Client(base_url=backbone.service_url, timeout=PATIENCE_S) as client,
    ):
        eventually(lambda: client.get("/readyz").status_code == 200)
        yield client


@pytest.fixture(scope="module")
def module_backbone() -> Iterator[PlayedBackbone]:
    with PlayedBackbone() as backbone:
        yield backbone


@pytest.fixture(scope="module")
def service(module_backbone: PlayedBackbone) -> Iterator[httpx.Client]:
    with serving(module_backbone) as client:
        yield client


@pytest.fixture
def backbone(module_backbone: PlayedBackbone, service: httpx.Client) -> PlayedBackbone:
    """The backbone of the running service."""
    return module_backbone


SMALL = png(two_halves((40, 110, 50), (60, 90, 170), (12, 12)))


def test_request_without_a_task_is_answered_with_the_map(service: httpx.Client) -> None:
    response = service.post(f"{SEGMENT}?classes=3", content=CHINA, headers={"Content-Type": "image/jpeg"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == CHINA_SIZE


def test_a_task_is_segmented_stored_and_completed_with_the_shares_of_its_classes(backbone: PlayedBackbone) -> None:
    task = backbone.submit(
        SEGMENT, CHINA, content_type="image/jpeg", query="classes=4", traceparent=TRACEPARENT
    ).wait()

    assert task.state == "completed"
    assert re.fullmatch(r"completed - (class \d \([a-z ]+\) \d+ %(, )?){4}", task.status)
    assert task.result is not None
    assert task.result.content_type == "image/png"
    assert Image.open(io.BytesIO(task.result.data)).size == CHINA_SIZE
    assert {call.headers["traceparent"] for call in task.calls if call.kind == "result"} == {TRACEPARENT}
    assert list(backbone.slots.values()) == [1]


def test_a_large_picture_tells_its_stages_on_the_way(backbone: PlayedBackbone) -> None:
    task = backbone.submit(SEGMENT, large(), content_type="image/png", query="classes=12")
    task.until(lambda task: task.progress)
    assert 0 < (task.progress or 0) < 1
    assert re.fullmatch(rf"running - ({'|'.join(STAGES)}) \d+%", task.status)
    assert task.wait().state == "completed"


def test_a_task_that_is_cancelled_while_it_is_computed_is_dropped(backbone: PlayedBackbone) -> None:
    task = backbone.submit(SEGMENT, large(), content_type="image/png", query="classes=12")
    task.until(lambda task: task.state == "running")
    task.cancel()
    after = backbone.submit(SEGMENT, SMALL, content_type="image/png").wait()
    assert after.state == "completed"
    assert (task.state, task.result) == ("cancelled", None)


def test_body_that_is_not_a_picture_fails_the_task(backbone: PlayedBackbone) -> None:
    task = backbone.submit(SEGMENT, b"scrambled", content_type="image/png").wait()
    assert (task.state, task.status) == ("failed", "failed - the body is not a readable JPEG or PNG picture")


@pytest.mark.parametrize(
    ("query", "content_type", "reason"),
    [
        ("", "application/json", "the body must be"),
        ("classes=1", "image/png", "classes must be a number from 2 to 12"),
        ("classes=13", "image/png", "classes must be a number from 2 to 12"),
        ("classes=many", "image/png", "the parameter classes must be a whole number"),
        ("then=lunch", "image/png", "the parameter then must be one of legend"),
    ],
)
def test_invalid_request_fails_and_is_refused_if_no_task_is_there(
    service: httpx.Client, backbone: PlayedBackbone, query: str, content_type: str, reason: str
) -> None:
    task = backbone.submit(SEGMENT, SMALL, content_type=content_type, query=query).wait()
    response = service.post(f"{SEGMENT}?{query}", content=SMALL, headers={"Content-Type": content_type})
    assert task.state == "failed"
    assert reason in task.status.lower()
    assert 400 <= response.status_code < 500
    assert response.headers["content-type"] == "application/problem+json"
    assert reason in response.json()["detail"].lower()


def test_direct_calls_in_flight_are_reported(service: httpx.Client, backbone: PlayedBackbone) -> None:
    service.post(SEGMENT, content=CHINA, headers={"Content-Type": "image/jpeg"}).raise_for_status()
    backbone.until(lambda: any(call.kind == "count" for call in backbone.calls))
    backbone.until(lambda: backbone.api.in_flight["local", SEGMENT] == 0)


def test_pipeline_adds_the_legend_in_a_second_step(backbone: PlayedBackbone) -> None:
    task = backbone.submit(SEGMENT, PHOTO, content_type="image/jpeg", query="then=legend&classes=4").wait()
    assert (task.state, task.status) == ("completed", "completed - map with legend")
    assert task.result is not None
    width, height = Image.open(io.BytesIO(task.result.data)).size
    assert width == 640
    assert height > 427


def test_legend_request_without_a_task_is_answered_with_the_drawn_legend(service: httpx.Client) -> None:
    found_class = {"Number": 1, "Colour": "red", "MapColour": "#c8302a", "Share": 1}
    response = service.post(LEGEND, json={"Width": 300, "Height": 10, "Classes": [found_class]})
    assert Image.open(io.BytesIO(response.content)).width == 300
    assert service.post(LEGEND, json={"Width": 300}).status_code == 400


def test_service_finishes_its_work_when_stopped() -> None:
    with PlayedBackbone() as backbone:
        with serving(backbone):
            large = pictures()["china.jpg"]
            task = backbone.submit(SEGMENT, large.data, content_type=large.content_type)
            task.until(lambda task: task.state == "dispatched")
        assert task.state == "completed"
