"""The webhook of Event Grid triggers, `/runtime/webhooks/eventgrid?functionName=F`.

- `SubscriptionValidation`: 200 with the validation code; a CloudEvents `OPTIONS`: 200 allowing its origin.
- `Notification`: runs the function for every event; 202, or 500 with the message if a run failed.
- `Unsubscribe`: 202. Anything else: 400.
"""

import asyncio
import json
from collections.abc import Mapping

from local.functions_host.http_messages import Request, Response
from local.functions_host.indexing import EVENT_GRID_TRIGGER, Function
from local.functions_host.invocation import Invoker


async def handle_delivery(
    request: Request, functions: Mapping[str, Function], invoker: Invoker, body_limit_bytes: int
) -> Response:
    name = request.query_value("functionname") or ""
    function = functions.get(name)
    if function is None or function.trigger_type != EVENT_GRID_TRIGGER or function.is_disabled:
        return Response(404, body=f"cannot find function: '{name}'".encode())
    if request.method == "OPTIONS":
        origin = request.headers.get("webhook-request-origin", "")
        return Response(200, ((b"webhook-allowed-origin", origin.encode("latin-1", "replace")),))

    body = await request.body(body_limit_bytes)
    match request.headers.get("aeg-event-type", "").lower():
        case "subscriptionvalidation":
            return Response.json(200, {"validationResponse": json.loads(body)[0]["data"]["validationCode"]})
        case "notification":
            return await _run_for_events(function, body, request.headers, invoker)
        case "unsubscribe":
            return Response(202)
    return Response(400)


async def _run_for_events(function: Function, body: bytes, headers: Mapping[str, str], invoker: Invoker) -> Response:
    try:
        delivered = json.loads(body)
        events = delivered if isinstance(delivered, list) else [delivered]
        arguments = [function.decode(json.dumps(event), "json") for event in events]
    except (ValueError, TypeError) as error:
        return Response(500, body=str(error).encode())
    invocations = [invoker.start(function, argument, headers=headers) for argument in arguments]
    results = await asyncio.gather(*invocations, return_exceptions=True)
    failure = next((result for result in results if isinstance(result, BaseException)), None)
    return Response(500, body=str(failure).encode()) if failure else Response(202)
