"""``AI4EAppInsights`` of the AI for Earth images: logs and metrics for Application Insights, and the console."""

from __future__ import annotations

import logging
import sys
from typing import Any, Dict

from ai4e_telemetry import connection_strings, telemetry, without_trace

APPINSIGHTS_INSTRUMENTATIONKEY = "APPINSIGHTS_INSTRUMENTATIONKEY"


class AI4EAppInsights:
    """Logs what a service says of its tasks. Without a resource, warnings and worse go to the console."""

    def __init__(self) -> None:
        self.metrics: Dict[str, float] = {}
        self.logger = logging.getLogger(__name__)
        strings = connection_strings()
        self.appinsights_key = strings[0] if strings else None
        self._telemetry = telemetry()
        if self._telemetry is not None:
            self._telemetry.attach(self.logger)
            self.logger.setLevel(logging.DEBUG)

    def _log(self, message: Any, sev: int, taskId: str | None, additionalProperties: Dict[str, Any] | None) -> None:
        properties = dict(additionalProperties or {})
        if taskId:
            properties["task_id"] = taskId
        # An error that is being handled goes along.
        error = sev >= logging.CRITICAL and sys.exc_info()[0] is not None
        told = without_trace(message) if error else message
        self.logger.log(sev, "%s", told, extra={"custom_dimensions": properties}, exc_info=error)

    def log_debug(
        self, message: Any, taskId: str | None = None, additionalProperties: Dict[str, Any] | None = None
    ) -> None:
        self._log(message, logging.DEBUG, taskId, additionalProperties)

    def log_info(
        self, message: Any, taskId: str | None = None, additionalProperties: Dict[str, Any] | None = None
    ) -> None:
        self._log(message, logging.INFO, taskId, additionalProperties)

    def log_warn(
        self, message: Any, taskId: str | None = None, additionalProperties: Dict[str, Any] | None = None
    ) -> None:
        self._log(message, logging.WARNING, taskId, additionalProperties)

    def log_error(
        self, message: Any, taskId: str | None = None, additionalProperties: Dict[str, Any] | None = None
    ) -> None:
        self._log(message, logging.ERROR, taskId, additionalProperties)

    def log_exception(
        self, message: Any, taskId: str | None = None, additionalProperties: Dict[str, Any] | None = None
    ) -> None:
        self._log(message, logging.CRITICAL, taskId, additionalProperties)

    def track_metric(self, metric_name: str, metric_value: float) -> None:
        self.metrics[metric_name] = metric_value
        if self._telemetry is not None:
            self._telemetry.gauge(metric_name, metric_value)
