"""Runs the app's functions as a Functions worker does, on any Python: a program of functions_worker.py.

It is started with ``configuring`` if the worker itself is to configure the exporter. Worker 4.34 does so on
``PYTHON_ENABLE_OPENTELEMETRY``, later ones on ``PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY``. It reads a request per
line and answers each with a line of JSON:

    {"timer": name}
    {"http": name, "route", "headers", "body", "traceparent"}    the traceparent is the host's  →  {"status"}
    {"log": logger name, "level", "text"}
    {"flush": true}                                              also the metrics  →  {"ended"}
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import uuid
from typing import Any

import azure.functions as func

from tests.telemetry.driven_flush import flush


def invocation_context(traceparent: str | None) -> Any:
    class Trace:
        trace_parent, trace_state = traceparent, None

    class Context:
        trace_context = Trace

    return Context


async def answer(request: dict[str, Any], functions: dict[str, Any], worker_log: logging.Logger) -> Any:
    match request:
        case {"timer": name} | {"http": name}:
            text = "Received FunctionInvocationRequest, request ID: %s, function name: %s, invocation ID: %s"
            worker_log.info(text, uuid.uuid4(), name, uuid.uuid4())
    match request:
        case {"timer": name}:
            await functions[name](object())
        case {"http": name}:
            message = func.HttpRequest(
                "POST",
                f"http://127.0.0.1/api/{name}",
                headers=request["headers"],
                route_params=request["route"],
                body=request["body"].encode(),
            )
            response = await functions[name](message, invocation_context(request["traceparent"]))
            return {"status": response.status_code}
        case {"log": name, "level": level, "text": text}:
            logging.getLogger(name).log(level, text)
        case {"flush": with_metrics}:
            return {"ended": flush(with_metrics=with_metrics)}
    return {}


async def main() -> None:
    # As the worker sets it, before it loads the app.
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    worker_log = logging.getLogger("azure_functions_worker")
    worker_log.setLevel(logging.INFO)
    if "configuring" in sys.argv:
        from azure.monitor.opentelemetry import configure_azure_monitor

        os.environ.setdefault("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "azure_functions")
        configure_azure_monitor(
            connection_string=os.environ["APPLICATIONINSIGHTS_CONNECTION_STRING"],
            logger_name=os.environ.get("PYTHON_APPLICATIONINSIGHTS_LOGGER_NAME", ""),
        )

    import function_app

    functions = {str(each.get_function_name()): each.get_user_function() for each in function_app.app.get_functions()}
    answers, sys.stdout = sys.stdout, sys.stderr
    while line := await asyncio.to_thread(sys.stdin.readline):
        answers.write(json.dumps(await answer(json.loads(line), functions, worker_log)) + "\n")
        answers.flush()


if __name__ == "__main__":
    asyncio.run(main())
