"""Runs the app in Microsoft's own worker code without the .NET host, whose requests arrive as JSON lines instead.

``worker.py`` starts it in the app's directory, with a Python that has ``azure-functions-runtime``. It prints the
functions that it has indexed as the first line, and then one line for each line that it reads:

    {"function": name, "http": {"method", "url", "headers", "params", "query", "body"}, "traceparent"}    body: base64
    {"function": name, "timer": {…}}
    {"flush": true}    export what waits; with false, all but the metrics
    → {"ok": true, "status", "headers", "body"}  |  {"ok": false, "error"}
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from azure_functions_runtime import handle_event, native_invocation  # pyright: ignore[reportMissingImports]
from azure_functions_runtime.bindings.datumdef import Datum  # pyright: ignore[reportMissingImports]

APP = Path.cwd()


class StatusResult(SimpleNamespace):
    Success, Failure = "Success", "Failure"


class BindingInfo(SimpleNamespace):
    undefined, out, inout = -1, 1, 2


# The protobuf classes that indexing needs, as plain objects.
PROTOS = SimpleNamespace(
    StatusResult=StatusResult,
    BindingInfo=BindingInfo,
    **dict.fromkeys(
        (
            "FunctionLoadResponse",
            "FunctionMetadataResponse",
            "RpcException",
            "RpcFunctionMetadata",
            "RpcRetryOptions",
            "WorkerInitResponse",
            "WorkerMetadata",
        ),
        SimpleNamespace,
    ),
)


def request(kind: str, **members: object) -> SimpleNamespace:
    return SimpleNamespace(
        request=SimpleNamespace(**{kind: SimpleNamespace(**members)}),
        properties={"host": "127.0.0.1", "protos": PROTOS},
    )


async def index() -> tuple[dict[str, Any], dict[str, str]]:
    """The functions as the worker reports them to the host, and their ids by name."""
    started = await handle_event.worker_init_request(
        request("worker_init_request", capabilities={}, function_app_directory=str(APP))
    )
    if started.result.status != StatusResult.Success:
        return {"error": started.result.exception.message, "stack_trace": started.result.exception.stack_trace}, {}
    metadata = await handle_event.functions_metadata_request(request("functions_metadata_request"))
    ids = {function.name: function.function_id for function in metadata.function_metadata_results}
    loaded: list[str] = []
    for name, function_id in ids.items():
        answer = await handle_event.function_load_request(request("function_load_request", function_id=function_id))
        if answer.result.status == StatusResult.Success:
            loaded.append(name)
    bindings = {
        function.name: [json.loads(binding) for binding in function.raw_bindings]
        for function in metadata.function_metadata_results
    }
    return {"worker": started.worker_metadata.worker_version, "loaded": loaded, "bindings": bindings}, ids


def text(value: str) -> Datum:
    return Datum(value, "string")


def texts(values: dict[str, str]) -> dict[str, Datum]:
    return {name: text(value) for name, value in values.items()}


def http_input(call: dict[str, Any]) -> Datum:
    return Datum(
        {
            "method": text(call["method"]),
            "url": text(call["url"]),
            "headers": texts(call["headers"]),
            "params": texts(call["params"]),
            "query": texts(call["query"]),
            "body": Datum(base64.b64decode(call["body"]), "bytes"),
        },
        "http",
    )


async def invoke(call: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    if "flush" in call:
        from tests.telemetry.driven_flush import flush

        return {"ok": flush(with_metrics=call["flush"]), "error": "each export makes another"}
    inputs = (
        [("req", http_input(call["http"]))]
        if "http" in call
        else [("timer", Datum(json.dumps(call["timer"]), "json"))]
    )
    ok, returned, outputs, error, stack_trace = await native_invocation.invocation_request_native(
        str(uuid.uuid4()), ids[call["function"]], inputs, {}, call.get("traceparent", "")
    )
    if not ok:
        return {"ok": False, "error": f"{error}\n{stack_trace}"}
    assert outputs == []
    if returned is None:
        return {"ok": True}
    response = returned.value
    body = response["body"].value or b""
    return {
        "ok": True,
        "status": int(response["status_code"].value),
        "headers": {name.lower(): datum.value for name, datum in response["headers"].items()},
        "body": base64.b64encode(body.encode() if isinstance(body, str) else body).decode(),
    }


async def main() -> None:
    sys.path.insert(0, str(APP))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)  # the level that the worker sets
    # The output of the app must not be mistaken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    indexed, ids = await index()
    print(json.dumps(indexed), file=answers, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await invoke(json.loads(line), ids)), file=answers, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
