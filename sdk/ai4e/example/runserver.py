import os

from ai4e_app_insights_wrapper import AI4EAppInsights
from ai4e_service import APIService
from flask import Flask

app = Flask(__name__)
with app.app_context():
    ai4e_service = APIService(app, AI4EAppInsights())


def text_of(request):
    return {"text": request.get_data(as_text=True)}


@ai4e_service.api_async_func("/count", ["POST"], text_of, maximum_concurrent_requests=2, content_types=["text/plain"])
def count(*args, **kwargs):
    tasks = ai4e_service.api_task_manager
    tasks.UpdateTaskStatus(kwargs["taskId"], "running - counting")
    tasks.CompleteTask(kwargs["taskId"], f"completed - {len(kwargs['text'].split())} words")


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]))
