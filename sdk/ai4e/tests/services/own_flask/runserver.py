"""A service of 2019: it has an endpoint of its own, and only the task manager of the images."""

import os
import threading

from flask import Flask, request
from task_management.api_task import ApiTaskManager

app = Flask(__name__)
manager = ApiTaskManager(app, "/v1/own")


@app.route("/<path:anything>", methods=["POST"])
def begin(anything):
    task = manager.AddTask(request)
    threading.Thread(target=work, args=(task["TaskId"], request.get_data(as_text=True))).start()
    return "TaskId: " + str(task["TaskId"])


def work(taskId, text):
    manager.UpdateTaskStatus(taskId, "running")
    if text == "by text":
        manager.UpdateTaskStatus(taskId, "completed - by text")
    else:
        manager.CompleteTask(taskId, f"completed - {len(text.split())} words")


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), threaded=True)
