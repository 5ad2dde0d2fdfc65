"""Where telemetry and log lines go: the exporter to Application Insights, and how much libraries may log."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider

from shared.settings import Settings

log = logging.getLogger("task_backbone")

ROLE = "task-backbone"
"""The app's name on the application map, where the platform gives it none."""

current_task: ContextVar[str | None] = ContextVar("current_task", default=None)
"""The id of the task that is being handled."""


def configure(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Send telemetry to Application Insights, if the settings say where that is and nobody sends it yet.

    Returns:
        Whether telemetry is sent.
    """
    library_level = logging.DEBUG if settings.python_enable_debug_logging else logging.WARNING
    log.setLevel(logging.INFO)
    # The worker sets the root logger to INFO. The Azure SDK then logs two long records for each call, and the
    # exporter's own calls are among them: each export would bring the next one.
    logging.root.setLevel(max(logging.root.level, library_level))
    if _is_configured():
        log.info("OpenTelemetry was configured before the app started, which adds its telemetry to that")
        _add_events_to_the_existing_logs()
    elif settings.applicationinsights_connection_string is not None:
        _configure_azure_monitor(settings.applicationinsights_connection_string.get_secret_value(), environ)
    else:
        return False
    for handler in _exporting_handlers():
        handler.addFilter(_ExportFilter(library_level))
    return True


def _is_configured() -> bool:
    """Whether anybody has configured OpenTelemetry: for spans, or only for metrics or logs."""
    has_tracers = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    # The stand-ins for providers that are not there cannot be flushed.
    others = metrics.get_meter_provider(), get_logger_provider()
    return has_tracers or any(hasattr(provider, "force_flush") for provider in others)


def _configure_azure_monitor(connection_string: str, environ: Mapping[str, str]) -> None:
    from azure.monitor.opentelemetry import (
        configure_azure_monitor,  # pyright: ignore[reportUnknownVariableType]
    )
    from opentelemetry.sdk.resources import Resource

    options: dict[str, Any] = {
        # The Functions host itself reports these.
        "enable_live_metrics": False,
        "enable_performance_counters": False,
        "storage_directory": str(_spool(connection_string)),
        # What it is given goes before what the environment says.
        "resource": Resource(
            {} if _has_role(environ) else {"service.name": environ.get("WEBSITE_SITE_NAME") or ROLE}
        ),
    }
    # On the root logger, by default: a library tells there of a failure that nobody else sees.
    configure_azure_monitor(connection_string=connection_string, **options)


def _has_role(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("OTEL_SERVICE_NAME")) or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")


def _spool(connection_string: str) -> Path:
    """The directory for telemetry that could not be sent. Each user and resource has its own. The exporter's default
    path has the instrumentation key in it, and the exporter logs the path if a file there has just gone."""
    whose = hashlib.sha256(f"{connection_string} {Path.home()}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"task-backbone-telemetry-{whose}"


def _add_events_to_the_existing_logs() -> None:
    """Custom events are log records. The existing configuration may export the records of other loggers only."""
    provider = get_logger_provider()
    if not hasattr(provider, "force_flush") or any(_exporting_handlers()):
        return
    from opentelemetry.instrumentation.logging.handler import (  # pyright: ignore[reportMissingTypeStubs]
        LoggingHandler,
    )

    log.addHandler(LoggingHandler(logger_provider=provider))


def _exporting_handlers() -> Iterator[logging.Handler]:
    """The handlers that export the records of the app's logger."""
    for logger in (log, logging.root):
        for handler in logger.handlers:
            if type(handler).__module__.startswith("opentelemetry."):
                yield handler


class _ExportFilter(logging.Filter):
    """Lets the app's records pass, and those of libraries from *level* on, but none that an export itself makes: they
    would be exported too, and make more. The worker's own logger has a level of its own, so levels do not suffice.

    What names no task, and was logged while one was handled, gets that one's id.
    """

    def __init__(self, level: int) -> None:
        from opentelemetry.instrumentation.utils import is_instrumentation_enabled

        super().__init__()
        self._level = level
        # The SDK switches instrumentation off for the time of an export.
        self._is_outside_an_export = is_instrumentation_enabled

    def filter(self, record: logging.LogRecord) -> bool:
        if (task_id := current_task.get()) is not None:
            record.__dict__.setdefault("task.id", task_id)
        is_wanted = record.levelno >= self._level or record.name == log.name
        return is_wanted and self._is_outside_an_export()
