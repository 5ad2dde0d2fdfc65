"""The policy ``cors``: what a browser may do on pages of other origins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local.gateway.grammar import Node
from local.gateway.messages import Headers, Response

if TYPE_CHECKING:
    from local.gateway.exchange import Exchange
    from local.gateway.policies import Step


def build(node: Node, _: str) -> Step:
    async def step(exchange: Exchange) -> None:
        origin = exchange.request.headers.get("Origin")
        if origin is not None and _allows(node, "allowed-origins", "origin", origin):
            exchange.sharing = _origin(node, origin)
            if exposed := ", ".join(map(str, node.texts("expose-headers", "header"))):
                exchange.sharing.append("Access-Control-Expose-Headers", exposed)

    return step


def preflight(node: Node, headers: Headers) -> Response:
    """The answer to a browser that asks before it sends a request: without permissions if that is not allowed."""
    origin, method = headers.get("Origin") or "", headers.get("Access-Control-Request-Method") or ""
    names = (headers.get("Access-Control-Request-Headers") or "").split(",")
    asked = [name.strip() for name in names if name.strip()]
    is_allowed = (
        _allows(node, "allowed-origins", "origin", origin)
        and _allows(node, "allowed-methods", "method", method)
        and all(_allows(node, "allowed-headers", "header", name) for name in asked)
    )
    if not is_allowed:
        return Response(200)
    answer = _origin(node, origin)
    answer.append("Access-Control-Allow-Methods", method)
    if asked:
        answer.append("Access-Control-Allow-Headers", ", ".join(asked))
    for methods in node.of("allowed-methods"):
        if "preflight-result-max-age" in methods.attributes:
            answer.append("Access-Control-Max-Age", str(methods.attributes["preflight-result-max-age"]))
    return Response(200, answer)


def _origin(node: Node, origin: str) -> Headers:
    allowed = Headers([("Access-Control-Allow-Origin", origin), ("Vary", "Origin")])
    if node.attributes.get("allow-credentials", False):
        allowed.append("Access-Control-Allow-Credentials", "true")
    return allowed


def _allows(node: Node, group: str, item: str, value: str) -> bool:
    allowed = [str(text) for text in node.texts(group, item)]
    return "*" in allowed or value.lower() in (text.lower() for text in allowed)
