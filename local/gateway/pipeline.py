"""The policies of an operation as they are run: those of the product, the API and the operation, in sections."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from local.gateway import policies
from local.gateway.configuration import Api, Configuration, Operation
from local.gateway.errors import GatewayError, PolicyFailed
from local.gateway.exchange import Exchange
from local.gateway.grammar import SECTIONS, Node, Reader
from local.gateway.messages import Body, Headers, Response
from local.gateway.policies import Step

_log = logging.getLogger("local.gateway")
_FORWARDED = Node("forward-request", {}, (), None, "the default policy of all APIs")
KEY_HEADER, KEY_PARAMETER = "Ocp-Apim-Subscription-Key", "subscription-key"


class Pipeline:
    """The policies of one operation."""

    def __init__(self, steps: dict[str, list[Step]], sharing: Node | None) -> None:
        self._steps = steps
        self.sharing = sharing
        """Its policy ``cors``, if it has one."""

    async def run(self, exchange: Exchange) -> Response:
        """The answer to a request."""
        try:
            try:
                _check_subscription(exchange)
                for section in ("inbound", "backend", "outbound"):
                    exchange.section = section
                    await policies.run(self._steps[section], exchange)
            except PolicyFailed as failure:
                await _take(failure, exchange)
                await policies.run(self._steps["on-error"], exchange)
        except policies.Finished:
            pass
        except PolicyFailed as failure:
            await _take(failure, exchange)
        if exchange.response is None:
            raise GatewayError(f"The policies of {exchange.operation.name} make no response.")
        return exchange.response


class Compiler:
    """Makes pipelines. A policy file is read once for each scope that it stands in."""

    def __init__(self, configuration: Configuration, reader: Reader) -> None:
        self._configuration = configuration
        self._reader = reader
        self._scopes: dict[str, tuple[dict[str, list[Step]], Node | None]] = {}

    def pipeline(self, api: Api, operation: Operation) -> Pipeline:
        """
        Raises:
            GatewayError: a policy file has something that this gateway does not know.
        """
        everywhere = {section: [] for section in SECTIONS} | {
            "backend": [policies.forward_request(_FORWARDED, "all")]
        }
        outer: tuple[dict[str, list[Step]], Node | None] = (everywhere, None)
        if api.product is not None:
            outer = self._scope(f"product {api.product.name}", api.product.policy, outer)
        of_api = self._scope(f"API {api.name}", api.policy, outer)
        return Pipeline(*self._scope(f"operation {api.name} {operation.name}", operation.policy, of_api))

    def _scope(
        self, scope: str, policy: str | None, outer: tuple[dict[str, list[Step]], Node | None]
    ) -> tuple[dict[str, list[Step]], Node | None]:
        """The sections in a scope, and the policy ``cors`` that holds there."""
        file = None if policy is None else self._configuration.policy(policy)
        if file is None:
            return outer
        if scope not in self._scopes:
            base, sharing = outer
            steps: dict[str, list[Step]] = {section: [] for section in SECTIONS}
            for section, nodes in self._reader.policy(file).items():
                steps[section] = self._steps(nodes, scope, section, base[section])
                sharing = next((node for node in nodes if node.name == "cors"), sharing)
            self._scopes[scope] = steps, sharing
        return self._scopes[scope]

    def _steps(self, nodes: Sequence[Node], scope: str, section: str, base: list[Step]) -> list[Step]:
        steps: list[Step] = []
        for node in nodes:
            match node.name:
                case "base":
                    steps += base
                case "include-fragment":
                    fragment = self._reader.fragment(self._fragment(node), section)
                    steps += self._steps(fragment, scope, section, base)
                case "choose":
                    steps.append(policies.choose(node, lambda inner: self._steps(inner, scope, section, base)))
                case _:
                    self._check_backend(node)
                    steps.append(policies.BUILDERS[node.name](node, scope))
        return steps

    def _fragment(self, node: Node) -> Path:
        name = str(node.attributes["fragment-id"])
        if name not in self._configuration.fragments:
            raise GatewayError(f"{node.where}: apis.json lists no fragment {name}.")
        return self._configuration.fragments[name]

    def _check_backend(self, node: Node) -> None:
        name = node.attributes.get("backend-id")
        if name is not None and name not in self._configuration.backends:
            raise GatewayError(f"{node.where}: apis.json lists no backend {name}.")


def failed(failure: PolicyFailed) -> Response:
    """What the caller gets, unless a policy makes another answer."""
    content = json.dumps({"statusCode": failure.status, "message": failure.message}).encode()
    headers = Headers([("Content-Type", "application/json"), ("Content-Length", str(len(content))), *failure.headers])
    return Response(failure.status, headers, Body(content))


async def _take(failure: PolicyFailed, exchange: Exchange) -> None:
    _log.info("%s %s: %s %s", exchange.id, failure.source, failure.reason, failure.detail)
    if exchange.response is not None:
        await exchange.response.close()
    exchange.failure, exchange.response = failure, failed(failure)


def _check_subscription(exchange: Exchange) -> None:
    """
    Raises:
        PolicyFailed: 401 without a key of the API's product.
    """
    product = exchange.api.product
    if product is None or (exchange.subscription is not None and exchange.subscription.product == product.name):
        return
    url, headers = exchange.original_url, exchange.request.headers
    is_given = headers.get(KEY_HEADER) is not None or url.parameter(KEY_PARAMETER) is not None
    challenge = f'AzureApiManagementKey realm="{url.scheme}://{url.host}",name="{KEY_HEADER}",type="header"'
    raise PolicyFailed(
        401,
        "authorization",
        "SubscriptionKeyInvalid" if is_given else "SubscriptionKeyNotFound",
        "Access denied due to invalid subscription key. Make sure to provide a valid key for an active subscription."
        if is_given
        else "Access denied due to missing subscription key. Make sure to include subscription key when making "
        "requests to an API.",
        headers=(("WWW-Authenticate", challenge),),
    )
