"""What the telemetry modules of this folder share: logs, spans and gauges on OpenTelemetry, to Application Insights.

The environment names the resources: ``APPLICATIONINSIGHTS_CONNECTION_STRING``, or a key as the images had it,
``APPINSIGHTS_INSTRUMENTATIONKEY``, and a second one, ``APPINSIGHTS_AI4E_INSTRUMENTATIONKEY``. The packages are
imported when they are needed. Without them, one line in the log says so, and the service works without telemetry.
"""

from __future__ import annotations

import copy
import importlib
import logging
import os
import re
import sys
import threading
import time
import traceback
import warnings
from typing import Any, Dict, Iterable, List, Tuple

_KEYS = ("APPINSIGHTS_INSTRUMENTATIONKEY", "APPINSIGHTS_AI4E_INSTRUMENTATIONKEY")
_SERVICE = (
    ("SERVICE_OWNER", "service_owner"),
    ("SERVICE_NAME", "service_name"),
    ("SERVICE_VERSION", "service_version"),
    ("SERVICE_CLUSTER", "service_cluster"),
    ("SERVICE_MODEL_NAME", "service_model_name"),
    ("SERVICE_MODEL_FRAMEWORK", "service_model_framework"),
    ("SERVICE_MODEL_FRAMEOWRK_VERSION", "service_model_framework_version"),  # the images write it so
    ("SERVICE_MODEL_VERSION", "service_model_version"),
    ("SERVICE_CONTAINER_VERSION", "service_container_version"),
    ("SERVICE_CONTAINER_NAME", "service_container_name"),
)
_NO_METRIC_NAME = re.compile(r"[^A-Za-z0-9_.\-/]")
_LONGEST_METRIC_NAME = 255
_MOST_METRICS = 1000

logger = logging.getLogger("ai4e")


def service_properties() -> Dict[str, str | None]:
    """What the variables of the image say of the service."""
    return {name: os.environ.get(variable) for variable, name in _SERVICE}


def connection_strings(key: str | None = None, endpoint: str | None = None) -> Tuple[str, ...]:
    """The resources to send to: of *key*, or else of the environment. *endpoint* is where a key's data go."""
    whole = os.environ.get("APPLICATIONINSIGHTS_CONNECTION_STRING", "").strip()
    named = [key] if key else [whole or os.environ.get(_KEYS[0], ""), os.environ.get(_KEYS[1], "")]
    endpoint = endpoint or os.environ.get("APPINSIGHTS_ENDPOINT_URI", "").strip()
    strings = [_connection_string(each.strip(), endpoint) for each in named if each.strip()]
    return tuple(dict.fromkeys(strings))


def _connection_string(key: str, endpoint: str) -> str:
    if "instrumentationkey=" in key.lower():
        return key
    return "InstrumentationKey=" + key + (";IngestionEndpoint=" + endpoint if endpoint else "")


class Telemetry:
    """The way to one or two resources. Make it by ``telemetry``."""

    def __init__(self, strings: Iterable[str]) -> None:
        from azure.monitor.opentelemetry.exporter import (
            AzureMonitorLogExporter,
            AzureMonitorMetricExporter,
            AzureMonitorTraceExporter,
        )
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        told = {name.replace("_", ".", 1): value for name, value in service_properties().items() if value}
        resource = Resource.create({"service.name": "ai4e", **told})
        rate = min(1.0, max(0.0, _number(os.environ.get("TRACE_SAMPLING_RATE"), 1.0)))
        self._logs = LoggerProvider(resource=resource)
        self._traces = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(rate)))
        readers: list[Any] = []
        for string in strings:
            self._logs.add_log_record_processor(
                BatchLogRecordProcessor(AzureMonitorLogExporter(connection_string=string))
            )
            self._traces.add_span_processor(BatchSpanProcessor(AzureMonitorTraceExporter(connection_string=string)))
            readers.append(PeriodicExportingMetricReader(AzureMonitorMetricExporter(connection_string=string)))
        self._metrics = MeterProvider(metric_readers=readers, resource=resource)
        self._meter = self._metrics.get_meter("ai4e")
        self._gauges: Dict[str, Tuple[float, float]] = {}
        interval_s = _number(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL"), 60000.0) / 1000
        self._current_s = 1.5 * interval_s  # each resource is sent a value once or twice
        self._is_full = False
        self._lock = threading.Lock()
        self.tracer = self._traces.get_tracer("ai4e")

    def attach(self, to: logging.Logger) -> None:
        """Send what *to* logs. Once, however often it is attached."""
        if not any(getattr(each, "ai4e_telemetry", None) is self for each in to.handlers):
            to.addHandler(_handler(self._logs, self))

    def gauge(self, name: str, value: float) -> None:
        """Report *value* with the next export, and no longer: it would hold up a maximum for ever. A process has up
        to 1,000 names: each costs memory for as long as the process runs, and a service may make names of what its
        callers send."""
        written = _NO_METRIC_NAME.sub("_", name).lstrip("0123456789_.-/")[:_LONGEST_METRIC_NAME] or "metric"
        with self._lock:
            is_new = written not in self._gauges
            is_refused = is_new and len(self._gauges) >= _MOST_METRICS
            is_told, self._is_full = self._is_full, self._is_full or is_refused
            if not is_refused:
                self._gauges[written] = (value, time.monotonic())
        if is_refused:
            if not is_told:
                logging.getLogger("ai4e").warning(
                    "There are %d metrics; this process sends no others.", _MOST_METRICS
                )
        elif is_new:
            self._meter.create_observable_gauge(written, [lambda _: self._observe(written)])

    def _observe(self, name: str) -> List[Any]:
        from opentelemetry.metrics import Observation

        value, told_s = self._gauges[name]
        return [Observation(value)] if time.monotonic() - told_s <= self._current_s else []

    def flush(self) -> None:
        for provider in (self._logs, self._traces, self._metrics):
            provider.force_flush()


def _number(text: str | None, default: float) -> float:
    try:
        return float(text or "")
    except ValueError:
        return default


_made: Dict[Tuple[str, ...], Telemetry | None] = {}
_making = threading.Lock()


def telemetry(key: str | None = None, endpoint: str | None = None) -> Telemetry | None:
    """The way to these resources, the same for the same ones; None if none is named, or none can be reached."""
    strings = connection_strings(key, endpoint)
    if not strings:
        return None
    with _making:
        if strings not in _made:
            try:
                _made[strings] = Telemetry(strings)
            except ImportError as error:
                logger.warning("telemetry is off: %s. Install what requirements-telemetry.txt names.", error)
                _made[strings] = None
            except ValueError as error:
                logger.warning("telemetry is off: %s", error)
                _made[strings] = None
        return _made[strings]


def without_trace(message: Any) -> Any:
    """*message*; of the trace of the error that is being handled, which goes along, its last line alone."""
    trace = "".join(traceback.format_exception(*sys.exc_info()))
    return trace.rstrip().rpartition("\n")[2] if message == trace else message


def _handler(provider: Any, owner: Telemetry) -> logging.Handler:
    """A handler that sends records, with what stands in their ``custom_dimensions`` as properties of their own."""
    try:
        made: Any = importlib.import_module("opentelemetry.sdk._logs").LoggingHandler
    except AttributeError:  # it has moved
        made = importlib.import_module("opentelemetry.instrumentation.logging.handler").LoggingHandler

    class Handler(made):
        ai4e_telemetry = owner

        def emit(self, record: logging.LogRecord) -> None:
            flat = copy.copy(record)
            dimensions = flat.__dict__.pop("custom_dimensions", None) or {}
            for name, value in dimensions.items():
                told = value if isinstance(value, (bool, int, float, str)) else str(value)
                if value is not None:
                    is_taken = name in flat.__dict__ or name in ("message", "asctime")
                    flat.__dict__[name + "_" if is_taken else name] = told
            super().emit(flat)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return Handler(level=logging.NOTSET, logger_provider=provider)
