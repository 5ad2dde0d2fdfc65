"""The function app: composes settings, services and rooms, and settles what is loaded."""

import gc
import logging
import os

import azure.functions as func

import backend_webhook
import cache_manager
import operator_console
import request_reporter
import task_logger
from shared import telemetry
from shared.services import ServicesByLoop
from shared.settings import Settings
from shared.settings_warnings import warnings_of

settings = Settings.from_env(os.environ)
services = ServicesByLoop(settings)
telemetry.configure(settings, os.environ)
for warning in warnings_of(settings):
    logging.getLogger("task_backbone").warning(warning)

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
for room in (cache_manager, backend_webhook, request_reporter, operator_console, task_logger):
    room.register(app, services)
services.start()

# What is loaded by now stays. Otherwise each full collection would look through all of it while all requests wait.
gc.freeze()
# Requests in flight are made of fewer objects than this, so their number does not set off collections, which would
# find next to nothing.
gc.set_threshold(5_000)
