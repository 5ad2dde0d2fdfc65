"""The hooks of azd, run as azd runs them, against a fake of the Azure CLI (``fake_az.py``)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from local.stack import ROOT
from shared.callback_settings import secret_bytes

VAULT = "/subscriptions/s-1/resourceGroups/rg-1/providers/Microsoft.KeyVault/vaults/kv-1"
OUTPUTS = {
    "AZURE_SUBSCRIPTION_ID": "s-1",
    "AZURE_RESOURCE_GROUP": "rg-1",
    "RESOURCE_TOKEN": "1",
    "KEY_VAULT_ID": VAULT,
    "KEY_VAULT_URI": "https://kv-1.vault.azure.net/",
    "APP_ID": "/subscriptions/s-1/resourceGroups/rg-1/providers/Microsoft.Web/sites/func-1",
    "APP_NAME": "func-1",
    "APP_HOST": "func-1.example.org",
    "EVENT_GRID_TOPIC": "topic-1",
    "EVENT_GRID_SUBSCRIPTION": "backend-webhook",
    "WEBHOOK_TENANT_ID": "",
    "WEBHOOK_AUDIENCE": "",
    "GATEWAY_NAME": "apim-1",
    "GATEWAY_TIER": "consumption",
    "GATEWAY_URL": "https://apim-1.example.org",
    "MAX_BODY_BYTES": "15728640",
}
"""What azd keeps of a deployment."""
HOOKS = {"secrets": "postprovision", "connect": "postdeploy"}
SECRETS = {"gateway-key", "gateway-key-previous", "function-key", "scaler-key", "service-key", "event-grid-key"}
OF_SERVICES = {
    "CacheConnectorUpsert",
    "CacheConnectorGet",
    "PutTaskResult",
    "CurrentProcessingUpsert",
    "TaskHeartbeat",
    "TaskHeartbeats",
    "ReleaseTask",
    "NextStep",
    "GetCheckpoint",
    "PutCheckpoint",
    "CreateUpload",
}
"""What docs/security.md lets a model service call."""


@dataclass
class Azure:
    """The fake, with all that was made in it."""

    folder: Path

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())

    def failing(self, failures: dict[int, str]) -> None:
        """The calls with these numbers, from now on, fail before or after they have done something."""
        state = self.state if (self.folder / "state.json").exists() else {}
        state["failures"] = {str(number): when for number, when in failures.items()}
        state["calls"] = []
        (self.folder / "state.json").write_text(json.dumps(state))

    def run(self, hook: str, tries: int = 2, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}",
            "FAKE_AZ_STATE": str(self.folder / "state.json"),
            "HOOK_TRIES": str(tries),
            "HOOK_PAUSE_S": "0",
            **OUTPUTS,
            **variables,
        }
        command = ["sh", f"infra/hooks/{hook}.sh"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    def up(self, **variables: str) -> None:
        for hook in ("secrets", "connect"):
            done = self.run(hook, **variables)
            assert done.returncode == 0, done.stderr


@pytest.fixture
def azure(tmp_path: Path) -> Azure:
    return azure_in(tmp_path)


def azure_in(folder: Path) -> Azure:
    program = folder / "az"
    fake = Path(__file__).with_name("fake_az.py")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {fake} "$@"\n')
    program.chmod(0o755)
    return Azure(folder)


def is_right(state: dict[str, Any]) -> None:
    """Each client has its key, and the vault the same one."""
    secrets, keys = state["secrets"], state["keys"]
    assert {*secrets} == SECRETS
    assert len({*secrets.values()}) == len(SECRETS)
    assert all(len(value) == 43 for value in secrets.values())
    assert keys == {
        "*": {"gateway": secrets["function-key"]},
        "QueueDepths": {"scaler": secrets["scaler-key"]},
        "BackendWebhook": {"event-grid": secrets["event-grid-key"]},
        **{name: {"service": secrets["service-key"]} for name in OF_SERVICES},
    }
    assert {*state["deployments"]} == {"access", "gateway", "event-subscription"}
    assert {*json.loads(state["deployments"]["access"]["secrets"])} == (SECRETS - {"event-grid-key", "function-key"})
    url = f"https://func-1.example.org/api/BackendWebhook?code={secrets['event-grid-key']}"
    assert state["deployments"]["event-subscription"] == {
        "topicName": "topic-1",
        "name": "backend-webhook",
        "endpointUrl": url,
        "tenantId": "",
        "audience": "",
    }
    assert state["deployments"]["gateway"]["maxBodyBytes"] == "15728640"


def test_the_first_run_makes_every_key_and_a_second_one_changes_none(azure: Azure) -> None:
    azure.up()
    first = azure.state
    is_right(first)
    assert first["refreshed"] == 1, "the app may have looked for its keys before they were there"
    azure.up()
    second = azure.state
    for what in ("secrets", "keys", "deployments"):
        assert second[what] == first[what]
    writes = [call for call in second["calls"][len(first["calls"]) :] if "put" in call or "set" in call]
    assert writes == []


def test_a_secret_of_callbacks_is_drawn_in_its_form_and_one_that_is_there_stays(azure: Azure) -> None:
    azure.up()
    azure.failing({})
    state = azure.state
    state["secrets"]["shop-secret"] = "whsec_of-the-receiver"
    (azure.folder / "state.json").write_text(json.dumps(state))

    names = ["shop-secret", "shop-secret-previous"]
    azure.up(CALLBACK_SECRETS=" ".join(names))

    secrets = azure.state["secrets"]
    assert {*secrets} == {*SECRETS, *names}
    assert secrets["shop-secret"] == "whsec_of-the-receiver"
    assert len(secret_bytes(secrets["shop-secret-previous"])) == 32
    assert json.loads(azure.state["deployments"]["access"]["callbackSecrets"]) == names
    assert secrets["shop-secret-previous"] not in json.dumps(azure.state["calls"])


def test_keys_differ_from_one_deployment_to_the_next(tmp_path: Path) -> None:
    def made(name: str) -> set[str]:
        folder = tmp_path / name
        folder.mkdir()
        azure = azure_in(folder)
        azure.up()
        return {*azure.state["secrets"].values()}

    assert made("one").isdisjoint(made("other"))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("hook", ["secrets", "connect"])
def test_a_run_that_failed_anywhere_can_be_repeated(azure: Azure, hook: str, when: str) -> None:
    if hook == "connect":
        assert azure.run("secrets").returncode == 0
    azure.failing({})
    start = azure.state
    azure.run(hook)
    calls = azure.state["calls"]
    alike = OF_SERVICES - {"CacheConnectorUpsert", "CreateUpload"}  # between the first and the last function
    # A question that is answered has done nothing that could be half done.
    asks = {"get"} if when == "after" else set()
    numbers = [number for number, call in enumerate(calls, 1) if (alike | asks).isdisjoint(call)]
    assert len(numbers) >= 5
    for number in numbers:
        azure.folder.joinpath("state.json").write_text(json.dumps(start))
        azure.failing({number: when})
        done = azure.run(hook, tries=1)
        assert done.returncode == 1, f"call {number} failed, and nobody was told"
        first, *_, last = done.stderr.splitlines()
        assert re.fullmatch(r"[A-Z][^:]+: .+[?.]", first), "one sentence: what is wrong, and what to do"
        assert last == f"Then go on with: azd hooks run {HOOKS[hook]}"
        kept = {name: value for name, value in azure.state["secrets"].items() if name.startswith("gateway-key")}
        azure.failing({})
        assert azure.run(hook).returncode == 0
        state = azure.state
        if hook == "connect":
            is_right(state)
        assert {name: state["secrets"][name] for name in kept} == kept, "made once"
        assert state["refreshed"] >= 1


def test_what_a_new_app_does_not_answer_yet_is_tried_again(azure: Azure) -> None:
    assert azure.run("secrets").returncode == 0
    azure.failing({2: "before"})  # the first question for keys, after whether az is signed in
    refreshed = azure.state["refreshed"]
    assert azure.run("connect").returncode == 0
    is_right(azure.state)
    assert azure.state["refreshed"] == refreshed + 1, "it may have had no role yet when it looked for its secrets"


def test_no_key_is_an_argument_of_a_program_or_is_printed(azure: Azure) -> None:
    printed = "".join(done.stdout + done.stderr for done in map(azure.run, ("secrets", "connect")))
    state = azure.state
    assert {*state["secrets"]} == SECRETS
    called = json.dumps(state["calls"])
    for value in state["secrets"].values():
        assert value not in called
        assert value not in printed


def test_a_function_that_an_upgrade_adds_gets_the_key_of_the_others(azure: Azure) -> None:
    azure.up()
    state = azure.state
    del state["keys"]["ReleaseTask"]
    (azure.folder / "state.json").write_text(json.dumps(state))
    azure.up()
    is_right(azure.state)
    assert azure.state["secrets"] == state["secrets"]


def test_a_vault_that_does_not_answer_makes_no_new_secret(azure: Azure) -> None:
    azure.up()
    before = azure.state["secrets"]
    azure.failing({2: "before"})
    done = azure.run("secrets")
    assert done.returncode == 1
    assert done.stderr.startswith("Nobody knows whether the vault has the secret gateway-key")
    assert azure.state["secrets"] == before


def test_a_warning_is_no_answer(azure: Azure) -> None:
    azure.up()
    before = azure.state["secrets"]
    program = azure.folder / "az"
    warning = "echo 'WARNING: The error code SecretNotFound will change.' >&2"
    program.write_text(program.read_text().replace("exec ", f"{warning}\nexec "))
    azure.failing({2: "before"})
    assert azure.run("secrets").returncode == 1
    assert azure.state["secrets"] == before


def test_functions_with_different_keys_get_one_anew(azure: Azure) -> None:
    azure.up()
    state = azure.state
    before = state["secrets"]
    state["keys"]["TaskHeartbeats"]["service"] = "of half a rotation"
    (azure.folder / "state.json").write_text(json.dumps(state))
    assert azure.run("connect").returncode == 0
    is_right(azure.state)
    assert {name for name, value in azure.state["secrets"].items() if value != before[name]} == {"service-key"}


def test_with_entra_id_the_webhook_has_no_key(azure: Azure) -> None:
    azure.up(WEBHOOK_TENANT_ID="t-1", WEBHOOK_AUDIENCE="api://webhook")
    assert azure.state["deployments"]["event-subscription"]["endpointUrl"] == (
        "https://func-1.example.org/api/BackendWebhook"
    )
    assert azure.state["deployments"]["event-subscription"]["audience"] == "api://webhook"
    assert "event-grid-key" not in azure.state["secrets"]
    assert "BackendWebhook" not in azure.state["keys"]


def test_a_webhook_that_does_not_shake_hands_is_said_without_its_key(azure: Azure) -> None:
    done = azure.run("secrets")
    azure.folder.joinpath("deaf").touch()
    done = azure.run("connect")
    assert done.returncode == 1
    sentence, said, _ = done.stderr.splitlines()
    assert sentence == (
        "The webhook https://func-1.example.org/api/BackendWebhook does not answer the handshake of Event Grid: "
        "is /api/v1/health ok?"
    )
    assert said.endswith("https://app/?code=...")
    azure.folder.joinpath("deaf").unlink()
    assert azure.run("connect").returncode == 0
    is_right(azure.state)


def test_without_azd_a_hook_says_what_is_missing(azure: Azure) -> None:
    done = azure.run("connect", APP_NAME="")
    assert (done.returncode, done.stderr) == (
        1,
        "APP_NAME is not set: azd sets it, after azd provision.\nThen go on with: azd hooks run postdeploy\n",
    )


class _Gateway(BaseHTTPRequestHandler):
    keys: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        self.keys.append(self.headers["Ocp-Apim-Subscription-Key"])
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(202, {"TaskId": "t1"}, f"http://{self.headers['Host']}/tasks/t1")

    def do_GET(self) -> None:
        self._answer(200, {"TaskId": "t1", "Status": "completed", "BackendStatus": "completed"}, None)

    def _answer(self, status: int, body: object, location: str | None) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def gateway() -> Iterator[str]:
    _Gateway.keys.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_last_step_tries_a_task_through_the_gateway(azure: Azure, gateway: str) -> None:
    azure.up()
    done = azure.run("connect", GATEWAY_URL=gateway, SMOKE_PATH="/v1/words/count")
    assert done.returncode == 0, done.stderr
    assert _Gateway.keys == ["the-key-of-the-subscription"]
    assert f"{gateway}/api/v1/submit/v1/words/count" in done.stdout
    assert "completed" in done.stdout
    assert "the-key-of-the-subscription" not in done.stdout
