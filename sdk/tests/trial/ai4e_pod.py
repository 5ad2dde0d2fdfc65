"""A pod on the drop-in for legacy images, written as their services are."""

from __future__ import annotations

import os

from ai4e_app_insights_wrapper import AI4EAppInsights
from ai4e_service import APIService
from flask import Flask
from words import NoSuchWord, work

app = Flask(__name__)
log = AI4EAppInsights()

with app.app_context():
    ai4e_service = APIService(app, log)


def process_request_data(request):
    return {"body": request.get_data(), "seconds": float(request.args.get("seconds", "0"))}


@ai4e_service.api_async_func(
    api_path="/model",
    methods=["POST"],
    request_processing_function=process_request_data,
    maximum_concurrent_requests=2,
)
def model(*args, **kwargs):
    task_id = kwargs["taskId"]
    ai4e_service.api_task_manager.UpdateTaskStatus(task_id, "running model")
    try:
        digest = work(kwargs["body"], kwargs["seconds"])[:64].decode()
        ai4e_service.api_task_manager.CompleteTask(task_id, f"completed - {digest}")
    except NoSuchWord as error:
        ai4e_service.api_task_manager.FailTask(task_id, f"failed - {error}")


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), threaded=True)
