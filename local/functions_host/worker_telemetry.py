"""What the Python worker sends to Application Insights by itself, before it loads the app."""

import logging
from collections.abc import MutableMapping

_log = logging.getLogger("local.functions_host")
_FLAG = "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY"


def configure_telemetry(environment: MutableMapping[str, str]) -> None:
    """Does for the setting `PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY` what the worker does: spans, metrics and the
    log lines of all libraries go to Application Insights. If that fails, the worker says so and goes on.
    """
    if environment.get(_FLAG, "").lower() not in ("true", "1"):
        return
    environment.setdefault("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "azure_functions")
    try:
        from azure.monitor.opentelemetry import configure_azure_monitor

        configure_azure_monitor(
            connection_string=environment.get("APPLICATIONINSIGHTS_CONNECTION_STRING"),
            logger_name=environment.get("PYTHON_APPLICATIONINSIGHTS_LOGGER_NAME", ""),
        )
    except Exception:
        _log.exception("Application Insights could not be configured")
