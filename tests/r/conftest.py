"""Fixtures of the tests in R. They run by ``python3 dev.py r`` only, which installs R first."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from taskbackbone import TaskClient

from local.azurite import Azurite
from local.processes import free_port
from local.redis_server import RedisCluster, RedisServer
from local.stack import PolledProcess, Stack
from tests.callback_receiver import new_secret
from tests.conftest import IN_A_HURRY
from tests.r.installing import ASKED_FOR, SDK

SERVICE = Path(__file__).parent / "service" / "service.R"
PLACES = 40
MOST_BYTES = 5_000_000
"""What goes through the app; larger bodies and results are uploaded."""
LEASE_S, LONG_LEASE_S = 6.0, 120.0


def pytest_ignore_collect() -> bool | None:
    return None if ASKED_FOR in os.environ else True


@dataclass(frozen=True)
class Place:
    """Where a service in R may be: the app sends tasks of ``/v1/r/NAME`` and below to *port*.

    ``lease_s`` is how long a task may be silent there: it ends neither with a slow machine, if it is long, nor does a
    test wait for it, if it is brief.
    """

    name: str
    port: int
    lease_s: float = LEASE_S

    @property
    def path(self) -> str:
        return f"/v1/r/{self.name}"


class Pod(PolledProcess):
    """A service in R, by its launcher. *folder* is where its tasks leave traces.

    Parameters:
        port: where it listens, if not at the place.
    """

    def __init__(
        self, folder: Path, place: Place, environment: dict[str, str], *, port: int = 0, script: Path = SERVICE
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(
            "the service in R",
            [SDK / "serve", script],
            port=port or place.port,
            health="/readyz",
            log_path=folder / "service.log",
            environment={
                "AI4E_API_TOOLS": str(SDK / "ai4e_api_tools"),
                "SCRATCH": str(folder),
                "PORT": str(port or place.port),
                "TASK_DRAIN_S": "60",
                **environment,
            },
        )
        self.folder = folder

    def pids_of(self, task_id: str) -> list[int]:
        """The processes that the model of a task has run in."""
        return [int(word) for word in self.trace(f"{task_id}.pids").split()]

    def trace(self, name: str) -> str:
        """What a task has written into a file; nothing, if there is none."""
        file = self.folder / name
        return file.read_text() if file.exists() else ""


@pytest.fixture(scope="session")
def places() -> list[Place]:
    """Those that no test has taken. The first ones have a long lease."""
    leases_s = [LONG_LEASE_S] * 4 + [LEASE_S] * PLACES
    return [Place(f"p{number}", free_port(), lease_s) for number, lease_s in enumerate(leases_s)]


@pytest.fixture(scope="session")
def house(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    places: list[Place],
) -> Iterator[Stack]:
    """The app, which knows a service in R at each place."""
    backends = {
        each.path: {"url": f"http://127.0.0.1:{each.port}", "lease_s": each.lease_s, "reference": True}
        for each in places
    }
    with Stack(
        tmp_path_factory.mktemp("house"),
        redis=redis_server,
        azurite=azurite,
        backends=backends,
        with_model=False,
        settings={
            **IN_A_HURRY,
            "MAX_BODY_BYTES": str(MOST_BYTES),
            "CALLBACKS": json.dumps(
                {"nobody": {"url": f"http://127.0.0.1:{free_port()}/told", "secret_setting": "TOLD_SECRET"}}
            ),
            "TOLD_SECRET": new_secret(),
        },
    ) as stack:
        yield stack


@pytest.fixture
def place(house: Stack, places: list[Place]) -> Place:
    """A place of this test's own."""
    return places.pop()


@pytest.fixture
def patient_place(house: Stack, places: list[Place]) -> Place:
    """Likewise, with a long lease."""
    return places.pop(0)


@pytest.fixture
def variables(house: Stack) -> dict[str, str]:
    """Where the app is, for a process."""
    return {"BACKBONE_URL": house.url, "BACKBONE_KEY": house.key}


@pytest.fixture
def pod(place: Place, variables: dict[str, str], tmp_path: Path) -> Iterator[Pod]:
    """A service with one slot, at this test's place."""
    with Pod(tmp_path / "pod", place, variables) as pod:
        yield pod


@pytest.fixture
def app(house: Stack) -> Iterator[httpx.Client]:
    """An HTTP client of the app, with its key."""
    with house.client() as client:
        yield client


@pytest.fixture
def caller(house: Stack) -> Iterator[TaskClient]:
    with TaskClient(house.url, house.key) as client:
        yield client


@pytest.fixture
def r(variables: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    """Runs a script in R: ``r(code, NAME="value")``. Returns what it printed."""
    from tests.r.installing import run_r

    def run(code: str, **more: str) -> str:
        file = tmp_path / "script.R"
        head = "tools <- Sys.getenv('AI4E_API_TOOLS')\n"
        for name in ("task_management/api_task.R", "ai4e_app_insights.R", "sas_blob.R", "task_client.R"):
            head += f"source(file.path(tools, '{name}'))\n"
        file.write_text(head + code)
        return run_r(["--vanilla", str(file)], {**variables, **more})

    return run
