"""Requests in flight at the model services, as these report them."""

import azure.functions as func

from request_reporter import api, counts_api
from shared.services import ServicesByLoop


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    api.register(app, services)
    counts_api.register(app, services)
