"""Spans of tasks, by the OpenTelemetry API, for whoever has configured OpenTelemetry in this process.

The supervisor has a span for each attempt, which continues the task's `traceparent`, and one for each report of it.
The function's span is the attempt's child, in the worker. What the model traces and logs joins it there.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Callable

from opentelemetry.trace import SpanKind, get_tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import _reports, _supervisor, _task
from ._attempts import Attempt

_tracer = get_tracer("taskbackbone")
_propagator = TraceContextTextMapPropagator()
Note = Callable[[str, Any], None]


def install() -> None:
    _supervisor.span, _reports.span, _task.span = _attempt, _report, _work


@contextmanager
def _attempt(attempt: Attempt) -> Generator[Note, None, None]:
    parent = _propagator.extract(attempt.trace)
    told = _told(attempt.task_id, attempt.number)
    with _tracer.start_as_current_span(f"task {attempt.path}", parent, SpanKind.CONSUMER, told) as span:
        _propagator.inject(attempt.trace)  # for the worker and the reports
        yield span.set_attribute


@contextmanager
def _report(attempt: Attempt, method: str, path: str) -> Generator[Note, None, None]:
    parent = _propagator.extract(attempt.trace)
    told = {**_told(attempt.task_id, attempt.number), "http.request.method": method, "url.path": path}
    with _tracer.start_as_current_span(f"report {method}", parent, SpanKind.CLIENT, told) as span:
        yield span.set_attribute


@contextmanager
def _work(attempt: Attempt) -> Generator[None, None, None]:
    parent, told = _propagator.extract(attempt.trace), _told(attempt.task_id, attempt.number)
    with _tracer.start_as_current_span(f"work {attempt.path}", parent, SpanKind.INTERNAL, told):
        yield


def _told(task_id: str | None, number: int | None) -> dict[str, Any]:
    told = {"task.id": task_id, "task.attempt": number}
    return {name: value for name, value in told.items() if value}
