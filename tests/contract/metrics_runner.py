"""Runs the app's functions on demand and prints the metrics that a timer reports: a program of test_metric_timers.py.

Reads a request per line, ``{"function": …, "body": …, "route": …}``, and answers each with a line of JSON: for an
HTTP function its status and body; for a timer the gauges by name, ``{"path": …, "value": …}``; for "" the schedules.
"""

import asyncio
import json
import sys
from types import SimpleNamespace
from typing import Any

import azure.functions as func
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))

import function_app  # noqa: E402  after the provider


def gauges() -> dict[str, list[dict[str, Any]]]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: [
            {**dict(point.attributes or {}), "value": getattr(point, "value", None)}
            for point in metric.data.data_points
        ]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def main() -> None:
    functions: dict[str, Any] = {str(each.get_function_name()): each for each in function_app.app.get_functions()}
    timers = {
        name: each.get_trigger().schedule
        for name, each in functions.items()
        if each.get_trigger().type == "timerTrigger"
    }
    context = SimpleNamespace(trace_context=SimpleNamespace(trace_parent=None, trace_state=None))
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        name = request["function"]
        answer: Any
        if not name:
            answer = timers
        elif name in timers:
            await functions[name].get_user_function()(SimpleNamespace(past_due=False))
            answer = gauges()
        else:
            message = func.HttpRequest(
                "POST",
                f"http://127.0.0.1/api/{name}",
                route_params=request.get("route", {}),
                body=json.dumps(request.get("body")).encode(),
            )
            response = await functions[name].get_user_function()(message, context)
            answer = {"status": response.status_code, "body": response.get_body().decode()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
