"""Metrics, traces and events, through the OpenTelemetry API. Without a connection string, nothing is sent.

One trace spans all steps of a task: the task's record keeps the traceparent of the submit, and every later span joins
that trace (see ``docs/telemetry.md``).
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Final
from weakref import WeakKeyDictionary

from opentelemetry import context, metrics, trace
from opentelemetry._logs import get_logger_provider
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared import conventions, gauges, step_counts, telemetry_export
from shared.settings import Settings, TelemetryEvents
from shared.tasks.ending import ending_of
from shared.tasks.task import Task

log = logging.getLogger("task_backbone")

FLUSH_S = 5.0
ERRORS_LIMIT = 50
_STATUS_CODE: Final = conventions.HTTP_RESPONSE_STATUS_CODE
TASK_ID: Final = "task.id"
"""By which all that is told of a task is found, and of a batch."""

_tracer = trace.get_tracer("task_backbone")
_meter = metrics.get_meter("task_backbone")
_propagator = TraceContextTextMapPropagator()
_PLAIN = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_batches_interrupted = _meter.create_counter(
    "redis.batches.interrupted", description="Batches of commands to Redis that did not get all their replies."
)
_writes_unacknowledged = _meter.create_counter(
    "redis.writes.unacknowledged",
    description="Steps that Redis has taken, and whose writes did not arrive in time where DURABILITY wants them.",
)
_errors: set[str] = set()
_has_interruptions = False
"""Whether either counter has grown since the last flush."""

_flushes: WeakKeyDictionary[object, threading.Thread] = WeakKeyDictionary()
_beginning = threading.Lock()


_is_sent = False
"""Whether telemetry is sent. If not, requests make no spans and events; they still pass trace contexts on."""

_events: TelemetryEvents = "none"
"""Which transitions are logged as events: where telemetry is sent, those that the settings name; before a developer's
eyes, all of them."""

_host_tells_requests = False
"""Whether the Functions host sends a span for each request, of which the app's span is a part then."""


def configure(settings: Settings, environ: Mapping[str, str]) -> None:
    """Send telemetry to Application Insights, if the settings say where that is."""
    global _is_sent, _events, _host_tells_requests
    _is_sent = telemetry_export.configure(settings, environ)
    is_developed = settings.azure_functions_environment.lower() == "development"
    _events = settings.telemetry_events if _is_sent else "all" if is_developed else "none"
    _host_tells_requests = _is_sent and settings.host_tells_requests


def flush() -> None:
    """Send the waiting telemetry, for ``FLUSH_S`` at most. The platform may freeze an instance before the exporter's
    next interval. Metrics are among it only if one of the app's has something to send: all others are sent with it.

    A provider ignores its timeout and ends its flush when nothing waits any more. That never happens if each new
    request leaves its span while the last span is sent. So each flush runs in a thread of its own, and a provider's
    next flush does not begin before its last one has ended.
    """
    deadline_s = time.monotonic() + FLUSH_S

    def await_end(flushing: threading.Thread) -> bool:
        flushing.join(max(0.0, deadline_s - time.monotonic()))
        return not flushing.is_alive()

    begun: list[threading.Thread] = []
    global _has_interruptions
    has_metrics = _has_interruptions or any(gauge.has_unsent for gauge in gauges.ALL)
    _has_interruptions = False
    providers = [metrics.get_meter_provider()] if has_metrics else []
    for provider in (*providers, get_logger_provider(), trace.get_tracer_provider()):
        force_flush = getattr(provider, "force_flush", None)
        earlier = _flushes.get(provider)
        if force_flush is not None and (earlier is None or await_end(earlier)):
            begun.append(_begin_flush(provider, force_flush, earlier))
    for flushing in begun:
        await_end(flushing)


def _begin_flush(
    provider: object, force_flush: Callable[[], object], earlier: threading.Thread | None
) -> threading.Thread:
    with _beginning:
        begun = _flushes.get(provider)
        if begun is None or begun is earlier:
            begun = threading.Thread(target=force_flush, name="telemetry flush", daemon=True)
            begun.start()
            _flushes[provider] = begun
        return begun  # another caller may have begun it, even after this one came


def batch_interrupted(error: str) -> None:
    global _has_interruptions
    _has_interruptions = True
    if error in _errors or len(_errors) < ERRORS_LIMIT:
        _errors.add(error)
    else:
        error = "other"
    _batches_interrupted.add(1, {"error": error})


def unacknowledged(reason: str, steps: int) -> None:
    """
    Args:
        reason: 'late', 'refused' if the server answered with an error, or 'interrupted' if it did not answer.
    """
    global _has_interruptions
    _has_interruptions = True
    _writes_unacknowledged.add(steps, {"reason": reason})


def transition(task: Task, late_ms: int = 0) -> None:
    """Log one custom event per transition, in the task's trace; with an end, why it has ended. It leaves out the
    status text, which is the caller's.

    Args:
        late_ms: how long ago the end was reported that takes effect now.
    """
    if _is_sent:
        step_counts.transition(task)
        trace.get_current_span().set_attribute(TASK_ID, task.id)
    if _events == "none" or (_events == "ends" and not task.state.is_terminal):
        return
    attached = context.attach(_context(task.traceparent)) if _is_elsewhere(task) else None
    log.info(
        "task %s at %s is %s (attempt %d)",
        task.id,
        task.path,
        task.state,
        task.attempt,
        extra={
            "microsoft.custom_event.name": "TaskStateChanged",
            "task.state": task.state.value,
            **_attributes(task),
            **(_end_attributes(task, late_ms) if task.state.is_terminal else {}),
        },
    )
    if attached is not None:
        context.detach(attached)


def operator_action(
    action: str, target: str | None, count: int | None, *, operator: str | None, by: str, operation_id: str | None
) -> None:
    """Log one custom event for what an operator has done.

    Args:
        count: how many tasks or queues that has changed; None if nobody knows.
        operator: None if nobody knows the name.
        by: how the app knows who acts.
    """
    log.info(
        "an operator (%s, by %s) did: %s %s",
        operator or "not known",
        by,
        action,
        target or "",
        extra={
            "microsoft.custom_event.name": "OperatorAction",
            "operator.action": action,
            "operator.by": by,
            **({} if operator is None else {"operator.name": operator}),
            **({} if target is None else {"operator.target": target}),
            **({} if count is None else {"operator.count": count}),
            **({} if operation_id is None else {"operator.operation": operation_id}),
            **({} if target is None or target.startswith("/") else about(target)),
        },
    )


def setback(task: Task, what: str, *, is_expected: bool = False) -> None:
    """Log for the operator, in one line, that an attempt was refused, is made again or has failed."""
    level = logging.INFO if is_expected else logging.WARNING
    text = "task %s at %s, attempt %d: %s"
    log.log(level, text, task.id, task.path, task.attempt, what, extra=_attributes(task))


def about(task_id: str) -> dict[str, str]:
    """The attributes of a log line about a task or a batch, as ``extra`` of the logging call: by them it is found
    beside the task's spans and events."""
    return {TASK_ID: task_id}


def invocation_span(
    name: str, headers: Mapping[str, str], *, is_from_host: bool = False
) -> AbstractContextManager[Span]:
    """The span of one function call, in the trace of its caller.

    If the trace context of the *headers* is from the host, and the host tells requests itself, the span is an
    internal one. Application Insights would otherwise count two requests.
    """
    if _is_sent:
        kind = SpanKind.INTERNAL if is_from_host and _host_tells_requests else SpanKind.SERVER
        return _tracer.start_as_current_span(name, context=_propagator.extract(headers), kind=kind)
    return _Passing(headers) if headers.get("traceparent") else nullcontext(INVALID_SPAN)


@contextmanager
def handling(task_id: str) -> Generator[None]:
    """What is logged meanwhile is about this task, if it says nothing else."""
    token = telemetry_export.current_task.set(task_id)
    try:
        yield
    finally:
        telemetry_export.current_task.reset(token)


@contextmanager
def request_about(task_id: str) -> Generator[None]:
    """The present request is about this task."""
    if _is_sent:
        trace.get_current_span().set_attribute(TASK_ID, task_id)
    with handling(task_id):
        yield


def answered_request(span: Span, method: str, route: str, url: str, status: int) -> None:
    """Describe a request and its answer on its *span*.

    Args:
        route: as the Functions host has it, without the prefix of all routes.
    """
    if not span.is_recording():
        return
    # Without the method, Application Insights shows neither the status nor that the request failed.
    span.set_attributes({**conventions.server(method, f"/api/{route}", url), _STATUS_CODE: status})
    if status >= 500:  # it takes a 4xx for a failure without being told
        span.set_status(StatusCode.ERROR)
        span.set_attribute(conventions.ERROR_TYPE, str(status))


_passed: ContextVar[Mapping[str, str]] = ContextVar("passed")


class _Passing:
    """Keeps a caller's trace context while no telemetry is sent. It is parsed only if it is passed on."""

    __slots__ = ("_headers", "_token")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __enter__(self) -> Span:
        self._token = _passed.set(self._headers)
        return INVALID_SPAN

    def __exit__(self, *_: object) -> None:
        _passed.reset(self._token)


@contextmanager
def producer_spans(tasks: Sequence[Task], message_ids: Sequence[str], topic: str) -> Generator[list[dict[str, str]]]:
    """The spans of tasks whose events are published in one request. Yields the trace context for each event.

    Args:
        message_ids: of the events.
        topic: the name of the topic's host.
    """
    if not _is_sent:
        yield [{"traceparent": task.traceparent} if task.traceparent else {} for task in tasks]
        return
    links = _links()
    spans = [
        _tracer.start_span(
            "publish",
            _context(task.traceparent),
            SpanKind.PRODUCER,
            {**_attributes(task), **conventions.sent(message_id, topic)},
            links=links,
        )
        for task, message_id in zip(tasks, message_ids, strict=True)
    ]
    try:
        yield [_headers(trace.set_span_in_context(span, Context())) for span in spans]
    except Exception as error:
        for span in spans:
            span.set_status(StatusCode.ERROR)
            span.set_attribute(conventions.ERROR_TYPE, type(error).__name__)
        raise
    finally:
        for span in spans:
            span.end()


@contextmanager
def consumer_span(task: Task, message_id: str, traceparent: str, topic: str | None = None) -> Generator[None]:
    """The span of a dispatch. Its parent comes from the event; a link leads to the delivery's own trace. What is
    logged meanwhile is about the task.

    Args:
        message_id: of the event, and of the task's entry in its queue.
        traceparent: the event's; empty if it has none.
        topic: the name of the host of the event's topic. None: the queue gave the task a slot, without an event.
    """
    parent = traceparent or task.traceparent
    if _is_sent:
        attributes = conventions.processed(message_id, task.path, topic)
        span = _tracer.start_as_current_span(
            "dispatch", _context(parent), SpanKind.CONSUMER, {**_attributes(task), **attributes}, links=_links()
        )
    else:
        span = _Passing({"traceparent": parent})
    with handling(task.id), span:
        yield


def client_span(task: Task, url: str) -> AbstractContextManager[Span]:
    """The span of the call to the model service."""
    if not _is_sent:
        return nullcontext(INVALID_SPAN)
    return _tracer.start_as_current_span(
        f"POST {task.path}",
        kind=SpanKind.CLIENT,
        attributes={**_attributes(task), **conventions.client("POST", url)},
    )


def join(task: Task, name: str, started_ns: int) -> None:
    """Put a step that came in a trace of its own into the task's trace too. Such steps come from clients that pass no
    trace on."""
    if not _is_sent:
        return
    trace.get_current_span().set_attribute(TASK_ID, task.id)
    if _is_elsewhere(task):
        parent = _context(task.traceparent)
        _tracer.start_span(name, parent, attributes=_attributes(task), links=_links(), start_time=started_ns).end()


def answered(status: int) -> None:
    """Put the model service's answer on the span of the call to it."""
    trace.get_current_span().set_attribute(_STATUS_CODE, status)


def not_accepted(span: Span, error_type: str) -> None:
    """The model service did not take the task."""
    span.set_status(StatusCode.ERROR)
    span.set_attribute(conventions.ERROR_TYPE, error_type)


def outgoing(task: Task) -> Mapping[str, str]:
    """The current trace context as headers, or the task's own if there is none."""
    return _current_headers() or ({"traceparent": task.traceparent} if task.traceparent else {})


def traceparent() -> str:
    """The current trace context, for a task's record. Empty if there is none."""
    return _current_headers().get("traceparent", "")


def now_ns() -> int:
    return time.time_ns()


def _current_headers() -> Mapping[str, str]:
    if _is_sent:
        return _headers(None)
    passed = _passed.get({})
    # Almost all contexts are plain. The propagator would write exactly what it has read, in five times the time.
    if _PLAIN.fullmatch(passed.get("traceparent", "")) and not passed.get("tracestate"):
        return {"traceparent": passed["traceparent"]}
    headers = _headers(_propagator.extract(passed, context=Context()))
    if not headers and passed.get("traceparent"):
        # None that is valid: a new trace begins, which nobody records here.
        headers = {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"}
        _passed.set(headers)
    return headers


def _headers(context: Context | None) -> dict[str, str]:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, context)
    return carrier


def _context(traceparent: str) -> Context:
    # An empty context, not None: None would mean the current one.
    return _propagator.extract({"traceparent": traceparent}, context=Context())


def _is_elsewhere(task: Task) -> bool:
    """Whether the current trace is another than the task's."""
    theirs = trace.get_current_span(_context(task.traceparent)).get_span_context()
    return theirs.is_valid and theirs.trace_id != trace.get_current_span().get_span_context().trace_id


def _links() -> list[Link]:
    current = trace.get_current_span().get_span_context()
    return [Link(current)] if current.is_valid else []


def _attributes(task: Task) -> dict[str, str | int]:
    return {TASK_ID: task.id, "task.path": task.path, "task.attempt": task.attempt}


def _end_attributes(task: Task, late_ms: int) -> dict[str, str | int | float]:
    ending = ending_of(task, late_ms)
    attributes: dict[str, str | int | float] = {"task.failures": task.failures}
    if ending.reason is not None:
        attributes["task.reason"] = ending.reason.value
    if ending.wait_ms is not None:
        attributes["task.wait_s"] = ending.wait_ms / 1000
    if ending.run_ms is not None:
        attributes["task.run_s"] = ending.run_ms / 1000
    return attributes
