"""The code of docs/model-services.md does what the page says of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from azurite import azurite
from conftest import REPOSITORY

from taskbackbone.testing import PlayedBackbone, PlayedTask

PAGE = (REPOSITORY / "docs" / "model-services.md").read_text()
ELSEWHERE = {"A minimal one"}
"""Headings whose code is run by tests/test_docs.py. `dev.py examples` takes the five minutes as they are printed."""
_SECTION = re.compile(r"^#{2,} (.+)\n((?:(?!^#{2,} ).*\n)*)", re.MULTILINE)
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {heading: _PYTHON.findall(text) for heading, text in _SECTION.findall(PAGE) if _PYTHON.search(text)}


def code(heading: str, number: int = 0) -> str:
    return BLOCKS[heading][number]


@contextmanager
def played(folder: Path, heading: str, number: int = 0, **options: Any) -> Generator[PlayedBackbone, None, None]:
    """A played backbone, and the service of the page in a process of its own."""
    (folder / "service.py").write_text(code(heading, number))
    with PlayedBackbone(**options) as backbone, backbone.start([sys.executable, "service.py"], cwd=folder):
        yield backbone


def ended(task: PlayedTask) -> tuple[str, str]:
    task.wait()
    return task.state, task.status


def test_every_block_of_python_on_the_page_is_run_by_a_test() -> None:
    source = Path(__file__).read_text()
    named = set(re.findall(r'(?:code|played)\((?:tmp_path, )?"([^"]+)"', source))
    assert named | ELSEWHERE == set(BLOCKS)


def test_bodies_and_parameters_are_taken_by_their_annotations(tmp_path: Path) -> None:
    with played(tmp_path, "Take bodies and parameters, return results") as backbone:
        station = {"name": "pier", "celsius": [10, 20]}
        mean = backbone.submit("/v1/stations/mean", station, query="unit=F")
        unknown = backbone.submit("/v1/stations/mean", station, query="unit=K")
        shapeless = backbone.submit("/v1/stations/mean", {"name": "pier"})
        empty = backbone.submit("/v1/stations/mean", {"name": "pier", "celsius": []})
        raster = backbone.submit("/v1/rasters/reverse", b"\0\1\2", content_type="application/octet-stream")

        assert mean.wait().json() == {"name": "pier", "mean": 59.0}
        assert ended(unknown) == ("failed", "failed - the parameter unit must be one of C, F")
        assert ended(shapeless)[0] == "failed"
        assert "celsius" in shapeless.status
        assert ended(empty) == ("failed", "failed - the station has no values")
        assert ended(raster) == ("completed", "completed - reversed")
        assert raster.result is not None
        assert (raster.result.data, raster.result.content_type) == (b"\2\1\0", "image/x-raw")


def test_blobs_that_a_request_names_are_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(code("Read and write blobs that a request names"))
    command = [sys.executable, "service.py"]
    with azurite(tmp_path / "azurite") as storage, PlayedBackbone() as backbone:
        storage.put("2026/scene.tif", b"II*\0 and so on")
        scene = storage.signed("2026/scene.tif", "r")
        with backbone.start(command, cwd=tmp_path, environment={"SERVICE_STORAGE": storage.url}):
            first = backbone.submit("/v1/blobs/first-bytes", {"scene": scene}).wait()
            copied = backbone.submit(
                "/v1/blobs/copy", {"scene": scene, "target": storage.signed("copy.tif", "cw")}
            ).wait()
            names = backbone.submit("/v1/blobs/names", {"container": storage.signed_container("rl")}).wait()
            foreign = backbone.submit("/v1/blobs/first-bytes", {"scene": "https://example.org/x"})
            ended(foreign)

        assert first.result is not None, first.status
        assert first.result.data == b"II*\0 and".hex().encode()
        assert copied.state == "completed"
        assert (storage.content("copy.tif"), storage.content_type("copy.tif")) == (b"II*\0 and so on", "image/tiff")
        assert names.json() == ["2026/scene.tif"]
        assert foreign.status == "failed - NotAllowed; see the service's log"


def test_a_task_ends_as_the_table_says(tmp_path: Path) -> None:
    with played(tmp_path, "Say how a task ends", max_attempts=2) as backbone:
        near, nameless, deep = (
            backbone.submit("/v1/scenes/clouds", body) for body in ({"scene": "near"}, {}, {"scene": "deep"})
        )
        assert near.wait().json() == {"cover": 0.25}
        assert ended(nameless) == ("failed", "failed - the body names no scene")
        assert ended(deep) == ("failed", "failed - KeyError; see the service's log")

        tomorrow = backbone.submit("/v1/scenes/clouds", {"scene": "of tomorrow"})
        tomorrow.until(lambda task: task.failures == 1)
        assert (tomorrow.state, tomorrow.status) == ("created", "the satellite has not passed yet")
        backbone.advance(3600)
        assert ended(tomorrow)[0] == "failed"

        away = backbone.submit("/v1/scenes/clouds", {"scene": "far away"}).wait()
        assert (away.state, away.failures) == ("failed", 2)


def test_each_worker_loads_its_own_model(tmp_path: Path) -> None:
    with played(tmp_path, "Load a large model, use a GPU") as backbone:
        loaders = set()
        for _ in range(1000):  # the second worker may be ready later
            loaders.add(backbone.submit("/v1/models/which").wait().json()["loaded by"])
            if sum(backbone.slots.values()) == 2:
                break
        assert list(backbone.slots.values()) == [2]
        assert 1 <= len(loaders) <= 2


def test_progress_arrives_while_the_model_computes(tmp_path: Path) -> None:
    with played(tmp_path, "Run for hours, and show progress") as backbone:
        short = backbone.submit("/v1/climate/run", {"years": 10}).wait()
        assert short.json() == {"heat": sum((year * day) % 7 for year in range(10) for day in range(365))}

        long = backbone.submit("/v1/climate/run", {"years": 10_000_000})
        long.until(lambda task: task.progress)
        assert re.fullmatch(r"running - year \d+", long.status)
        long.cancel()
        backbone.until(lambda: backbone.held == 0)


def test_a_cancelled_task_stops_and_tidies_up(tmp_path: Path) -> None:
    with played(tmp_path, "Stop when the caller cancels", lease_s=3) as backbone:
        scratch = tmp_path / "scratch"
        task = backbone.submit("/v1/tiles/render", {"scratch": str(scratch)})
        task.until(lambda task: task.state == "running")
        assert scratch.exists()
        task.cancel()
        backbone.until(lambda: not scratch.exists())
        assert task.state == "cancelled"


def test_a_task_goes_on_where_a_stopped_service_left_it(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(code("Go on where the last attempt was"))
    command = [sys.executable, "service.py"]
    with PlayedBackbone() as backbone:
        with backbone.start(command, cwd=tmp_path):
            task = backbone.submit("/v1/sums/slow", {"steps": 200, "pause_s": 0.02})
            task.until(lambda task: task.state == "running" and task.progress)
        task.until(lambda task: task.state == "created")  # it is dispatched again and again, in vain
        assert task.failures == 0
        assert task.checkpoint is not None
        kept = json.loads(task.checkpoint)
        assert 0 < kept["steps"] < 200

        with backbone.start(command, cwd=tmp_path):
            assert task.wait().json() == {"sum": sum(range(200)), "begun at step": kept["steps"]}


def test_a_task_is_handed_on_with_its_result(tmp_path: Path) -> None:
    with played(tmp_path, "Hand a task on to another function") as backbone:
        assert backbone.submit("/v1/texts/split", "to be or not to be").wait().json() == {"words": 1}


def test_the_end_of_the_fastapi_example_is_as_printed() -> None:
    """`dev.py examples` runs the whole of it."""
    assert (REPOSITORY / "examples" / "fastapi" / "app.py").read_text().endswith(code("Mount it in FastAPI or Flask"))


def test_a_flask_app_has_the_service_beside_its_own_routes(tmp_path: Path) -> None:
    with played(tmp_path, "Mount it in FastAPI or Flask", 1) as backbone:
        assert backbone.submit("/v1/words/count", "to be").wait().json() == {"words": 2}
        assert requests.get(backbone.service_url, timeout=60).json() == {"model": "words"}


def test_a_server_of_its_own_reports_by_the_manager(tmp_path: Path) -> None:
    with played(tmp_path, "Keep your own server") as backbone:
        task = backbone.submit("/v1/words/count", "to be or not to be").wait()
        assert (task.state, task.status, task.json()) == ("completed", "completed - 6 words", {"words": 6})
        assert list(backbone.slots.values()) == [2]


def test_probes_and_metrics_are_as_the_page_says(tmp_path: Path) -> None:
    with played(tmp_path, "In five minutes, in Python") as backbone:
        backbone.submit("/v1/words/count", "to be", content_type="text/plain").wait()
        for probe in ("/livez", "/readyz"):
            assert requests.get(backbone.service_url + probe, timeout=60).status_code == 200
        metrics = requests.get(backbone.service_url + "/metrics", timeout=60).text
    shown = set(re.findall(r"^# TYPE (\S+)", metrics, re.MULTILINE))
    assert shown == set(re.findall(r"`(taskbackbone_\w+)`", PAGE))


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(code("In five minutes, in Python"))
    (tmp_path / "test_service.py").write_text(code("Test it"))
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_service.py"]
    done = subprocess.run(tests, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert "2 passed" in done.stdout, done.stdout
