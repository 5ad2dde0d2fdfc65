"""Before a developer's eyes, the app logs each transition, also if it sends nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from shared import telemetry
from shared.settings import Settings
from shared.tasks.task import State, Task
from tests.telemetry.test_without_application_insights import SETTINGS

TASK = Task(
    id="7b141475-d574-470d-bca5-d885cd12d6e7",
    state=State.RUNNING,
    path="/v1/a",
    query="?key=of-the-caller",
    status="running - a text of the caller",
    attempt=2,
    failures=0,
    publishes=1,
    priority=5,
    dispatch_requested=True,
    version=1,
    created_ms=0,
    updated_ms=0,
    queued_ms=0,
    body=None,
    result=None,
    traceparent="",
    fingerprint="",
    owner="",
    away_ms=None,
    completion_unpublished=False,
    history=(),
)


@pytest.fixture
def configured() -> Iterator[None]:
    """Leaves telemetry as it was."""
    before = {name: getattr(telemetry, name) for name in ("_is_sent", "_events", "_host_tells_requests")}
    yield
    for name, value in before.items():
        setattr(telemetry, name, value)


@pytest.mark.parametrize(
    ("environment", "logged"),
    [
        ("Development", ["task 7b141475-d574-470d-bca5-d885cd12d6e7 at /v1/a is running (attempt 2)"]),
        ("Production", []),
        (None, []),
    ],
)
@pytest.mark.usefixtures("configured")
def test_a_transition_is_a_line_of_the_log_in_the_development_environment(
    caplog: pytest.LogCaptureFixture, environment: str | None, logged: list[str]
) -> None:
    named = {} if environment is None else {"AZURE_FUNCTIONS_ENVIRONMENT": environment}
    environ = {**SETTINGS, **named}
    telemetry.configure(Settings.from_env(environ), environ)
    caplog.set_level(logging.INFO, "task_backbone")

    telemetry.transition(TASK)

    assert [record.getMessage() for record in caplog.records] == logged


@pytest.mark.usefixtures("configured")
def test_a_developer_sees_all_transitions_whatever_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    environ = {**SETTINGS, "AZURE_FUNCTIONS_ENVIRONMENT": "Development", "TELEMETRY_EVENTS": "none"}
    telemetry.configure(Settings.from_env(environ), environ)
    caplog.set_level(logging.INFO, "task_backbone")

    telemetry.transition(TASK)

    assert len(caplog.records) == 1
