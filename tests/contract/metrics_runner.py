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
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader, MetricsData


class KeptMetrics(MetricReader):
    """Keeps what a timer's flush takes too. Counters as the exporter to Application Insights has them."""

    def __init__(self) -> None:
        super().__init__(preferred_temporality={Counter: AggregationTemporality.DELTA})
        self.kept: list[MetricsData] = []

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> None:
        self.kept.append(metrics_data)

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        return


reader = KeptMetrics()
metrics.set_meter_provider(MeterProvider([reader]))

import function_app  # noqa: E402  after the provider


def gauges() -> dict[str, list[dict[str, Any]]]:
    reader.collect()
    kept, reader.kept = reader.kept, []
    found: dict[str, list[dict[str, Any]]] = {}
    for resource in (resource for data in kept for resource in data.resource_metrics):
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            found.setdefault(metric.name, []).extend(
                {**dict(point.attributes or {}), "value": getattr(point, "value", None)}
                for point in metric.data.data_points
            )
    return found


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
