"""An operator's action is on record before it is taken, whatever Redis does in between."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import azure.functions as func
import pytest

from cache_manager.audit import audited, queue_action
from shared.http.operators import Operator, Role, acting
from shared.http.problems import invalid
from shared.store import RedisLink, StoreUnavailable
from tests.cache_manager.process import Process
from tests.shared.store.conftest import Clock, opener

ADA = Operator("ada", frozenset({Role.OPERATE}), "gateway")


class FailingLink(RedisLink):
    """Does not answer the script that is named."""

    silent = ""

    def script(self, name: str, tag: str, *args: bytes | str):
        return self._refuse() if name == self.silent else super().script(name, tag, *args)

    async def _refuse(self) -> None:
        raise StoreUnavailable("silent")


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[FailingLink]:
    link = FailingLink(opener(redis_url))
    yield link
    await link.aclose()


@pytest.fixture
def process(redis_url: str, clock: Clock, link: FailingLink) -> Process:
    return Process.start(redis_url, clock, link=link)


@pytest.fixture(autouse=True)
def ada() -> Iterator[None]:
    with acting(ADA):
        yield


@pytest.fixture
def request_() -> func.HttpRequest:
    return func.HttpRequest("POST", "http://127.0.0.1/api/v1/x", body=b"")


async def counts(process: Process) -> list[int | None]:
    return [entry.count for entry in (await process.store.audit.page(10)).entries]


async def test_an_action_that_cannot_go_on_record_is_not_taken(
    process: Process, link: FailingLink, request_: func.HttpRequest
) -> None:
    link.silent = "audit/begin"
    with pytest.raises(StoreUnavailable):
        async with audited(request_, process.services, "cancel", "t1"):
            pytest.fail("it was taken")
    assert await counts(process) == []


async def test_an_action_is_done_though_what_came_of_it_cannot_be_noted(
    process: Process, link: FailingLink, request_: func.HttpRequest, caplog: pytest.LogCaptureFixture
) -> None:
    link.silent = "audit/finish"
    async with audited(request_, process.services, "cancel", "t1"):
        assert await counts(process) == [None]
    assert await counts(process) == [None]
    assert "what came of an operator's action could not be noted" in caplog.text


async def test_nobody_knows_what_came_of_an_action_that_redis_did_not_answer(
    process: Process, request_: func.HttpRequest
) -> None:
    with pytest.raises(StoreUnavailable):
        async with audited(request_, process.services, "cancel", "t1"):
            raise StoreUnavailable
    assert await counts(process) == [None]


async def test_a_refused_action_has_changed_nothing(process: Process, request_: func.HttpRequest) -> None:
    with pytest.raises(Exception, match="no"):
        async with audited(request_, process.services, "cancel", "t1"):
            raise invalid("x", "no")
    assert await counts(process) == [0]


async def test_each_action_is_an_event_of_telemetry(
    process: Process, request_: func.HttpRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "task_backbone")
    async with audited(request_, process.services, "bulk replay", "/v1/a", operation_id="op-1") as action:
        action.count = 7
    [record] = [each for each in caplog.records if hasattr(each, "operator.action")]
    told = {
        name: value for name, value in vars(record).items() if name.startswith(("operator.", "microsoft", "task."))
    }
    assert told == {
        "microsoft.custom_event.name": "OperatorAction",
        "operator.action": "bulk replay",
        "operator.by": "gateway",
        "operator.name": "ada",
        "operator.target": "/v1/a",
        "operator.count": 7,
        "operator.operation": "op-1",
    }


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({"paused": True}, "pause"),
        ({"paused": None}, "resume"),
        ({"draining": True, "limit": 3}, "drain, limit 3"),
        ({"draining": False, "limit": None}, "accept, no limit"),
        ({}, "no change"),
    ],
)
def test_a_setting_is_called_by_what_it_does(changes: dict[str, object], action: str) -> None:
    assert queue_action(changes) == action
