"""Owns the task: the legacy connector, the v1 task and queue APIs, health, the reconciler."""

import azure.functions as func

from cache_manager import (
    audit_api,
    batch_api,
    bulk_api,
    callback_api,
    health,
    legacy_api,
    many_api,
    metrics_api,
    queue_api,
    reconciler,
    schedule_api,
    series_api,
    task_api,
    upload_api,
)
from shared.services import ServicesByLoop


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    for module in (
        legacy_api,
        task_api,
        batch_api,
        many_api,
        upload_api,
        queue_api,
        series_api,
        metrics_api,
        bulk_api,
        callback_api,
        audit_api,
        schedule_api,
        reconciler,
        health,
    ):
        module.register(app, services)
