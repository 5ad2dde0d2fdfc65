"""The operator's console: serves the page. What the page shows, it asks of the v1 API."""

import azure.functions as func

from operator_console import mounts, page
from shared.services import ServicesByLoop


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    page.register(app, services)
    mounts.register(app, services)
