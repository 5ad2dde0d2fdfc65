"""The app loads heavy modules only when it needs them, to keep cold starts short."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.waiting import PATIENCE_S

HEAVY = (
    "aiohttp",
    "azure.core",
    "azure.eventgrid",
    "azure.identity",
    "azure.monitor",
    "azure.storage",
    "cryptography.hazmat",
    "jwt",
    "msal",
    "requests",
    "opentelemetry.exporter",
    "opentelemetry.instrumentation",
    "opentelemetry.sdk.trace",
)
SETTINGS = {
    "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
    "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
    "BACKENDS": '{"/v1": "https://models.example.org"}',
    # All optional features are on.
    "AzureWebJobsStorage__accountName": "account",
    "PUBLISH_COMPLETIONS": "true",
    "COMPLETIONS_TOPIC_URI": "https://completions.example.org/api/events",
    "WEBHOOK_TENANT_ID": "6f0f3a43-0000-0000-0000-000000000000",
    "WEBHOOK_AUDIENCE": "api://webhook",
}


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """The modules of a process that has only loaded the app."""
    program = "import json, sys, function_app; print(json.dumps(list(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", program], env=SETTINGS, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert process.returncode == 0, process.stderr
    modules = set(json.loads(process.stdout))
    assert {"function_app", "azure.functions", "shared.store"} <= modules
    return modules


@pytest.mark.parametrize("heavy", HEAVY)
def test_heavy_modules_are_not_imported_at_the_start(imported: set[str], heavy: str) -> None:
    assert [name for name in imported if name == heavy or name.startswith(f"{heavy}.")] == []
