from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.end_to_end.backbone import Backbone
from tests.scripted_backend import ScriptedBackend
from tests.waiting import eventually

SOON_GIVEN_UP = IN_A_HURRY | {"REPUBLISH_S": "0.2", "DISPATCH_TIMEOUT_S": "5", "MAX_ATTEMPTS": "5"}
"""Tests with these settings also pass on a machine so slow that the app gives up more often."""
BRIEF_LEASE_S = 2
"""Shorter than the dispatch timeout, so that the lease always ends first."""


@pytest.fixture
def backbone(app: httpx.Client) -> Backbone:
    """The app of the worker's stack."""
    return Backbone(app)


@pytest.fixture
def faulty(stack: Stack) -> Iterator[Stack]:
    """The worker's stack; its Event Grid faults are switched off afterwards, and its events are claimed again."""
    yield stack
    stack.set_faults({})
    with stack.client() as app:
        until_events_are_claimed(Backbone(app))


def until_events_are_claimed(backbone: Backbone) -> None:
    """Submit tasks until an event of theirs shows the app that Event Grid delivers."""
    number = 0

    def are_claimed() -> bool:
        nonlocal number
        number += 1
        backbone.submit(f"/v1/test/claimed-again/{number}")
        return backbone.http.get("/api/v1/health").json()["Dependencies"]["EventGrid"] == "ok"

    eventually(are_claimed, every_s=0.2)


@pytest.fixture(scope="package")
def impatient_stack(
    tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend
) -> Iterator[Stack]:
    """A stack whose app gives up soon. It has its own Redis, since another reconciler would be more patient."""
    directory = tmp_path_factory.mktemp("impatient")
    with (
        RedisServer(directory / "redis") as redis,
        Stack(
            directory,
            redis=redis,
            azurite=azurite,
            backends={"/v1/test": backend.url, "/v1/test/brief": {"url": backend.url, "lease_s": BRIEF_LEASE_S}},
            with_model=False,
            settings=SOON_GIVEN_UP,
        ) as stack,
    ):
        yield stack


@pytest.fixture
def impatient(impatient_stack: Stack) -> Iterator[Backbone]:
    with impatient_stack.client() as http:
        yield Backbone(http)
