"""No output exposes a secret, and the check of the suite's own output can fail."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from local.azurite import ACCOUNT_KEY
from local.stack import ROOT, Stack
from shared.services import Services
from shared.settings import Settings, SettingsError
from tests.contract.legacy_support import DELIVERY, TOPIC_ID, WEBHOOK
from tests.end_to_end.backbone import Backbone
from tests.scripted_backend import Answer, ScriptedBackend
from tests.secrecy import leaks, planted
from tests.waiting import PATIENCE_S

SECRET = planted("setting")
SECRET_SETTINGS = {
    "REDIS_CONNECTION_STRING": f"redis://:{SECRET}@redis.example.org",
    "EVENT_GRID_KEY": SECRET,
    "AZUREWEBJOBSSTORAGE": f"AccountName=a;AccountKey={SECRET}==;EndpointSuffix=core.windows.net",
    "APPLICATIONINSIGHTS_CONNECTION_STRING": f"InstrumentationKey={SECRET}",
    "COMPLETIONS_KEY": SECRET,
    "GATEWAY_KEY": SECRET,
    "GATEWAY_KEY_PREVIOUS": SECRET,
}
OTHER_SETTINGS = {
    "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
    "BACKENDS": '{"/v1": "https://models.example.org"}',
}


def test_every_setting_that_holds_a_secret_has_a_secret_type() -> None:
    """A new secret must also be added to SECRET_SETTINGS, so that the tests below cover it."""
    secret = {name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secret == SECRET_SETTINGS.keys()
    suspicious = ("key", "secret", "password", "token", "connection_string")
    assert {name.upper() for name in Settings.model_fields if name.endswith(suspicious)} <= secret


def test_no_representation_of_the_settings_exposes_a_secret() -> None:
    settings = Settings.from_env(SECRET_SETTINGS | OTHER_SETTINGS)
    services = Services.compose(settings)
    for holder in (settings, services, services.store, services.publisher, services.bodies, services.registry):
        for represent in (repr, str, format, ascii):
            assert SECRET not in represent(holder)
    assert SECRET not in repr(settings.model_dump()) + settings.model_dump_json()


@pytest.mark.parametrize("name", SECRET_SETTINGS)
def test_a_refused_secret_is_not_repeated(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        # The message names the missing settings and the refused one, without values.
        Settings.from_env({name: SECRET})
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_texts_of_callers_and_backends_appear_in_no_log_and_no_unrelated_response(
    app: httpx.Client, stack: Stack, backend: ScriptedBackend
) -> None:
    path = "/v1/test/secretive"
    backbone = Backbone(app)
    refusal = [
        Answer(
            status,
            {"X-Backend": planted("backend-header"), "Set-Cookie": f"session={planted('backend-cookie')}"},
            planted("backend-body").encode(),
            reason=planted("backend-reason"),
        )
        for status in (500, 400)
    ]
    backend.script(path, *refusal)

    task_id = app.post(
        f"/api/v1/submit{path}?token={planted('query')}",
        content=planted("body"),
        headers={"Idempotency-Key": planted("idempotency-key"), "Cookie": planted("cookie")},
    ).json()["TaskId"]
    backbone.ended(task_id)
    documents = (
        app.get(f"/api/v1/tasks/{task_id}").text
        + app.get(f"/api/v1/tasks/{task_id}/history").text
        + str(app.get(f"/api/v1/tasks/{task_id}/result").headers)
    )
    assert "planted-backend" not in documents
    assert "answered 400" in documents

    backend.script(path, *refusal)
    waiting = app.post(
        "/api/CacheConnectorUpsert",
        json={"Endpoint": backend.url + path, "Status": planted("status"), "Body": planted("body")},
    ).json()["TaskId"]
    event = {
        "topic": TOPIC_ID,
        "eventType": "backbone.task.dispatch",
        "data": {"TaskId": waiting, "Attempt": 1, "traceparent": planted("trace")},
    }
    delivered = app.post(WEBHOOK, json=[event], headers=DELIVERY)
    assert delivered.json() == {"results": ["retried"]}
    assert "planted" not in delivered.text + str(delivered.headers)
    app.put(f"/api/v1/tasks/{waiting}/result", content=planted("result"))
    backbone.update(waiting, "completed", planted("status"))

    for nonsense in _nonsense(path):
        assert 400 <= app.request(**nonsense).status_code < 500
    guess = f"{stack.url}{WEBHOOK}?code={planted('guessed-key')}"
    assert httpx.post(guess, timeout=PATIENCE_S).status_code == 401

    log = (stack.directory / "functions_host.log").read_text()
    assert "bad events in a delivery" in log, "the app writes a log, so that the check below means something"
    assert leaks(stack.directory) == []


def _nonsense(path: str) -> list[dict[str, Any]]:
    """Requests that are refused, each with a planted secret."""
    delivery = {"method": "POST", "url": WEBHOOK, "headers": DELIVERY}
    upsert = {"method": "POST", "url": "/api/CacheConnectorUpsert"}
    foreign = f"http://user:{planted('password')}@127.0.0.1{path}"
    return [
        {**upsert, "content": f'{{"Body": "{planted("body")}'},
        {**upsert, "json": {"Endpoint": foreign, "Body": planted("body")}},
        {**upsert, "json": {"TaskId": planted("id") + "/", "Endpoint": 5}},
        {**delivery, "content": planted("delivery")},
        {**delivery, "json": [{"topic": TOPIC_ID, "eventType": planted("event-type"), "data": planted("data")}]},
        {**delivery, "json": [{"topic": planted("topic"), "eventType": "task"}]},
        {**delivery, "json": [{"topic": TOPIC_ID, "id": "a", "eventType": "task", "subject": foreign, "data": "{}"}]},
        {**delivery, "json": [], "headers": {"aeg-subscription-name": planted("subscription")}},
        {
            "method": "GET",
            "url": f"/api/v1/tasks/{planted('id')}/",
            "headers": {"X-Gateway-Key": planted("gateway-key")},
        },
        {"method": "GET", "url": "/api/v1/tasks/a?wait=" + planted("wait")},
    ]


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory that the check of this run does not search."""
    with TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.mark.parametrize(
    "leak",
    [
        pytest.param(f"connecting to redis://:{planted('redis-password')}@127.0.0.1", id="a planted secret"),
        pytest.param("Bearer eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJhcGkifQ.c2ln", id="a bearer token"),
        pytest.param("PUT https://a.blob.core.windows.net/b/u?sp=cw&sig=c2lnbmF0dXJlLW9mLWE%3D", id="a signed URL"),
        pytest.param(f"AccountKey={ACCOUNT_KEY}", id="the storage account's key"),
        pytest.param("/api/BackendWebhook?code=the-key-of-this-stack", id="a stack's key"),
        pytest.param("/admin/functions?code=the-key-of-this-stack-master", id="a stack's master key"),
    ],
)
def test_a_printed_secret_is_found_and_not_repeated(elsewhere: Path, leak: str) -> None:
    stack = elsewhere / "stack0"
    stack.mkdir()
    (stack / "key").write_text("the-key-of-this-stack")
    (stack / "host.log").write_text(f"started\n{leak}\nstopped\n")
    (stack / "model.log").write_text("started\n")
    assert leaks(elsewhere, ["{}", leak]) == [f"{stack / 'host.log'}:2", "telemetry 1"]


@pytest.mark.parametrize("workers", ["0", "1"], ids=["alone", "on a worker"])
def test_a_run_that_prints_a_secret_fails_at_its_end(elsewhere: Path, workers: str) -> None:
    leak = planted("redis-password")
    done = _run_of_a_suite(elsewhere, workers, leak)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed, 1 error" in done.stdout
    assert "host.log:1, telemetry 0" in done.stdout
    assert leak not in done.stdout


def test_a_run_that_prints_no_secret_passes(elsewhere: Path) -> None:
    done = _run_of_a_suite(elsewhere, "0", "planted, but nothing secret")
    assert done.returncode == 0, done.stdout + done.stderr


def _run_of_a_suite(directory: Path, workers: str, printed: str) -> subprocess.CompletedProcess[str]:
    """Run a suite of one passing test under the same check. The test logs *printed* and sends it as telemetry."""
    (directory / "conftest.py").write_text("from tests.secrecy import nothing_secret_is_printed\n")
    (directory / "test_printing.py").write_text(
        "import os\n"
        "from tests import secrecy\n"
        "def test_that_passes(tmp_path):\n"
        "    (tmp_path / 'host.log').write_text(os.environ['PRINTED'])\n"
        "    secrecy.exported.append(os.environ['PRINTED'])\n"
    )
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-n", workers, "-p", "no:cacheprovider"),
            *("--rootdir", directory, "-c", os.devnull, "--basetemp", directory / "temp", directory),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PRINTED": printed},
        capture_output=True,
        text=True,
        check=False,
    )
