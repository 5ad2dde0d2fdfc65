"""One Redis, one storage account and one topic, and two versions of the app on them: as during a deployment."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from local.azurite import Azurite
from local.processes import ChildProcess, free_port
from local.redis_server import RedisCluster, RedisServer
from local.stack import DEAD_LETTERS, DISPATCH_EVENT, LEGACY_EVENT, NO_TLS, SUBSCRIPTION, Stack
from shared.store.redis.partitions import partition
from tests.conftest import IN_A_HURRY
from tests.scripted_backend import ScriptedBackend
from tests.two_versions.older import NoHistory, older_host, older_tree
from tests.waiting import PATIENCE_S

KEY, PREVIOUS_KEY = "the-key-of-the-gateway-0123456789", "the-key-before-it-0123456789"
BRIEF_LEASE_S = 2
DESTINATION, HOOK = "ends", "/hooks/two-versions"
BOUNDED, WAITING, IN_FLIGHT = "/v1/bounded", 3, 2
"""Where one owner may have only so much: the older version, which does not know that, has no such setting."""


@dataclass(frozen=True)
class Version:
    """One version of the app."""

    name: str
    host: ChildProcess
    app: httpx.Client


@dataclass(frozen=True)
class Versions:
    """Both versions on the same parts."""

    stack: Stack
    older: Version
    newer: Version

    def deliver_to(self, version: Version) -> None:
        """Have Event Grid deliver to this version. Of two instances of an app, either may get an event."""
        self.stack.subscribe(
            SUBSCRIPTION,
            endpoint=f"{version.app.base_url}/api/BackendWebhook?code={self.stack.key}".replace("//api", "/api"),
            deadLetterContainer=DEAD_LETTERS,
            includedEventTypes=[DISPATCH_EVENT, LEGACY_EVENT],
        )

    def start_all(self) -> None:
        for version in (self.older, self.newer):
            if not version.host.is_running:
                version.host.start()


@pytest.fixture(scope="package")
def redis_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | RedisCluster]:
    """A server of their own: the reconciler of another test's stack would look after these tasks too."""
    kind = RedisCluster if os.environ.get("BACKBONE_TEST_REDIS") == "cluster" else RedisServer
    with kind(tmp_path_factory.mktemp("redis-of-two")) as server:
        yield server


@pytest.fixture(scope="package")
def all_versions(
    tmp_path_factory: pytest.TempPathFactory,
    redis_of_two: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Versions]:
    directory = tmp_path_factory.mktemp("two-versions")
    try:
        tree = older_tree(directory)
    except NoHistory as reason:
        pytest.skip(str(reason))
    stack = Stack(
        directory / "stack",
        redis=redis_of_two,
        azurite=azurite,
        backends={
            "/v1/test": backend.url,
            "/v1/reference": {"url": backend.url, "reference": True},
            "/v1/single": {"url": backend.url, "limit": 1},
            "/v1/brief": {"url": backend.url, "lease_s": BRIEF_LEASE_S},
            BOUNDED: {
                "url": backend.url,
                "per_owner": {"waiting": WAITING, "in_flight": IN_FLIGHT, "hard": True},
            },
        },
        with_model=False,
        settings={
            **IN_A_HURRY,
            "BLOB_CONTAINER": "two-versions",
            "GATEWAY_KEY": KEY,
            "GATEWAY_KEY_PREVIOUS": PREVIOUS_KEY,
            "CALLBACKS": json.dumps({DESTINATION: {"url": backend.url + HOOK, "secret_setting": "HOOK_SECRET"}}),
            "HOOK_SECRET": f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}",
        },
    )
    port = free_port()
    backends = json.loads(stack.app_environment["BACKENDS"])
    del backends[BOUNDED]["per_owner"]
    environment = {**stack.app_environment, "BACKENDS": json.dumps(backends)}
    host = older_host(tree, port, directory / "older.log", environment)

    def client(url: str) -> httpx.Client:
        return httpx.Client(base_url=url, headers={"x-functions-key": stack.key}, timeout=PATIENCE_S, verify=NO_TLS)

    with host, client(f"http://127.0.0.1:{port}") as older:
        # It has been at work: there is a task where the newer one looks for that when it draws its secret.
        task_id = next(name for name in map(str, range(1000)) if partition(name) == 0)
        task = {"TaskId": task_id, "Endpoint": f"{backend.url}/v1/test/before", "BackendStatus": "completed"}
        older.post("/api/CacheConnectorUpsert", json=task).raise_for_status()
        with stack, client(stack.url) as newer:
            yield Versions(stack, Version("older", host, older), Version("newer", stack.host, newer))


@pytest.fixture
def versions(all_versions: Versions) -> Iterator[Versions]:
    """Both, and both run again afterwards."""
    all_versions.start_all()
    yield all_versions
    all_versions.start_all()


@pytest.fixture(params=["older first", "newer first"])
def pair(request: pytest.FixtureRequest, versions: Versions) -> tuple[Version, Version]:
    """The version that begins, and the one that goes on, which gets the events."""
    first, second = versions.older, versions.newer
    if request.param == "newer first":
        first, second = second, first
    versions.deliver_to(second)
    return first, second
