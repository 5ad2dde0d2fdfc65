"""The function app: registers the rooms' blueprints, and settles what is loaded."""

import gc

import azure.functions as func

import backend_webhook
import cache_manager
import request_reporter
import task_logger

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
for room in (cache_manager, backend_webhook, request_reporter, task_logger):
    for blueprint in room.blueprints:
        app.register_functions(blueprint)

# What is loaded by now stays. Else each full collection would look through all of it again, and all requests wait.
gc.freeze()
# More than requests in flight are made of, so that it is not their number that sets off collections: they leave next
# to nothing to be collected.
gc.set_threshold(5_000)
