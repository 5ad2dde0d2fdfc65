"""A service of pictures, built as those of the AI for Earth images are: its results lie in blobs."""

import sys
import uuid
from io import BytesIO
from os import getenv

from ai4e_app_insights import AppInsights
from ai4e_app_insights_wrapper import AI4EAppInsights
from ai4e_service import APIService
from flask import Flask
from sas_blob import SasBlob

app = Flask(__name__)
appinsights = AppInsights(app)
log = AI4EAppInsights()

with app.app_context():
    ai4e_service = APIService(app, log)


def process_request_data(request):
    return {"image_bytes": BytesIO(request.data)}


@ai4e_service.api_async_func(
    api_path="/negative",
    methods=["POST"],
    request_processing_function=process_request_data,
    maximum_concurrent_requests=5,
    content_types=["image/x-raw", "application/octet-stream"],
    content_max_length=10000,
    trace_name="post:negative",
)
def negative(*args, **kwargs):
    taskId = kwargs.get("taskId")
    manager = ai4e_service.api_task_manager
    manager.UpdateTaskStatus(taskId, "running - negative")
    try:
        picture = bytes(255 - each for each in kwargs["image_bytes"].read())
        helper = SasBlob()
        sas_url = helper.create_writable_container_sas(
            getenv("STORAGE_ACCOUNT_NAME"), getenv("STORAGE_ACCOUNT_KEY"), uuid.uuid4().hex, 1
        )
        blob = helper.write_blob(sas_url, "out/negative.raw", BytesIO(picture))
        manager.CompleteTask(taskId, "completed - output written to: " + blob)
    except Exception:
        log.log_exception(sys.exc_info()[0], taskId)
        manager.FailTask(taskId, "failed: " + str(sys.exc_info()[0]))
