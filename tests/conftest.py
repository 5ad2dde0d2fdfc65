"""Fixtures of all tests. Each pytest worker has a real Redis and a real Azurite."""

import base64
import json
import os
import secrets
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx
import pytest

from local.azurite import Azurite
from local.processes import free_port
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from tests.scripted_backend import ScriptedBackend
from tests.secrecy import nothing_secret_is_printed, planted

__all__ = ["nothing_secret_is_printed"]

# Short pauses, so that tests can wait for them. Leases and dispatch timeouts keep their defaults, and a task fails
# only two minutes after a lost event, so that an overloaded machine does not make the app give up. A test of giving
# up starts its own stack.
IN_A_HURRY = {
    "RECONCILER_INTERVAL_S": "1",
    "BACKOFF_BASE_S": "0.05",
    "BUSY_RETRY_S": "0.2",
    "REPUBLISH_S": "2",
    "MAX_ATTEMPTS": "7",
}

DESTINATION = "hook"
NAMED_PIPELINE = "/v1/named/whole"
NAMED_STEPS = ("/v1/test/named/detect", "/v1/foreign/named/classify")
BOUNDED = "/v1/bounded"
"""A backend that says how long tasks may wait and run."""

SLOWEST_FIRST = (
    "test_dev.py",
    "faults",
    "end_to_end",
    "contract/test_legacy_samples.py",
    "contract/test_reports_without_attempt.py",
    "telemetry",
    "local",
    "degradation",
    "cache_manager/test_queue_state_machine.py",
    "shared/store/test_state_machine.py",
    "bench",
    "contract",
    "shared/store",
)
"""Where files run in parallel, those that take longest go first, so that none is left alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    @cache
    def rank(path: Path) -> int:
        file = path.relative_to(Path(__file__).parent)
        return next((n for n, first in enumerate(SLOWEST_FIRST) if file.is_relative_to(first)), len(SLOWEST_FIRST))

    items.sort(key=lambda item: rank(item.path))


@pytest.hookimpl(optionalhook=True)  # tools/mutation_check.py runs without xdist
def pytest_xdist_auto_num_workers() -> int:
    """More than there are cores: many tests wait for processes that they have started."""
    return 2 * (os.cpu_count() or 1)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | RedisCluster]:
    """A single server, or with BACKBONE_TEST_REDIS=cluster a cluster of three primaries."""
    kind = RedisCluster if os.environ.get("BACKBONE_TEST_REDIS") == "cluster" else RedisServer
    with kind(tmp_path_factory.mktemp("redis"), password=planted("redis-password")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer | RedisCluster) -> str:
    """The URL of an empty Redis."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """A blob service that tests share: each test uses its own container."""
    with Azurite(tmp_path_factory.mktemp("azurite"), in_memory=True) as service:
        yield service


@pytest.fixture(scope="session")
def backend() -> Iterator[ScriptedBackend]:
    """A model service with scripted answers. Each test uses its own path under ``/v1/test``."""
    with ScriptedBackend() as backend:
        yield backend


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    """The app with short pauses, on the development host with the Event Grid emulator and the scripted backend."""
    with Stack(
        tmp_path_factory.mktemp("stack"),
        redis=redis_server,
        azurite=azurite,
        backends={
            "/v1/test": backend.url,
            "/v1/reference": {"url": backend.url, "reference": True},
            "/v1/listed": {"url": backend.url, "endpoints": ["/v1/listed/model"]},
            BOUNDED: {"url": backend.url, "max_run_s": 5, "expires_s": 2},
            "/v1/foreign": {"url": backend.url, "answer": "result", "busy": [409]},
            "pipelines": {NAMED_PIPELINE: [f"{NAMED_STEPS[0]}?min=0.5", NAMED_STEPS[1]]},
            "/v1/dead": f"http://127.0.0.1:{free_port()}",
        },
        with_model=False,
        settings=IN_A_HURRY
        | {
            "CALLBACKS": json.dumps({DESTINATION: {"url": f"{backend.url}/hook", "secret_setting": "HOOK_SECRET"}}),
            "HOOK_SECRET": f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}",
        },
    ) as stack:
        yield stack


@pytest.fixture(scope="session")
def app(stack: Stack) -> Iterator[httpx.Client]:
    """An HTTP client of the app, with its key."""
    with stack.client() as client:
        yield client
