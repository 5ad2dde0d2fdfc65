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
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from opentelemetry import context, metrics, trace
from opentelemetry._logs import get_logger_provider
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared import telemetry_export
from shared.settings import Settings
from shared.tasks.task import Task

log = logging.getLogger("task_backbone")

FLUSH_S = 5.0
SERIES_LIMIT = 2_000
"""How many series a gauge has at a time. One that had no number for ``SILENT_S`` makes room."""
SERIES_IN_LIFE = 10_000
"""How many it has in the life of a process, for the SDK keeps 1.4 KB of each for ever."""
SILENT_S = 3_600
"""Longer than it takes until a number that stays 0 is reported again."""
CURRENT_S = 300
"""After so long a number that was not sent is no news: the platform may have frozen the instance meanwhile."""
ERRORS_LIMIT = 50

_Series = tuple[tuple[str, str], ...]

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


class _Gauge:
    """A gauge that sends each value once. The SDK's own would send the last value for ever, with each export, also
    from an instance whose timer has moved on to another."""

    def __init__(self, name: str, description: str, now_s: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._now_s = now_s
        self._unsent: dict[_Series, tuple[float, float]] = {}
        self._set_s: OrderedDict[_Series, float] = OrderedDict()
        """When each series that has a place got its last number, in that order."""
        self._ever: set[_Series] = set()
        self._is_full = False
        self._lock = threading.Lock()
        _meter.create_observable_gauge(name, [self._observe], description=description)

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def set(self, value: float, **attributes: str) -> None:
        series, now_s = tuple(attributes.items()), self._now_s()
        with self._lock:
            if self._has_place(series, now_s):
                self._set_s[series] = now_s
                self._set_s.move_to_end(series)
                self._ever.add(series)
                self._unsent[series] = value, now_s
                return
            is_first, self._is_full = not self._is_full, True
        if is_first:
            log.warning(
                "the metric %s has %d series now, or %d since this process began; it sends no others",
                self._name,
                SERIES_LIMIT,
                SERIES_IN_LIFE,
            )

    def _has_place(self, series: _Series, now_s: float) -> bool:
        if series in self._set_s:
            return True
        if series not in self._ever and len(self._ever) >= SERIES_IN_LIFE:
            return False
        if len(self._set_s) >= SERIES_LIMIT and now_s - next(iter(self._set_s.values())) >= SILENT_S:
            self._set_s.popitem(last=False)
        return len(self._set_s) < SERIES_LIMIT

    def _observe(self, _options: CallbackOptions) -> list[Observation]:
        with self._lock:
            unsent, self._unsent = self._unsent, {}
        since_s = self._now_s() - CURRENT_S
        return [
            Observation(value, dict(attributes)) for attributes, (value, set_s) in unsent.items() if set_s >= since_s
        ]


_depth = _Gauge("tasks.depth", "Tasks by endpoint path and state, as Redis counts them.")
_oldest_waiting = _Gauge("tasks.oldest_waiting_seconds", "How long the oldest waiting task of a path has waited.")
_requests = _Gauge("requests.current", "Requests in flight, as the model services report.")

_is_sent = False
"""Whether telemetry is sent. If not, requests make no spans and events; they still pass trace contexts on."""

_is_told = False
"""Whether transitions are logged: where telemetry is sent, and before a developer's eyes."""

_host_tells_requests = False
"""Whether the Functions host sends a span for each request, of which the app's span is a part then."""


def configure(settings: Settings, environ: Mapping[str, str]) -> None:
    """Send telemetry to Application Insights, if the settings say where that is."""
    global _is_sent, _is_told, _host_tells_requests
    _is_sent = telemetry_export.configure(settings, environ)
    _is_told = _is_sent or settings.azure_functions_environment.lower() == "development"
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
    has_metrics = _has_interruptions or any(gauge.has_unsent for gauge in (_depth, _oldest_waiting, _requests))
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


def depth(path: str, state: str, count: int) -> None:
    _depth.set(count, path=path, state=state)


def oldest_waiting(path: str, age_s: float) -> None:
    _oldest_waiting.set(age_s, path=path)


def requests_in_flight(cluster: str, path: str, count: int) -> None:
    _requests.set(count, cluster=cluster, path=path)


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


def transition(task: Task) -> None:
    """Log one custom event per transition, in the task's trace. It leaves out the status text, which is the
    caller's."""
    if not _is_told:
        return
    trace.get_current_span().set_attribute("task.id", task.id)
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
        },
    )
    if attached is not None:
        context.detach(attached)


def setback(task: Task, what: str, *, is_expected: bool = False) -> None:
    """Log for the operator, in one line, that an attempt was refused, is made again or has failed."""
    level = logging.INFO if is_expected else logging.WARNING
    log.log(level, "task %s at %s, attempt %d: %s", task.id, task.path, task.attempt, what)


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
def producer_spans(tasks: Sequence[Task]) -> Generator[list[dict[str, str]]]:
    """The spans of tasks whose events are published in one request. Yields the trace context for each event."""
    if not _is_sent:
        yield [{"traceparent": task.traceparent} if task.traceparent else {} for task in tasks]
        return
    links = _links()
    spans = [
        _tracer.start_span("publish", _context(task.traceparent), SpanKind.PRODUCER, _attributes(task), links=links)
        for task in tasks
    ]
    try:
        yield [_headers(trace.set_span_in_context(span, Context())) for span in spans]
    finally:
        for span in spans:
            span.end()


def consumer_span(task: Task, traceparent: str) -> AbstractContextManager[Span]:
    """The span of a dispatch. Its parent comes from the event; a link leads to the delivery's own trace."""
    parent = traceparent or task.traceparent
    if not _is_sent:
        return _Passing({"traceparent": parent})
    return _tracer.start_as_current_span(
        "dispatch", _context(parent), SpanKind.CONSUMER, _attributes(task), links=_links()
    )


def client_span(task: Task, url: str) -> AbstractContextManager[Span]:
    """The span of the call to the model service."""
    if not _is_sent:
        return nullcontext(INVALID_SPAN)
    return _tracer.start_as_current_span(
        f"POST {task.path}",
        kind=SpanKind.CLIENT,
        attributes={**_attributes(task), "http.request.method": "POST", "url.full": url.partition("?")[0]},
    )


def join(task: Task, name: str, started_ns: int) -> None:
    """Put a step that came in a trace of its own into the task's trace too. Such steps come from clients that pass no
    trace on."""
    if not _is_sent:
        return
    trace.get_current_span().set_attribute("task.id", task.id)
    if _is_elsewhere(task):
        parent = _context(task.traceparent)
        _tracer.start_span(name, parent, attributes=_attributes(task), links=_links(), start_time=started_ns).end()


def answered(status: int) -> None:
    """Put the model service's answer on the span of the call to it."""
    trace.get_current_span().set_attribute("http.response.status_code", status)


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
    return {"task.id": task.id, "task.path": task.path, "task.attempt": task.attempt}
