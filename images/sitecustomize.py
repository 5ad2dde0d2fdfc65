"""Telemetry of a service, in each Python process of its image: supervisor, workers, sidecar.

Python imports this module at its start. `APPLICATIONINSIGHTS_CONNECTION_STRING` sends traces and logs to Application
Insights, `OTEL_EXPORTER_OTLP_ENDPOINT` to a collector, by OTLP over HTTP. Without them nothing is loaded. The other
variables of OpenTelemetry hold as well, such as `OTEL_SERVICE_NAME` and `OTEL_TRACES_SAMPLER`.
"""

import logging
import os


def send_to_application_insights() -> None:
    from azure.monitor.opentelemetry import configure_azure_monitor

    # What the backbone has decided holds: its traces are sampled or not as a whole. Without this, Microsoft's own
    # sampler takes some spans of a trace and leaves others.
    os.environ.setdefault("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    # The log, and the spans of the SDK and of the model; none for the calls of libraries.
    others = ("azure_sdk", "django", "fastapi", "flask", "psycopg2", "requests", "urllib", "urllib3")
    off = {name: {"enabled": False} for name in others}
    configure_azure_monitor(
        disable_metrics=True,
        disable_offline_storage=True,
        enable_live_metrics=False,
        enable_performance_counters=False,
        instrumentation_options=off,
    )


def send_to_collector() -> None:
    from opentelemetry import trace
    from opentelemetry._logs import set_logger_provider
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(tracer_provider)
    logger_provider = LoggerProvider()
    logger_provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    set_logger_provider(logger_provider)
    logging.getLogger().addHandler(LoggingHandler(logger_provider=logger_provider))


if os.environ.get("APPLICATIONINSIGHTS_CONNECTION_STRING"):
    send_to_application_insights()
elif os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
    send_to_collector()
