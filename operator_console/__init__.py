"""The operator's console: serves the page, and mounts the v1 API below it, by role."""

import azure.functions as func

from operator_console import me, mounts, page
from shared.services import ServicesByLoop


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    page.register(app, services)
    me.register(app, services)
    mounts.register(app, services)
