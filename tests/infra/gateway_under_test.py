"""The gateway that the contract's tests ask: the local one in front of a stack, or a real one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from local.azurite import Azurite
from local.gateway.process import APIS, CALLERS, OPERATORS, GatewayProcess
from local.processes import free_port
from local.redis_server import RedisCluster, RedisServer
from local.stack import MAX_BODY_BYTES, Stack
from tests.conftest import IN_A_HURRY
from tests.scripted_backend import Answer, ScriptedBackend
from tests.secrecy import planted
from tests.waiting import PATIENCE_S

KEY, OTHER_KEY, OPERATOR_KEY = planted("subscription-key"), planted("other-key"), planted("operator-key")
GATEWAY_KEY = planted("gateway-key")
SUBSCRIPTIONS = {KEY: ("one", CALLERS), OTHER_KEY: ("other", CALLERS), OPERATOR_KEY: ("operator", OPERATORS)}
WORDS, WAITING = "/v1/words/count", "/v1/waiting/model"
"""Endpoints: of a service that answers at once with its result, and of one that takes tasks and says nothing."""
_SERVICES = ("/v1/words", "/v1/waiting")

ALLOWED_HEADERS = frozenset(
    {
        *("date", "content-type", "content-length", "transfer-encoding", "connection", "keep-alive"),
        *("cache-control", "content-encoding", "content-range", "accept-ranges", "etag", "retry-after", "taskid"),
        *("location", "operation-location", "preference-applied", "www-authenticate"),
        *("content-security-policy", "x-content-type-options"),
        *("access-control-allow-origin", "access-control-expose-headers", "vary"),
        "x-gateway",
    }
)
"""What a caller may see of any answer: those of the API's description, of HTTP and of the gateway."""


def _templates(product: str) -> dict[str, tuple[str, str]]:
    """Method and path of each operation that the gateway offers to a product, by its name; of those that operators
    have beside callers, by that behind ``operators/``."""
    document = json.loads(APIS.read_text())
    service = {**document["service"], "path": "{service}"}
    return {
        ("operators/" if api["path"] == "operators/api" else "") + operation["name"]: (
            operation["method"],
            f"/{api['path']}{operation['urlTemplate']}".rstrip("/"),
        )
        for api in [*document["apis"], service]
        if api["product"] == product
        for operation in api["operations"]
    }


OF_CALLERS, OF_OPERATORS = _templates(CALLERS), _templates(OPERATORS)
OPERATIONS = {**OF_CALLERS, **OF_OPERATORS}
PAGE_HEADERS = frozenset(
    {"x-frame-options", "referrer-policy", "cross-origin-opener-policy", "cross-origin-resource-policy"}
)
"""What the console's page has beside the headers of the API."""


@dataclass
class Gate:
    """A gateway, and who calls it."""

    url: str
    key: str
    other_key: str | None
    operator_key: str | None
    endpoint: str
    """Of a service whose tasks complete."""
    waiting: str
    """Of one whose tasks stay as they are, or the same if there is none."""
    inner: tuple[str, ...] = ()
    """What no answer may have in it: addresses of the app, and keys."""
    called: set[str] = field(default_factory=set)
    """The names of the operations that were called."""

    def call(
        self,
        operation: str,
        key: str | None = None,
        *,
        task: str = "",
        name: str = "nobody",
        rest: str = "",
        query: str = "",
        **options: Any,
    ) -> httpx.Response:
        """Call an operation by its name in ``apis.json``, and look at what comes back."""
        method, template = OPERATIONS[operation]
        path = (
            template.replace("{id}", task)
            .replace("{name}", name)
            .replace("/{service}", self.service)
            .replace("/*", rest)
        )
        self.called.add(operation)
        return self.ask(method, f"{path}{query}", key or self.key, **options)

    def ask(self, method: str, path: str, key: str | None, **options: Any) -> httpx.Response:
        headers = {**({} if key is None else {"Ocp-Apim-Subscription-Key": key}), **options.pop("headers", {})}
        allowed = ALLOWED_HEADERS | options.pop("beside", frozenset())
        response = httpx.request(
            method,
            self.url + path,
            headers=headers,
            timeout=PATIENCE_S,
            **options,
        )
        self.check(response, allowed)
        return response

    def check(self, response: httpx.Response, allowed: frozenset[str] = ALLOWED_HEADERS) -> None:
        """No URL of the app, and no header that is not of the API, leaves the gateway."""
        names = [name for name, _ in response.headers.multi_items()]
        assert set(names) <= allowed, names
        assert len(names) == len(set(names)), names
        seen = [*response.headers.values(), response.text]
        leaked = [(inner, text) for inner in self.inner for text in seen if inner in text]
        assert not leaked, leaked
        for name in ("location", "operation-location"):
            if name in response.headers and response.status_code != 303:
                place = response.headers[name].replace(f"{self.url}/operators/", f"{self.url}/")
                assert place.startswith(f"{self.url}/api/v1/"), response.headers

    @property
    def service(self) -> str:
        """The path of the service that has the endpoint."""
        return self.endpoint.rpartition("/")[0]

    def submit(self, key: str | None = None, **options: Any) -> str:
        """A new task's id."""
        response = self.call("SubmitTask", key, rest=self.endpoint, content=b"to be or not to be", **options)
        assert response.status_code == 202, response.text
        return response.json()["TaskId"]

    def completed(self, key: str | None = None) -> str:
        """The id of a task that is completed."""
        task = self.submit(key)
        while (
            state := self.call("GetTask", key, task=task, query="?wait=30").json()["BackendStatus"]
        ) != "completed":
            assert state in ("created", "running"), state
        return task


@contextmanager
def stack_behind(
    directory: Path, redis: RedisServer | RedisCluster, azurite: Azurite, backend: ScriptedBackend
) -> Iterator[Stack]:
    """A stack for a gateway to stand before."""
    backend.script(WORDS, Answer(200, {"Content-Type": "application/json"}, b'{"words": 6}'))
    with Stack(
        directory,
        redis=redis,
        azurite=azurite,
        backends={_SERVICES[0]: {"url": backend.url, "answer": "result"}, _SERVICES[1]: backend.url},
        with_model=False,
        settings={**IN_A_HURRY, "GATEWAY_KEY": GATEWAY_KEY},
    ) as stack:
        yield stack


def gateway_before(app_url: str, directory: Path, *, function_key: str, **options: Any) -> GatewayProcess:
    """The local gateway in front of an app."""
    return GatewayProcess(
        directory,
        port=options.pop("port", 0) or free_port(),
        app_url=app_url,
        function_key=function_key,
        gateway_key=options.pop("gateway_key", GATEWAY_KEY),
        max_body_bytes=MAX_BODY_BYTES,
        services=_SERVICES,
        subscriptions=SUBSCRIPTIONS,
        **options,
    )


def local_gate(process: GatewayProcess, app_url: str, function_key: str) -> Gate:
    return Gate(
        process.url,
        KEY,
        OTHER_KEY,
        OPERATOR_KEY,
        WORDS,
        WAITING,
        inner=(app_url, app_url.removeprefix("http://"), function_key, GATEWAY_KEY),
    )


def real_gate(environment: Mapping[str, str] = os.environ) -> Gate | None:
    """The real gateway that GATEWAY_URL names; None if it names none."""
    url = environment.get("GATEWAY_URL")
    if not url:
        return None
    endpoint = environment.get("GATEWAY_ENDPOINT", WORDS)
    return Gate(
        url.rstrip("/"),
        environment["GATEWAY_SUBSCRIPTION_KEY"],
        environment.get("GATEWAY_OTHER_SUBSCRIPTION_KEY"),
        environment.get("GATEWAY_OPERATOR_KEY"),
        endpoint,
        waiting=endpoint,
        inner=("azurewebsites.net",),
    )
