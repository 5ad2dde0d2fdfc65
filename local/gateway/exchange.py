"""One request on its way through the policies, and what it shares with all others."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from local.gateway.errors import PolicyFailed
from local.gateway.expressions import Evaluator, Expression
from local.gateway.grammar import Value
from local.gateway.limits import Cache, Counters
from local.gateway.messages import Body, Headers, Request, Response, Url

if TYPE_CHECKING:
    from local.gateway.backends import Backend, Client
    from local.gateway.configuration import Api, Operation, Subscription


@dataclass(frozen=True)
class Shared:
    """What all requests share."""

    evaluator: Evaluator
    client: Client
    backends: Mapping[str, Backend]
    counters: Counters
    cache: Cache


@dataclass
class Exchange:
    """The state of one request: what API Management's ``context`` shows of it, and where it is to go."""

    shared: Shared
    id: str
    api: Api
    operation: Operation
    subscription: Subscription | None
    matched: Mapping[str, str]
    """What the path has for the parameters of the operation's template, escaped."""
    request: Request
    original_url: Url
    backend: Backend | None = None
    response: Response | None = None
    failure: PolicyFailed | None = None
    section: str = "inbound"
    sharing: Headers = field(default_factory=Headers)
    """What the answer tells a browser of another origin (CORS)."""

    async def evaluate(self, value: Value, variable: str | None = None) -> Any:
        """The value of what stands in a policy file. With a *variable*, it stays in it.

        Raises:
            PolicyFailed: an expression fails.
        """
        evaluator = self.shared.evaluator
        if not isinstance(value, Expression):
            if variable is not None:
                await evaluator.assign(self.id, variable, value)
            return value
        result, consumed = await evaluator.evaluate(self.id, value, await self._context(value), variable)
        if "request" in consumed:
            self.request.body = None
        if "response" in consumed and self.response is not None:
            self.response.body = None
        return result

    async def _context(self, expression: Expression) -> dict[str, Any]:
        request, response, failure = self.request, self.response, self.failure
        product = self.api.product
        return {
            "requestId": self.id,
            "api": {"id": self.api.name, "name": self.api.display_name, "path": self.api.path},
            "operation": {
                "id": self.operation.name,
                "name": self.operation.name,
                "method": self.operation.method,
                "urlTemplate": self.operation.template,
            },
            "product": product and {"id": product.name, "name": product.display_name},
            "subscription": self.subscription
            and {"id": self.subscription.id, "key": self.subscription.key, "name": self.subscription.name},
            "lastError": failure
            and {
                "source": failure.source,
                "reason": failure.reason,
                "message": failure.message,
                "section": self.section,
            },
            "request": {
                "method": request.method,
                "ipAddress": request.address,
                "headers": request.headers.json(),
                "matchedParameters": {name: unquote(value) for name, value in self.matched.items()},
                "url": request.url.json(),
                "originalUrl": self.original_url.json(),
                "body": await _body(request.body, expression.reads_request_body),
            },
            "response": response
            and {
                "statusCode": response.status,
                "statusReason": response.reason,
                "headers": response.headers.json(),
                "body": await _body(response.body, expression.reads_response_body),
            },
        }


async def _body(body: Body | None, is_read: bool) -> dict[str, str] | None:
    """That there is a body, and what it is if an expression reads it."""
    if body is None or not is_read:
        return None if body is None else {}
    return {"base64": base64.b64encode(await body.read()).decode()}
