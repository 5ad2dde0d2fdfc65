"""``AppInsights`` of the AI for Earth images: a Flask extension that tells Application Insights of requests, logs and
exceptions."""

from __future__ import annotations

import logging
from typing import Any

from ai4e_app_insights_context import AI4ETelemetryContext
from ai4e_telemetry import Telemetry, telemetry
from flask import g, request

CONF_PREFIX = "APPINSIGHTS"
APPINSIGHTS_INSTRUMENTATIONKEY = CONF_PREFIX + "_INSTRUMENTATIONKEY"
CONF_ENDPOINT_URI = CONF_PREFIX + "_ENDPOINT_URI"
CONF_DISABLE_REQUEST_LOGGING = CONF_PREFIX + "_DISABLE_REQUEST_LOGGING"
CONF_DISABLE_TRACE_LOGGING = CONF_PREFIX + "_DISABLE_TRACE_LOGGING"
CONF_DISABLE_EXCEPTION_LOGGING = CONF_PREFIX + "_DISABLE_EXCEPTION_LOGGING"


class AppInsights:
    """The extension. The app's configuration may have ``APPINSIGHTS_INSTRUMENTATIONKEY`` and
    ``APPINSIGHTS_ENDPOINT_URI`` in place of the environment, and turn off parts by
    ``APPINSIGHTS_DISABLE_REQUEST_LOGGING``, ``APPINSIGHTS_DISABLE_TRACE_LOGGING`` and
    ``APPINSIGHTS_DISABLE_EXCEPTION_LOGGING``."""

    def __init__(self, app: Any = None, context: Any = None) -> None:
        self._telemetry: Telemetry | None = None
        if app is not None:
            self.init_app(app, context)

    def init_app(self, app: Any, context: Any = None) -> None:
        self._context = context or AI4ETelemetryContext()
        key = str(app.config.get(APPINSIGHTS_INSTRUMENTATIONKEY) or "").strip() or None
        self._telemetry = telemetry(key, app.config.get(CONF_ENDPOINT_URI))
        if self._telemetry is None:
            return
        if not app.config.get(CONF_DISABLE_REQUEST_LOGGING, False):
            tells_errors = not app.config.get(CONF_DISABLE_EXCEPTION_LOGGING, False)
            trace_requests(app, self._telemetry, tells_errors=tells_errors)
        if not app.config.get(CONF_DISABLE_TRACE_LOGGING, False):
            self._telemetry.attach(app.logger)
            app.logger.setLevel(min(app.logger.level or logging.INFO, logging.INFO))

    def flush(self) -> None:
        """Send what has not been sent yet."""
        if self._telemetry is not None:
            self._telemetry.flush()


def trace_requests(app: Any, to: Telemetry, *, tells_errors: bool = True) -> None:
    """Makes a span of each request of a Flask app, in the trace of its caller."""
    from opentelemetry.context import attach, detach
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

    def begin() -> None:
        route = request.url_rule.rule if request.url_rule is not None else request.path
        attributes = {"http.method": request.method, "http.url": request.base_url, "http.route": route}
        if "taskId" in request.headers:
            attributes["task.id"] = request.headers["taskId"]
        context = extract({name.lower(): value for name, value in request.headers.items()})
        name = f"{request.method} {route}"
        g.ai4e_span = to.tracer.start_span(name, context=context, kind=SpanKind.SERVER, attributes=attributes)
        g.ai4e_context = attach(set_span_in_context(g.ai4e_span))

    def answered(response: Any) -> Any:
        if "ai4e_span" in g:
            g.ai4e_span.set_attribute("http.status_code", response.status_code)
            if response.status_code >= 500:
                g.ai4e_span.set_status(Status(StatusCode.ERROR))
        return response

    def end(exception: BaseException | None) -> None:
        span = g.pop("ai4e_span", None)
        if span is not None:
            detach(g.pop("ai4e_context"))
            if exception is not None and tells_errors:
                span.record_exception(exception)
                span.set_status(Status(StatusCode.ERROR))
            span.end()

    app.before_request(begin)
    app.after_request(answered)
    app.teardown_request(end)
