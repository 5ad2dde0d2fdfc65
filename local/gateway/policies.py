"""What each policy does. A policy becomes a step, which the pipeline runs."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from local.gateway import backends, cors, tokens
from local.gateway.errors import GatewayError, PolicyFailed
from local.gateway.exchange import Exchange
from local.gateway.grammar import Node
from local.gateway.messages import Body, Headers, Response

Step = Callable[[Exchange], Awaitable[None]]
Build = Callable[[Node, str], Step]
"""Makes the step of a policy that stands in a scope, by the name of that scope."""
_FORWARD_TIMEOUT_S = 300


class Finished(Exception):
    """Raised when a policy has made the answer: those that follow are left out."""


async def run(steps: Sequence[Step], exchange: Exchange) -> None:
    for step in steps:
        await step(exchange)


def choose(node: Node, build: Callable[[Sequence[Node]], list[Step]]) -> Step:
    branches = [(child.attributes.get("condition", True), build(child.children)) for child in node.children]

    async def step(exchange: Exchange) -> None:
        for condition, steps in branches:
            if await exchange.evaluate(condition):
                await run(steps, exchange)
                return

    return step


def set_variable(node: Node, _: str) -> Step:
    async def step(exchange: Exchange) -> None:
        await exchange.evaluate(node.attributes["value"], str(node.attributes["name"]))

    return step


def set_header(node: Node, _: str) -> Step:
    async def step(exchange: Exchange) -> None:
        await _apply_header(node, exchange, _message(exchange).headers)

    return step


def set_query_parameter(node: Node, _: str) -> Step:
    async def step(exchange: Exchange) -> None:
        exchange.request.url = exchange.request.url.without(str(node.attributes["name"]))

    return step


def set_body(node: Node, _: str) -> Step:
    async def step(exchange: Exchange) -> None:
        content = await _content(node, exchange)
        message = _message(exchange)
        message.body = Body(content)
        message.headers.replace("Content-Length", str(len(content)))

    return step


def set_status(node: Node, _: str) -> Step:
    async def step(exchange: Exchange) -> None:
        message = _message(exchange)
        if not isinstance(message, Response):
            raise GatewayError(f"{node.where}: there is no response yet to set the status of.")
        message.status, message.reason = await _status(node, exchange)

    return step


def return_response(node: Node, _: str) -> Step:
    async def step(exchange: Exchange) -> None:
        response = Response(200)
        for child in node.children:
            match child.name:
                case "set-status":
                    response.status, response.reason = await _status(child, exchange)
                case "set-header":
                    await _apply_header(child, exchange, response.headers)
                case _:
                    content = await _content(child, exchange)
                    response.body = Body(content)
                    response.headers.replace("Content-Length", str(len(content)))
        if exchange.response is not None:
            await exchange.response.close()
        exchange.response = response
        raise Finished

    return step


def set_backend_service(node: Node, _: str) -> Step:
    async def step(exchange: Exchange) -> None:
        exchange.backend = exchange.shared.backends[str(node.attributes["backend-id"])]

    return step


def rewrite_uri(node: Node, _: str) -> Step:
    copies = node.attributes.get("copy-unmatched-params", True)

    async def step(exchange: Exchange) -> None:
        template = str(await exchange.evaluate(node.attributes["template"]))
        used = {name: exchange.matched.get(name, "") for name in re.findall(r"\{([^{}]+)\}", template)}
        for name, value in used.items():
            template = template.replace(f"{{{name}}}", value)
        path, _, query = template.partition("?")
        given = exchange.request.url.query if copies else ""
        exchange.request.url = replace(
            exchange.request.url, path=path, query="&".join(part for part in (query, given) if part)
        )

    return step


def forward_request(node: Node, _: str) -> Step:
    timeout = node.attributes.get("timeout", _FORWARD_TIMEOUT_S)

    async def step(exchange: Exchange) -> None:
        if exchange.backend is None:
            raise GatewayError(f"{node.where}: no backend is set.")
        timeout_s = await exchange.evaluate(timeout)
        exchange.response = await backends.forward(
            exchange.shared.client, exchange.backend, exchange.request, timeout_s
        )

    return step


def rate_limit(node: Node, scope: str) -> Step:
    calls, period_s = int(str(node.attributes["calls"])), int(str(node.attributes["renewal-period"]))

    async def step(exchange: Exchange) -> None:
        key = ("rate-limit", scope, exchange.subscription and exchange.subscription.id)
        _limit_rate(node, exchange, key, calls, period_s)

    return step


def rate_limit_by_key(node: Node, _: str) -> Step:
    async def step(exchange: Exchange) -> None:
        attributes = node.attributes
        key = ("rate-limit-by-key", await exchange.evaluate(attributes["counter-key"]))
        calls = await exchange.evaluate(attributes["calls"])
        period_s = await exchange.evaluate(attributes["renewal-period"])
        _limit_rate(node, exchange, key, calls, period_s)

    return step


def quota(node: Node, scope: str) -> Step:
    calls, period_s = int(str(node.attributes["calls"])), int(str(node.attributes["renewal-period"]))

    async def step(exchange: Exchange) -> None:
        key = ("quota", scope, exchange.subscription and exchange.subscription.id)
        count = exchange.shared.counters.count(key, calls, period_s)
        if count.retry_after_s is not None:
            wait_s = _whole(count.retry_after_s)
            left = f"{wait_s // 3600:02}:{wait_s // 60 % 60:02}:{wait_s % 60:02}"
            raise PolicyFailed(
                403,
                "quota",
                "QuotaExceeded",
                f"Out of call volume quota. Quota will be replenished in {left}.",
                headers=(("Retry-After", str(wait_s)),),
            )

    return step


def cache_lookup_value(node: Node, _: str) -> Step:
    async def step(exchange: Exchange) -> None:
        found = exchange.shared.cache.get(("value", await exchange.evaluate(node.attributes["key"])))
        name = str(node.attributes["variable-name"])
        if found is not None:
            await exchange.shared.evaluator.assign(exchange.id, name, found)

    return step


def cache_store_value(node: Node, _: str) -> Step:
    async def step(exchange: Exchange) -> None:
        attributes = node.attributes
        key = ("value", await exchange.evaluate(attributes["key"]))
        value = await exchange.evaluate(attributes["value"])
        exchange.shared.cache.put(key, value, await exchange.evaluate(attributes["duration"]))

    return step


BUILDERS: dict[str, Build] = {
    "cache-lookup-value": cache_lookup_value,
    "cache-store-value": cache_store_value,
    "cors": cors.build,
    "forward-request": forward_request,
    "quota": quota,
    "rate-limit": rate_limit,
    "rate-limit-by-key": rate_limit_by_key,
    "return-response": return_response,
    "rewrite-uri": rewrite_uri,
    "set-backend-service": set_backend_service,
    "set-body": set_body,
    "set-header": set_header,
    "set-query-parameter": set_query_parameter,
    "set-status": set_status,
    "set-variable": set_variable,
    "validate-jwt": tokens.build,
}
"""By element. ``base``, ``choose`` and ``include-fragment`` are the pipeline's."""


def _message(exchange: Exchange) -> Any:
    """The request on its way in, and the response on its way out."""
    return exchange.request if exchange.response is None else exchange.response


def _text(node: Node) -> Any:
    assert node.text is not None  # by the grammar
    return node.text


async def _content(node: Node, exchange: Exchange) -> bytes:
    content = await exchange.evaluate(_text(node))
    return content if isinstance(content, bytes) else str("" if content is None else content).encode()


async def _status(node: Node, exchange: Exchange) -> tuple[int, str]:
    code = await exchange.evaluate(node.attributes["code"])
    return code, str(await exchange.evaluate(node.attributes.get("reason", "")) or "")


async def _apply_header(node: Node, exchange: Exchange, headers: Headers) -> None:
    name, action = str(node.attributes["name"]), node.attributes.get("exists-action", "override")
    values = [await exchange.evaluate(value) for value in node.texts("value")]
    given = [str(value) for value in values if value is not None]
    match action:
        case "delete":
            headers.remove(name)
        case _:
            headers.replace(name, *given)


def _limit_rate(node: Node, exchange: Exchange, key: tuple[object, ...], calls: int, period_s: int) -> None:
    count = exchange.shared.counters.count(key, calls, period_s)
    if count.retry_after_s is None:
        return
    wait_s = _whole(count.retry_after_s)
    raise PolicyFailed(
        429,
        node.name,
        "RateLimitExceeded",
        f"Rate limit is exceeded. Try again in {wait_s} seconds.",
        headers=(("Retry-After", str(wait_s)),),
    )


def _whole(duration_s: float) -> int:
    return max(1, math.ceil(duration_s))
