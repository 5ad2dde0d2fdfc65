"""A webhook that is secured with Entra ID accepts Event Grid's token and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from local.azurite import Azurite
from local.redis_server import RedisServer
from local.stack import Stack
from tests.conftest import IN_A_HURRY
from tests.contract.legacy_support import DELIVERY, TOPIC_ID, WEBHOOK
from tests.end_to_end.backbone import Backbone
from tests.entra_double import EntraDouble
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S, eventually


@dataclass(frozen=True)
class Secured:
    stack: Stack
    entra: EntraDouble
    backbone: Backbone

    def deliver(self, authorization: str | None, task_id: str = "unknown") -> httpx.Response:
        """Deliver one event without a function key."""
        event = {
            "topic": TOPIC_ID,
            "eventType": "backbone.task.dispatch",
            "data": {"TaskId": task_id, "Attempt": 1},
        }
        headers = DELIVERY | ({"Authorization": authorization} if authorization else {})
        return httpx.post(self.stack.url + WEBHOOK, json=[event], headers=headers, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory, azurite: Azurite, backend: ScriptedBackend
) -> Iterator[Secured]:
    with (
        EntraDouble() as entra,
        RedisServer(tmp_path_factory.mktemp("redis")) as redis,
        Stack(
            tmp_path_factory.mktemp("stack"),
            redis=redis,
            azurite=azurite,
            backends={"/v1/test": backend.url},
            with_model=False,
            settings={
                **IN_A_HURRY,
                "WEBHOOK_TENANT_ID": entra.tenant_id,
                "WEBHOOK_AUDIENCE": entra.audience,
                "WEBHOOK_AUTHORITY": entra.authority,
            },
            delivery_headers={"Authorization": f"Bearer {entra.token()}"},
        ) as stack,
        stack.client() as http,
    ):
        yield Secured(stack, entra, Backbone(http))


@pytest.fixture
def kept(secured: Secured, backend: ScriptedBackend) -> str:
    """The id of a task that only a delivery dispatches."""
    endpoint = f"{backend.url}/v1/test/secured-kept"
    task = {"Endpoint": endpoint, "Body": "{}", "Status": "kept", "BackendStatus": "created"}
    return secured.backbone.http.post("/api/CacheConnectorUpsert", json=task).raise_for_status().json()["TaskId"]


def test_delivery_with_the_event_grid_token_dispatches_a_task(secured: Secured, backend: ScriptedBackend) -> None:
    path = "/v1/test/secured"
    task_id = secured.backbone.submit(path)
    assert backend.next_call(path).task_id == task_id
    secured.backbone.complete(task_id)


def test_token_is_accepted_without_a_function_key(secured: Secured, backend: ScriptedBackend, kept: str) -> None:
    response = secured.deliver(f"Bearer {secured.entra.token()}", kept)
    assert (response.status_code, response.json()) == (200, {"results": ["accepted"]})
    assert backend.next_call("/v1/test/secured-kept").task_id == kept


def test_delivery_without_a_valid_token_is_401_and_dispatches_nothing(
    secured: Secured, backend: ScriptedBackend, kept: str
) -> None:
    entra = secured.entra
    stranger = generate_private_key(65537, 2048)
    for authorization in (
        None,
        "Bearer nonsense",
        f"Bearer {entra.token(key=stranger)}",
        f"Bearer {entra.token(aud='api://another')}",
        f"Bearer {entra.token(appid='11111111-1111-1111-1111-111111111111')}",
        f"Bearer {entra.token(exp=1)}",
    ):
        response = secured.deliver(authorization, kept)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert response.headers["Content-Type"] == "application/problem+json"
    assert secured.backbone.transitions(kept) == [("created", 1)]
    assert backend.untaken("/v1/test/secured-kept") == 0


def test_function_key_without_a_token_is_401(secured: Secured) -> None:
    response = secured.backbone.http.post(WEBHOOK, content=b"[" * 100_000, headers=DELIVERY)
    assert response.status_code == 401, "the body was not read"


def test_cloud_events_handshake_needs_the_token(secured: Secured) -> None:
    headers = {"WebHook-Request-Origin": "eventgrid.azure.net"}
    address = secured.stack.url + WEBHOOK
    assert httpx.options(address, headers=headers, timeout=PATIENCE_S).status_code == 401
    headers["Authorization"] = f"Bearer {secured.entra.token()}"
    assert httpx.options(address, headers=headers, timeout=PATIENCE_S).status_code == 200


def test_deliveries_are_503_while_entra_id_gives_no_keys(secured: Secured) -> None:
    secured.entra.status = 503
    secured.stack.host.restart()  # the new process has no keys
    try:
        response = secured.deliver(f"Bearer {secured.entra.token()}")
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
    finally:
        secured.entra.status = 200
    eventually(lambda: secured.deliver(f"Bearer {secured.entra.token()}").status_code == 200)
