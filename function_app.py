"""The function app: registers the rooms' blueprints, nothing else."""

import azure.functions as func

import backend_webhook
import cache_manager
import request_reporter
import task_logger

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
for room in (cache_manager, backend_webhook, request_reporter, task_logger):
    for blueprint in room.blueprints:
        app.register_functions(blueprint)
