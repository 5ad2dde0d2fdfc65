"""Event Grid → backend: receives events and dispatches their tasks to the model services."""

import azure.functions as func

from backend_webhook import webhook
from shared.services import ServicesByLoop


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    webhook.register(app, services)
