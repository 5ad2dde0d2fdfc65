"""What the pages tell autoscalers and callers to read exists, and ends."""

from __future__ import annotations

import re

import pytest

from cache_manager.queue_schemas import QueueDepth
from local.stack import ROOT
from shared.tasks.task import State


def test_the_autoscaler_reads_a_number_that_a_queue_has() -> None:
    page = (ROOT / "docs" / "telemetry.md").read_text()
    read = re.findall(r'valueLocation: "(\w+)"', page)
    assert read == ["Demand"]
    assert read[0] in QueueDepth.model_json_schema(by_alias=True)["properties"]


@pytest.mark.parametrize("state", list(State))
def test_the_printed_wait_loop_ends_with_the_task(state: State) -> None:
    [pattern] = re.findall(r"grep -qE '(.+?)'", (ROOT / "docs" / "api.md").read_text())
    ends = re.search(pattern, f'{{"BackendStatus":"{state.backend_status}"}}') is not None
    assert ends == state.is_terminal
