"""A service of words, built as those of the AI for Earth images are: one asynchronous function after the other."""

import ctypes
import json
import os
import time
from pathlib import Path

from ai4e_app_insights_wrapper import AI4EAppInsights
from ai4e_service import APIService
from flask import Flask

app = Flask(__name__)
log = AI4EAppInsights()

with app.app_context():
    ai4e_service = APIService(app, log)


def process_request_data(request):
    values = {"data": None}
    try:
        values["data"] = request.get_json()
    except Exception:
        log.log_error("Unable to load the request data")
    return values


def mark(data, word):
    """Tells the test, in a file of its own, how far the function has come."""
    if data.get("marks"):
        with Path(data["marks"], f"{word}-{os.getpid()}").open("a") as file:
            file.write("x")


def wait_for(data, name):
    while not Path(data["marks"], name).exists():
        time.sleep(0.01)


@ai4e_service.api_async_func(
    api_path="/words",
    methods=["POST"],
    request_processing_function=process_request_data,
    maximum_concurrent_requests=2,
    content_types=["application/json"],
    content_max_length=100000,
    trace_name="post:words",
)
def words(*args, **kwargs):
    taskId = kwargs.get("taskId")
    data = kwargs.get("data")
    if not data:
        ai4e_service.api_task_manager.FailTask(taskId, "Task failed - Body was empty or could not be parsed.")
        return
    ai4e_service.api_task_manager.UpdateTaskStatus(taskId, "running model")
    mark(data, "began")
    if "until" in data:
        wait_for(data, data["until"])
    time.sleep(data.get("seconds", 0))
    if "keeps" in data and not Path(data["marks"], "kept").exists():
        Path(data["marks"], "kept").touch()
        ctypes.PyDLL(None).sleep(data["keeps"])  # as a library in C that does not let go of the interpreter
    if "error" in data:
        raise ValueError(data["error"])
    ended = ai4e_service.api_task_manager.CompleteTask(
        taskId, "completed - {} words".format(len(data["text"].split()))
    )
    if data.get("marks"):
        Path(data["marks"], "ended").write_text(json.dumps(ended))
    mark(data, "returned")


@ai4e_service.api_async_func(api_path="/by_text", methods=["POST"])
def by_text(*args, **kwargs):
    """Reads the request itself, and ends its task as many services do: by the text alone."""
    manager = ai4e_service.api_task_manager
    manager.UpdateTaskStatus(kwargs["taskId"], "counting")
    if kwargs["request"].get_json()["text"]:
        manager.UpdateTaskStatus(kwargs["taskId"], "completed - see https://example.org/result")
    else:
        manager.UpdateTaskStatus(kwargs["taskId"], "failed: no text")


@ai4e_service.api_async_func(
    api_path="/split",
    methods=["POST"],
    request_processing_function=process_request_data,
    maximum_concurrent_requests=2,
)
def split(*args, **kwargs):
    """The first step of a pipeline."""
    manager = ai4e_service.api_task_manager
    taskId, data = kwargs["taskId"], kwargs["data"]
    manager.UpdateTaskStatus(taskId, "splitting")
    version, organization, api = data["next"].strip("/").split("/", 2)
    manager.AddPipelineTask(taskId, organization, version, api, json.dumps({"text": "a b c"}))
    manager.UpdateTaskStatus(taskId, "this step is over")


@ai4e_service.api_sync_func(
    api_path="/echo/<string:text>", methods=["GET"], maximum_concurrent_requests=1, trace_name="get:echo"
)
def echo(*args, **kwargs):
    return "Echo: " + kwargs["text"]


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), threaded=True)
