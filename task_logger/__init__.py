"""The two metric timers: queue depths for Application Insights."""

import azure.functions as func

from shared.services import ServicesByLoop
from task_logger import timers


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    timers.register(app, services)
