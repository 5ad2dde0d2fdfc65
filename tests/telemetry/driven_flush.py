"""Exports what waits, as the exporters do at their times. The programs that stand for a worker import it."""

from __future__ import annotations

import threading

from opentelemetry import _logs, metrics, trace

_PATIENCE_S = 30


def flush(*, with_metrics: bool) -> bool:
    """Export the spans and log records, and the metrics too if told so.

    Returns:
        Whether that came to an end. It never does if each export leaves something for the next.
    """
    providers = [trace.get_tracer_provider(), _logs.get_logger_provider()]
    if with_metrics:
        providers.append(metrics.get_meter_provider())
    for provider in providers:
        if force_flush := getattr(provider, "force_flush", None):
            flushing = threading.Thread(target=force_flush, daemon=True)
            flushing.start()
            flushing.join(_PATIENCE_S)
            if flushing.is_alive():
                return False
    return True
