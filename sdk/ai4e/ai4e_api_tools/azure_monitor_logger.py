"""``AzureMonitorLogger`` of the AI for Earth images: logs, spans and metrics for Application Insights."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import Any, Dict, Iterator

from ai4e_telemetry import connection_strings, service_properties, telemetry, without_trace

CONF_SERVICE_OWNER = "SERVICE_OWNER"
CONF_SERVICE_NAME = "SERVICE_NAME"
CONF_SERVICE_VERSION = "SERVICE_VERSION"
CONF_SERVICE_CLUSTER = "SERVICE_CLUSTER"
CONF_SERVICE_MODEL_NAME = "SERVICE_MODEL_NAME"
CONF_SERVICE_MODEL_FRAMEWORK = "SERVICE_MODEL_FRAMEWORK"
CONF_SERVICE_MODEL_FRAMEOWRK_VERSION = "SERVICE_MODEL_FRAMEOWRK_VERSION"
CONF_SERVICE_MODEL_VERSION = "SERVICE_MODEL_VERSION"
CONF_SERVICE_CONTAINER_VERSION = "SERVICE_CONTAINER_VERSION"
CONF_SERVICE_CONTAINER_NAME = "SERVICE_CONTAINER_NAME"


class AzureMonitorLogger:
    """Sends what *logger* logs, and the requests of *flask_app* as spans.

    ``tracer.span(name=…)`` is a context; ``tracer`` is None without a resource to send to.
    """

    def __init__(self, logger: logging.Logger, flask_app: Any = None) -> None:
        # Those that only the wrapper's context has are left out, as ever.
        told = service_properties()
        self._properties = {
            name: told[name] for name in told if name not in ("service_owner", "service_model_framework")
        }
        self.logger = logger
        self.metrics: Dict[str, float] = {}
        strings = connection_strings()
        self.appinsights_key = strings[0] if strings else None
        self.tracer: Tracer | None = None
        self._telemetry = telemetry()
        if self._telemetry is None:
            return
        self._telemetry.attach(self.logger)
        self.logger.setLevel(logging.INFO)
        self.tracer = Tracer(self._telemetry.tracer)
        if flask_app is not None:
            from ai4e_app_insights import trace_requests

            trace_requests(flask_app, self._telemetry)

    def _extra(self, taskId: str | None, additionalProperties: Dict[str, Any] | None) -> Dict[str, Any]:
        return {"custom_dimensions": {**self._properties, "task_id": taskId, **(additionalProperties or {})}}

    def log_debug(
        self, message: Any, taskId: str | None = None, additionalProperties: Dict[str, Any] | None = None
    ) -> None:
        self.logger.debug("%s", message, extra=self._extra(taskId, additionalProperties))

    def log_info(
        self, message: Any, taskId: str | None = None, additionalProperties: Dict[str, Any] | None = None
    ) -> None:
        self.logger.info("%s", message, extra=self._extra(taskId, additionalProperties))

    def log_warn(
        self, message: Any, taskId: str | None = None, additionalProperties: Dict[str, Any] | None = None
    ) -> None:
        self.logger.warning("%s", message, extra=self._extra(taskId, additionalProperties))

    def log_error(
        self, message: Any, taskId: str | None = None, additionalProperties: Dict[str, Any] | None = None
    ) -> None:
        self.logger.error("%s", message, extra=self._extra(taskId, additionalProperties))

    def log_exception(
        self, message: Any, taskId: str | None = None, additionalProperties: Dict[str, Any] | None = None
    ) -> None:
        self.logger.exception("%s", without_trace(message), extra=self._extra(taskId, additionalProperties))

    def track_metric(self, metric_name: str, metric_value: float) -> None:
        self.metrics[metric_name] = metric_value
        if self._telemetry is not None:
            self._telemetry.gauge(metric_name, metric_value)


class Tracer:
    """A tracer as services of the images know it."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer

    @contextmanager
    def span(self, name: str = "span") -> Iterator[Any]:
        with self._tracer.start_as_current_span(name) as span:
            yield span
